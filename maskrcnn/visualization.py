"""Pictures: instances drawn on an image, and several pictures on one sheet. OpenCV and numpy draw everything.

Images are uint8 (H, W, 3) RGB; every function returns a new one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from maskrcnn.ops.paste import paste_masks
from maskrcnn.structures.instances import Detections, Instances
from maskrcnn.structures.masks import Masks
from maskrcnn.structures.rle import RLE, decode_counts

Colour = tuple[int, int, int]
Masklike = np.ndarray | Tensor | Masks | Sequence[RLE] | None

FONT = cv2.FONT_HERSHEY_SIMPLEX
INK, PAPER = (33, 33, 33), (255, 255, 255)
# COCO's skeleton, by index of the 17 keypoints: head, shoulders, arms, trunk, legs.
SKELETON = (
    *((0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6), (1, 2), (5, 6), (5, 7), (7, 9)),
    *((6, 8), (8, 10), (5, 11), (6, 12), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16)),
)
LEFT, RIGHT, MIDDLE = (64, 200, 90), (255, 140, 40), (60, 170, 255)  # limbs of the left and the right side


@cache
def colour_of(number: int) -> Colour:
    """A fixed, saturated colour for each class (or instance), far from those of the numbers near it.

    Hues step by the golden angle, so that neighbours are never alike; lightness cycles through three steps of OKLCH,
    in which equal steps look equal, so that no class disappears beside another.
    """
    hue = math.radians((25 + number * 137.508) % 360)
    lightness = (0.70, 0.58, 0.82)[number % 3]
    a, b = 0.19 * math.cos(hue), 0.19 * math.sin(hue)
    lms = np.array([[1, 0.3963, 0.2158], [1, -0.1056, -0.0639], [1, -0.0895, -1.2915]]) @ (lightness, a, b)
    linear = np.array([[4.0767, -3.3077, 0.2310], [-1.2684, 2.6098, -0.3413], [-0.0042, -0.7034, 1.7076]]) @ lms**3
    linear = linear.clip(0, 1)
    rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = (int(round(255 * v)) for v in rgb)
    return red, green, blue


def draw_instances(
    image: np.ndarray,
    boxes: np.ndarray | Tensor,
    labels: np.ndarray | Tensor | Sequence[int],
    *,
    scores: np.ndarray | Tensor | Sequence[float] | None = None,
    masks: Masklike = None,
    keypoints: np.ndarray | Tensor | None = None,
    crowd: np.ndarray | Sequence[bool] | None = None,
    class_names: Sequence[str] | None = None,
    color_by: str = "class",
    opacity: float = 0.45,
    line_width: int | None = None,
    show_labels: bool = True,
    mask_only: bool = False,
    keypoint_threshold: float = 0.0,
    scale: float = 1.0,
) -> np.ndarray:
    """Draw instances on an image: masks with their outlines, boxes, names with scores, keypoints with a skeleton.

    Args:
        image: uint8 (H, W, 3) RGB.
        boxes: (D, 4) XYXY in pixels of `image`; D may be 0.
        labels: (D,), which also pick the colours.
        scores: (D,) probabilities, written as percentages.
        masks: bool (D, H, W); or D COCO RLEs; or the masks of `Instances`; or float (D, m, m), probabilities that fill
            the boxes.
        keypoints: (D, 17, 3): x, y and visibility or score; those above `keypoint_threshold` are drawn.
        crowd: (D,) bool: regions of many objects, drawn fainter and named as such.
        class_names: by label; without them the label itself is written.
        color_by: "class" or "instance".
        opacity: of the masks' areas, 0 (outlines only) to 1.
        line_width: in pixels of the result; None fits it to the result's size.
        show_labels: write names and scores.
        mask_only: draw masks alone, without boxes, names and keypoints.
        scale: the result is this many times as large as `image`; small images want more than 1 for their text.

    Returns:
        uint8 (H * scale, W * scale, 3).

    Raises:
        ValueError: the image is not uint8 (H, W, 3), the lengths differ, or an option is out of its range.
    """
    check_image(image)
    boxes = _array(boxes).astype(np.float64).reshape(-1, 4) * scale
    labels = _array(labels).astype(np.int64).reshape(-1)
    count = len(boxes)
    for name, values in {
        "labels": labels,
        "scores": scores,
        "masks": masks,
        "keypoints": keypoints,
        "crowd": crowd,
    }.items():
        if values is not None and len(values) != count:
            raise ValueError(f"there are {count} boxes, but {len(values)} {name}")
    if color_by not in ("class", "instance"):
        raise ValueError(f"color_by is {color_by!r}; choose 'class' or 'instance'")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity is {opacity}; it goes from 0 to 1")
    if line_width is not None and line_width < 1:
        raise ValueError(f"line_width is {line_width}; it is a number of pixels, at least 1")
    canvas = _scaled(image, scale)
    width = line_width or max(1, round(min(canvas.shape[:2]) / 350))
    colours = [colour_of(int(n)) for n in (labels if color_by == "class" else range(count))]
    crowds = np.zeros(count, bool) if crowd is None else _array(crowd).astype(bool)
    areas = np.nan_to_num(_areas(boxes))
    large_first = np.argsort(-areas, kind="stable")  # so that small objects end up on top
    if masks is not None:
        cutouts = _cutouts(masks, boxes, image.shape[:2], scale)
        for i in large_first:
            _draw_mask(canvas, cutouts[i], colours[i], opacity * (0.5 if crowds[i] else 1.0), width)
    if mask_only:
        return canvas
    for i in large_first:
        _draw_box(canvas, boxes[i], colours[i], width)
    if keypoints is not None:
        points = _array(keypoints).astype(np.float64) * (scale, scale, 1.0)
        for i in large_first:
            thin = int(np.clip(math.sqrt(areas[i]) / 40, 1, width + 1))  # a small figure would vanish under its joints
            _draw_keypoints(canvas, points[i], keypoint_threshold, thin)
    if show_labels:
        texts = _texts(labels, None if scores is None else _array(scores), crowds, class_names)
        _draw_tags(canvas, boxes, texts, colours)
    return canvas


def draw_detections(
    image: np.ndarray,
    detections: Detections,
    class_names: Sequence[str] | None = None,
    *,
    score_threshold: float = 0.0,
    **style: Any,
) -> np.ndarray:
    """Draw a model's detections of at least `score_threshold`; `style` goes to `draw_instances`."""
    shown = detections.to("cpu")[detections.scores.cpu() >= score_threshold]
    return draw_instances(
        image,
        shown.boxes,
        shown.labels,
        scores=shown.scores,
        masks=shown.masks,
        keypoints=shown.keypoints,
        class_names=class_names,
        **style,
    )


