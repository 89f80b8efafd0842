"""Pasted masks, masks to RLE, and the training targets of mask heads."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pycocotools.mask
import torch
import torchvision.ops
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes

from maskrcnn.ops import masks_to_rle, paste_masks
from maskrcnn.structures.bitmap_masks import BitmapMasks
from maskrcnn.structures.polygon_masks import PolygonMasks
from op_rows import Row

DETECTIONS, CELLS, ROIS, OBJECTS = 100, 28, 128, 10
SIZES = ((800, 1066), (1024, 2048))


def rows() -> Iterator[Row]:
    for size in SIZES:
        for kind in ("typical", "whole frame"):
            masks, boxes = detections(size, kind)
            name = f"{DETECTIONS} masks {CELLS}x{CELLS} to {size[0]}x{size[1]}, {kind} boxes, float32"
            paste = functools.partial(paste_masks, masks, boxes, size)
            fill = functools.partial(filled, size)
            yield Row(f"paste_masks, {name}; peer: allocating and filling the output", paste, fill, 1 / 1.5)
            yield Row(f"paste_masks, {name}", paste, functools.partial(paste_by_torchvision, masks, boxes, size), None)
            rle = functools.partial(masks_to_rle, masks, boxes, size)
            yield Row(f"masks_to_rle, {name}", rle, functools.partial(rle_by_peers, masks, boxes, size), 10)
    yield from target_rows()


def target_rows() -> Iterator[Row]:
    size = SIZES[0]
    polygons = some_polygons(size)
    rles = polygons.to_rle(size)
    index, boxes = rois_of(rles)
    bitmaps = torch.from_numpy(pycocotools.mask.decode(rles)).permute(2, 0, 1).contiguous()
    peer = functools.partial(project_masks_on_boxes, bitmaps, boxes, index, CELLS)
    for source, masks in (("polygons", polygons), ("RLE", BitmapMasks.from_rle(rles))):
        ours = functools.partial(masks.crop, index, boxes, CELLS)
        yield Row(f"training targets, {ROIS} RoIs {CELLS}x{CELLS} from {source}", ours, peer, 5)
        points = boxes[:, None, :2] + torch.rand(ROIS, 196, 2) * (boxes[:, None, 2:] - boxes[:, None, :2])
        sample = functools.partial(masks.sample, index, points)
        yield Row(f"answers at 196 points, {ROIS} RoIs, {source}", sample, None, None)
        many = functools.partial(masks.crop, index.repeat(8), boxes.repeat(8, 1), CELLS)
        few = functools.partial(several, 8, ours)
        yield Row(f"8 x {ROIS} RoIs {CELLS}x{CELLS} from {source}; peer: ours, {ROIS} at a time", many, few, 0.9)


def detections(size: tuple[int, int], kind: str) -> tuple[Tensor, Tensor]:
    """Blobs like a mask head's answers, and boxes of COCO's sizes (sides from 16 pixels to the frame)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(DETECTIONS, 1, 5, 5, generator=generator)
    masks = torch.nn.functional.interpolate(coarse, size=(CELLS, CELLS), mode="bicubic")[:, 0].clamp(0, 1)
    frame = torch.tensor([size[1], size[0]])
    if kind == "whole frame":
        return masks, torch.cat([torch.zeros(2), frame]).expand(DETECTIONS, 4).contiguous()
    sides = 16 * (frame / 16) ** torch.rand(DETECTIONS, 2, generator=generator)
    corner = torch.rand(DETECTIONS, 2, generator=generator) * (frame - sides)
    return masks, torch.cat([corner, corner + sides], dim=1)


def some_polygons(size: tuple[int, int]) -> PolygonMasks:
    """One ring of 40 points around each object."""
    generator = torch.Generator().manual_seed(1)
    angle = torch.arange(40) / 40 * 2 * math.pi
    radius = torch.rand(OBJECTS, 1, generator=generator) * 150 + 40
    outline = radius * (0.7 + 0.3 * torch.rand(OBJECTS, 40, generator=generator))
    centre = torch.rand(OBJECTS, 2, 1, generator=generator) * torch.tensor([[size[1]], [size[0]]])
    ring = centre + torch.stack([outline * angle.cos(), outline * angle.sin()], dim=1)
    return PolygonMasks.from_polygons([[r] for r in ring.mT.reshape(OBJECTS, -1).numpy()])


def rois_of(rles: list[Any]) -> tuple[Tensor, Tensor]:
    """Boxes moved a little from the objects', as proposals are."""
    generator = torch.Generator().manual_seed(2)
    index = torch.arange(ROIS) % OBJECTS
    boxes = torchvision.ops.box_convert(torch.from_numpy(pycocotools.mask.toBbox(rles)).float(), "xywh", "xyxy")[index]
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return index, boxes + (torch.rand(ROIS, 4, generator=generator) - 0.5) * 0.2 * sides


def several(times: int, work: Callable[[], object]) -> None:
    for _ in range(times):
        work()


def filled(size: tuple[int, int]) -> Tensor:
    return torch.empty(DETECTIONS, *size, dtype=torch.bool).fill_(False)


def paste_by_torchvision(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    pasted: Tensor = paste_masks_in_image(masks[:, None], boxes, size)[:, 0] >= 0.5
    return pasted


def rle_by_peers(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> list[Any]:
    bitmaps = paste_by_torchvision(masks, boxes, size).numpy()
    return [pycocotools.mask.encode(np.asfortranarray(bitmap.astype(np.uint8))) for bitmap in bitmaps]
