"""Masks of any kind, drawn: an area and its outlines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from maskrcnn.ops.paste import paste_masks
from maskrcnn.structures.masks import Masks
from maskrcnn.structures.rle import RLE, decode_cut
from maskrcnn.visualization.canvas import Colour, as_array

Masklike = np.ndarray | Tensor | Masks | Sequence[RLE] | None


@dataclass(frozen=True, slots=True)
class Cutout:
    """A mask cut to where it is: bool (h, w) with its upper left corner at (x, y) of the picture."""

    x: int
    y: int
    mask: np.ndarray


def cutouts_of(masks: Masklike, boxes: np.ndarray, size: tuple[int, int], scale: float) -> list[Cutout]:
    """Masks of any kind, scaled. One at a time: dense masks of all instances of a large image would be gigabytes."""
    if isinstance(masks, (np.ndarray, Tensor)):
        if masks.dtype in (np.bool_, torch.bool):
            if tuple(masks.shape[1:]) != size:
                raise ValueError(f"bool masks have the image's size {size}, not {tuple(masks.shape[1:])}")
            return [_cut_bitmap(as_array(mask), scale) for mask in masks]
        picture_size = (round(size[0] * scale), round(size[1] * scale))
        soft = torch.as_tensor(masks).float().cpu()
        return [_cut_soft(mask, box, picture_size) for mask, box in zip(soft, boxes, strict=True)]
    assert masks is not None
    rles = masks if isinstance(masks, Sequence) else masks.to_rle(size)
    return [_scaled_cutout(*decode_cut(rle), scale) for rle in rles]


def _cut_bitmap(bitmap: np.ndarray, scale: float) -> Cutout:
    ys, xs = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
    if not len(ys):
        return Cutout(0, 0, np.zeros((0, 0), bool))
    return _scaled_cutout(bitmap[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1], (xs[0], ys[0]), scale)


def _scaled_cutout(crop: np.ndarray, corner: tuple[int, int], scale: float) -> Cutout:
    if scale != 1 and crop.size:  # interpolated, so that a small image's mask does not become steps
        h, w = (max(1, round(n * scale)) for n in crop.shape)
        method = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
        crop = cv2.resize(crop.astype(np.float32), (w, h), interpolation=method) >= 0.5
    return Cutout(round(corner[0] * scale), round(corner[1] * scale), crop)


def _cut_soft(mask: Tensor, box: np.ndarray, size: tuple[int, int]) -> Cutout:
    if not np.isfinite(box).all():
        return Cutout(0, 0, np.zeros((0, 0), bool))
    x1, y1 = (max(0, math.floor(v)) for v in box[:2])
    x2, y2 = (min(side, math.ceil(v)) for v, side in zip(box[2:], (size[1], size[0]), strict=True))
    if x2 <= x1 or y2 <= y1:
        return Cutout(0, 0, np.zeros((0, 0), bool))
    moved = torch.tensor(box - (x1, y1, x1, y1), dtype=torch.float32)
    return Cutout(x1, y1, paste_masks(mask[None], moved[None], (y2 - y1, x2 - x1))[0].numpy())


def draw_mask(
    canvas: np.ndarray, cutout: Cutout, colour: Colour, opacity: float, width: int, *, hatched: bool = False
) -> None:
    """Blend a mask's area with its colour, all of it or in slanting stripes, and draw its outlines, also of holes."""
    h, w = cutout.mask.shape
    region = canvas[cutout.y : cutout.y + h, cutout.x : cutout.x + w]
    mask = cutout.mask[: region.shape[0], : region.shape[1]]  # rounding may have put it one pixel beyond the border
    if not mask.any():
        return
    area = mask & _stripes(mask.shape, cutout.x + cutout.y, 4 * width + 4) if hatched else mask
    region[area] = (region[area] * (1 - opacity) + np.array(colour) * opacity).round().astype(np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    moved = [line + np.array([cutout.x, cutout.y], np.int32) for line in outlines]
    cv2.polylines(canvas, moved, True, colour, width, cv2.LINE_AA)


def _stripes(size: tuple[int, ...], start: int, period: int) -> np.ndarray:
    """bool (h, w): every second band of half a period, from the lower left to the upper right."""
    y, x = np.ogrid[: size[0], : size[1]]
    stripes: np.ndarray = (x + y + start) % period < period // 2
    return stripes