def draw_targets(
    image: np.ndarray, targets: Instances, class_names: Sequence[str] | None = None, **style: Any
) -> np.ndarray:
    """Draw ground truth; `style` goes to `draw_instances`."""
    return draw_instances(
        image,
        targets.boxes,
        targets.labels,
        masks=targets.masks,
        keypoints=targets.keypoints,
        class_names=class_names,
        **style,
    )


def sheet(
    pictures: Sequence[np.ndarray],
    *,
    titles: Sequence[str] | None = None,
    columns: int = 4,
    cell: tuple[int, int] = (360, 480),
    heading: str = "",
) -> np.ndarray:
    """Several pictures on one white sheet, row by row, each fitted into its cell and under its title.

    Args:
        pictures: any sizes; none at all gives an empty sheet.
        titles: one for each picture, shortened where it is too long.
        columns: cells in a row.
        cell: (h, w) of the room for one picture.
        heading: over the whole sheet.

    Raises:
        ValueError: not as many titles as pictures, or no column.
    """
    if titles is not None and len(titles) != len(pictures):
        raise ValueError(f"there are {len(pictures)} pictures, but {len(titles)} titles")
    if columns < 1:
        raise ValueError(f"columns is {columns}; a sheet has at least one")
    gap, bar, top = 12, 30 if titles else 0, 44 if heading else 0
    columns = min(columns, max(len(pictures), 1))
    rows = max(math.ceil(len(pictures) / columns), 1)
    pitch_y, pitch_x = cell[0] + bar + gap, cell[1] + gap
    page = np.full((gap + top + rows * pitch_y, gap + columns * pitch_x, 3), 255, np.uint8)
    if heading:
        _write(page, heading, (gap + 2, gap + top - 18), 17, INK, page.shape[1] - 2 * gap)
    for i, picture in enumerate(pictures):
        y, x = gap + top + i // columns * pitch_y, gap + i % columns * pitch_x
        if titles:
            _write(page, titles[i], (x + 2, y + bar - 9), 12, INK, cell[1] - 4)
        fitted = _scaled(picture, fit(picture.shape[:2], cell))[: cell[0], : cell[1]]
        y, x = y + bar + (cell[0] - fitted.shape[0]) // 2, x + (cell[1] - fitted.shape[1]) // 2
        page[y : y + fitted.shape[0], x : x + fitted.shape[1]] = fitted
    return page


def fit(size: tuple[int, int], cell: tuple[int, int]) -> float:
    """The scale at which a picture of this (h, w) just fits into the cell."""
    return min(cell[0] / size[0], cell[1] / size[1])


def save_picture(path: Path, image: np.ndarray) -> None:
    """Write an RGB image in the format of the file's suffix; the file is whole or not there.

    Raises:
        ValueError: no picture format has this suffix.
    """
    if not path.suffix or not cv2.haveImageWriter(path.name):
        raise ValueError(f"{path}: no picture format has the suffix {path.suffix!r}; use .jpg or .png")
    options = [cv2.IMWRITE_JPEG_QUALITY, 93] if path.suffix.lower() in (".jpg", ".jpeg") else []
    _, data = cv2.imencode(path.suffix, np.ascontiguousarray(image[:, :, ::-1]), options)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data.tobytes())  # not cv2.imwrite, which fails on some systems where a path is not ASCII
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def check_image(image: np.ndarray) -> None:
    """Raises ValueError unless the image is a numpy array, uint8 (H, W, 3), with at least one pixel."""
    if not isinstance(image, np.ndarray):
        raise ValueError(f"an image is a numpy array, not a {type(image).__name__}")
    if image.dtype != np.uint8:
        raise ValueError(f"an image is uint8, 0 to 255, not {image.dtype}")
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"an image has the shape (height, width, 3) in RGB order, not {image.shape}")


@dataclass(frozen=True, slots=True)
class Cutout:
    """A mask cut to where it is: bool (h, w) with its upper left corner at (x, y) of the picture."""

    x: int
    y: int
    mask: np.ndarray


def _cutouts(masks: Masklike, boxes: np.ndarray, size: tuple[int, int], scale: float) -> list[Cutout]:
    """Masks of any kind, scaled. One at a time: dense masks of all instances of a large image would be gigabytes."""
    if isinstance(masks, (np.ndarray, Tensor)):
        if masks.dtype in (np.bool_, torch.bool):
            if tuple(masks.shape[1:]) != size:
                raise ValueError(f"bool masks have the image's size {size}, not {tuple(masks.shape[1:])}")
            return [_cut_bitmap(_array(mask), scale) for mask in masks]
        picture_size = (round(size[0] * scale), round(size[1] * scale))
        soft = torch.as_tensor(masks).float().cpu()
        return [_cut_soft(mask, box, picture_size) for mask, box in zip(soft, boxes, strict=True)]
    assert masks is not None
    rles = masks if isinstance(masks, Sequence) else masks.to_rle(size)
    return [_cut_bitmap(_decode(rle), scale) for rle in rles]


def _decode(rle: RLE) -> np.ndarray:
    """bool (H, W)."""
    runs, _ = decode_counts([rle])
    height, width = rle["size"]
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T  # runs go down the columns


def _cut_bitmap(bitmap: np.ndarray, scale: float) -> Cutout:
    ys, xs = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
    if not len(ys):
        return Cutout(0, 0, np.zeros((0, 0), bool))
    crop = bitmap[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
    if scale != 1:  # interpolated, so that a small image's mask does not become steps
        h, w = (max(1, round(n * scale)) for n in crop.shape)
        method = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
        crop = cv2.resize(crop.astype(np.float32), (w, h), interpolation=method) >= 0.5
    return Cutout(round(xs[0] * scale), round(ys[0] * scale), crop)


def _cut_soft(mask: Tensor, box: np.ndarray, size: tuple[int, int]) -> Cutout:
    if not np.isfinite(box).all():
        return Cutout(0, 0, np.zeros((0, 0), bool))
    x1, y1 = (max(0, math.floor(v)) for v in box[:2])
    x2, y2 = (min(side, math.ceil(v)) for v, side in zip(box[2:], (size[1], size[0]), strict=True))
    if x2 <= x1 or y2 <= y1:
        return Cutout(0, 0, np.zeros((0, 0), bool))
    moved = torch.tensor(box - (x1, y1, x1, y1), dtype=torch.float32)
    return Cutout(x1, y1, paste_masks(mask[None], moved[None], (y2 - y1, x2 - x1))[0].numpy())


def _draw_mask(canvas: np.ndarray, cutout: Cutout, colour: Colour, opacity: float, width: int) -> None:
    h, w = cutout.mask.shape
    region = canvas[cutout.y : cutout.y + h, cutout.x : cutout.x + w]
    mask = cutout.mask[: region.shape[0], : region.shape[1]]  # rounding may have put it one pixel beyond the border
    if not mask.any():
        return
    region[mask] = (region[mask] * (1 - opacity) + np.array(colour) * opacity).round().astype(np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    moved = [line + np.array([cutout.x, cutout.y], np.int32) for line in outlines]
    cv2.polylines(canvas, moved, True, colour, width, cv2.LINE_AA)


def _draw_box(canvas: np.ndarray, box: np.ndarray, colour: Colour, width: int) -> None:
    x1, y1, x2, y2 = _pixels(box, canvas.shape[:2])
    cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, width)  # not smoothed: its sides lie on pixels


def _draw_keypoints(canvas: np.ndarray, points: np.ndarray, threshold: float, width: int) -> None:
    seen = (points[:, 2] > threshold) & np.isfinite(points).all(axis=1)
    limit = 4 * max(canvas.shape)  # what lies farther out is invisible, and would overflow OpenCV's integers
    places = [(round(x), round(y)) for x, y in np.nan_to_num(points[:, :2]).clip(-limit, limit)]
    limbs = [(a, b) for a, b in SKELETON if len(points) == 17 and seen[a] and seen[b]]
    for dark in (True, False):  # a dark rim below lets the lines stand out on any background
        for a, b in limbs:
            colour = MIDDLE if (a + b) % 2 and a else LEFT if a % 2 or (a == 0 and b == 1) else RIGHT
            cv2.line(canvas, places[a], places[b], INK if dark else colour, width + 2 if dark else width, cv2.LINE_AA)
    for i in np.flatnonzero(seen):
        cv2.circle(canvas, places[i], width + 2, INK, -1, cv2.LINE_AA)
        cv2.circle(canvas, places[i], width + 1, PAPER, -1, cv2.LINE_AA)


def _texts(
    labels: np.ndarray, scores: np.ndarray | None, crowds: np.ndarray, class_names: Sequence[str] | None
) -> list[str]:
    names = [class_names[k] if class_names is not None and 0 <= k < len(class_names) else str(k) for k in labels]
    names = [f"{name} (crowd)" if crowd else name for name, crowd in zip(names, crowds, strict=True)]
    return names if scores is None else [f"{name} {100 * s:.0f}%" for name, s in zip(names, scores, strict=True)]


def _draw_tags(canvas: np.ndarray, boxes: np.ndarray, texts: Sequence[str], colours: Sequence[Colour]) -> None:
    """Each name on a plate of its colour at its box, inside the picture and, where there is room, on no other plate."""
    size = canvas.shape[:2]
    height = int(np.clip(min(size) / 48, 8, 20))
    texts = [_shorten(text, height, size[1] - 8) for text in texts]
    taken = np.zeros((0, 4), int)
    for box, text in zip(boxes, texts, strict=True):
        plate = (round(1.8 * height), _text_width(text, height) + 8)
        taken = np.vstack([taken, _place(_pixels(box, size), plate, size, taken)])
    for (x1, y1, x2, y2), text, colour in reversed(list(zip(taken, texts, colours, strict=True))):  # the best on top
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, -1)
        _write(canvas, text, (x1 + 4, y2 - round(0.4 * height)), height, _ink_on(colour))


def _place(box: Sequence[int], plate: tuple[int, int], size: tuple[int, int], taken: np.ndarray) -> np.ndarray:
    """Where a plate (h, w) goes, XYXY: on top of its box if it is free there, else the best of the other places.

    A place costs what it covers of other plates and, as a share, of the object itself, so that a tiny object at the
    border stays visible; and a little for each step down the list, so that plates stand alike where they can.
    """
    (h, w), (x1, y1, x2, y2) = plate, box
    corners = [(x, y) for x in (x1, x2 - w) for y in (y1 - h, y1, y2 + 1, y2 - h)]
    inside = [(max(0, min(x, size[1] - w - 1)), max(0, min(y, size[0] - h - 1))) for x, y in corners]
    spots = np.array([(x, y, x + w, y + h) for x, y in inside])
    own_share = _overlap(spots, np.array([box]))[:, 0] / max((x2 - x1) * (y2 - y1), 1)
    cost = 4 * _overlap(spots, taken).sum(axis=1) / (h * w) + own_share.clip(max=1) + 0.05 * np.arange(len(spots))
    return spots[cost.argmin()]


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pixels that each of (N, 4) shares with each of (M, 4): (N, M)."""
    width = np.minimum(a[:, None, 2], b[:, 2]) - np.maximum(a[:, None, 0], b[:, 0])
    height = np.minimum(a[:, None, 3], b[:, 3]) - np.maximum(a[:, None, 1], b[:, 1])
    return width.clip(0) * height.clip(0)


def _write(
    canvas: np.ndarray, text: str, corner: tuple[int, int], height: int, colour: Colour, room: int | None = None
) -> None:
    """Write text with its lower left corner here, capital letters being `height` pixels high."""
    text = text if room is None else _shorten(text, height, room)
    cv2.putText(canvas, text, corner, FONT, height / 21.5, colour, max(1, round(height / 14)), cv2.LINE_AA)


def _text_width(text: str, height: int) -> int:
    return int(cv2.getTextSize(text, FONT, height / 21.5, max(1, round(height / 14)))[0][0])


def _shorten(text: str, height: int, room: int) -> str:
    if _text_width(text, height) <= room:
        return text
    kept = len(text)
    while kept and _text_width(f"{text[:kept]}...", height) > room:
        kept -= 1
    return f"{text[:kept]}..."


def _ink_on(colour: Colour) -> Colour:
    """Dark or white text, whichever has the greater contrast (relative luminance, WCAG 2)."""
    linear = [(v / 255 / 12.92) if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in colour]
    luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return INK if (luminance + 0.05) / 0.065 > 1.05 / (luminance + 0.05) else PAPER


def _pixels(box: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """First and last pixel that a continuous box covers, inside the picture; a NaN becomes 0."""
    x1, y1, x2, y2 = (float(v) for v in np.nan_to_num(box, posinf=1e6, neginf=-1e6))
    h, w = size
    left, top = (min(max(round(v), 0), side - 1) for v, side in ((x1, w), (y1, h)))
    right, bottom = (min(max(round(v) - 1, 0), side - 1) for v, side in ((x2, w), (y2, h)))
    return left, top, max(left, right), max(top, bottom)


def _scaled(image: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1:
        return np.ascontiguousarray(image).copy()
    h, w = (max(1, round(n * scale)) for n in image.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(image), (w, h), interpolation=method)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]).clip(0) * (boxes[:, 3] - boxes[:, 1]).clip(0)


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
