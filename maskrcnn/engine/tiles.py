"""Prediction tile by tile, for images so large that their small objects would vanish when resized for the network.

Each tile is an image of its own to the model, and so is the whole image, in which objects are found that no tile sees
whole. What is found is then moved into the frame of the image and merged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn.ops.boxes import area, pairwise_iou
from maskrcnn.structures import Detections, cat

EDGE = 4.0  # pixels: a box that ends so near to an inner side of its tile may be cut there
TRUST = 0.5  # a part goes for a detection that shows more of its object with at least so much of its score
MAX_IOU, MAX_SHARED = 0.5, 0.5  # of boxes; of two masks, as a part of the smaller one
GRID = 28  # points across the box that two detections share, at which their masks are compared
PAIRS = 4096  # so many are compared at a time, within some 30 MB


def tile_grid(size: tuple[int, int], tile: int, overlap: int) -> Tensor:
    """Square tiles, evenly spread, that cover an image.

    Args:
        size: (h, w) of the image.
        tile: their side in pixels; along a shorter side of the image they are as long as that.
        overlap: the least that neighbours have in common, in pixels.

    Returns:
        int64 (T, 4), XYXY.

    Raises:
        ValueError: no tile, or neighbours that share all of it.
    """
    if tile < 1 or not 0 <= overlap < tile:
        raise ValueError(f"tiles of {tile} pixels with an overlap of {overlap}: the overlap is from 0 to tile - 1")
    (top, bottom), (left, right) = (_spans(length, tile, overlap) for length in size)
    y, x = (i.flatten() for i in torch.meshgrid(torch.arange(len(top)), torch.arange(len(left)), indexing="ij"))
    return torch.stack([left[x], top[y], right[x], bottom[y]], dim=1)


def predict_tiled(
    detect: Callable[[Sequence[np.ndarray]], Iterable[Detections]], image: np.ndarray, tile: int, overlap: int
) -> Detections:
    """Detections in all tiles and in the whole image, merged.

    Args:
        detect: images (h, w, 3) -> the detections in each, in its own pixels, with soft masks or without.
        image: uint8 (H, W, 3) RGB.
        tile, overlap: as in `tile_grid`.

    Returns:
        Detections in the pixels of `image`, best first.
    """
    height, width = image.shape[:2]
    windows = tile_grid((height, width), tile, overlap)
    tiled = len(windows) > 1
    if tiled:
        windows = torch.cat([windows, windows.new_tensor([[0, 0, width, height]])])
    crops = [image[y1:y2, x1:x2] for x1, y1, x2, y2 in windows.tolist()]
    views = [_moved(d, w, (height, width)) for d, w in zip(detect(crops), windows, strict=True)]
    if tiled:  # an object of up to the overlap is whole in a tile, and there it has more pixels
        longest = (views[-1].boxes[:, 2:] - views[-1].boxes[:, :2]).amax(dim=1)
        views[-1] = views[-1][longest > overlap]
    return merge(views, windows)


def merge(views: Sequence[Detections], windows: Tensor) -> Detections:
    """What overlapping views of an image show, each object once.

    First go the parts: detections at an inner side of their view, of which another view shows more. Of the others the
    best stay, by score: one goes if a better one of its class, from another view, has about the same box or most of the
    smaller one's mask. Where there are no masks, only boxes at an inner side go for what they share, because whole
    boxes of different objects may well lie one in the other. Within a view, the model has decided already.

    Args:
        views: all in the frame of the image.
        windows: (V, 4), what each view shows of it.

    Returns:
        The rows that stay, by falling score. Of an object that is whole in no view there may be several parts.
    """
    found = cat(views)
    view = torch.repeat_interleave(torch.tensor([len(v) for v in views]))
    cut = _cut(found.boxes, windows[view], found.size)

    order = found.scores.argsort(descending=True, stable=True)
    order = order[~_parts(found, view, windows, cut)[order]]
    found, view, cut = found[order], view[order], cut[order]
    better, worse, iou = _overlapping(found, view, windows, torch.arange(len(found)))
    better, worse, iou = (values[better < worse] for values in (better, worse, iou))
    same = _shared(found, better, worse) > MAX_SHARED
    if found.masks is None:
        same &= cut[worse]
    pairs = torch.stack([better, worse], dim=1)[same | (iou > MAX_IOU)]
    kept = [True] * len(found)
    for better_row, worse_row in pairs[pairs[:, 0].argsort(stable=True)].tolist():  # the better one's fate is known
        kept[worse_row] &= not kept[better_row]
    return found[torch.tensor(kept, dtype=torch.bool)]


def _parts(found: Detections, view: Tensor, windows: Tensor, cut: Tensor) -> Tensor:
    """bool (D,): cut detections of which another view shows more, and shows it with a score that is worth it."""
    more, part, _ = _overlapping(found, view, windows, cut.nonzero()[:, 0])
    shows_more = _reaches_out(found.boxes[more], windows[view[part]])
    shows_more &= ~_reaches_out(found.boxes[part], windows[view[more]])
    shows_more &= found.scores[more] >= TRUST * found.scores[part]
    more, part = more[shows_more], part[shows_more]
    parts = torch.zeros(len(found), dtype=torch.bool)
    parts[part[_shared(found, more, part) > MAX_SHARED]] = True
    return parts


def _spans(length: int, tile: int, overlap: int) -> tuple[Tensor, Tensor]:
    """First and last + 1 of each tile along one side of the image."""
    tile = min(tile, length)
    count = max(1, math.ceil((length - overlap) / max(tile - overlap, 1)))
    first = torch.linspace(0, length - tile, count, dtype=torch.float64).round().long()
    return first, first + tile


def _moved(detections: Detections, window: Tensor, size: tuple[int, int]) -> Detections:
    """Detections in a window, in the frame of the image; masks that fill their boxes go along."""
    assert detections.masks is None or isinstance(detections.masks, Tensor)
    x, y = window[:2].tolist()
    boxes = detections.boxes + detections.boxes.new_tensor([x, y, x, y])
    points = detections.keypoints
    moved = None if points is None else points + points.new_tensor([x, y, 0])
    return replace(detections, boxes=boxes, keypoints=moved, size=size)


def _cut(boxes: Tensor, windows: Tensor, size: tuple[int, int]) -> Tensor:
    """bool (D,): whether a box reaches a side of its window where the image goes on."""
    frame = windows.new_tensor([0, 0, size[1], size[0]])
    return (((boxes - windows).abs() <= EDGE) & (windows != frame)).any(dim=1)


def _reaches_out(boxes: Tensor, windows: Tensor) -> Tensor:
    """bool (P,): whether a box is partly outside a window."""
    return ((boxes[:, :2] < windows[:, :2]) | (boxes[:, 2:] > windows[:, 2:])).any(dim=1)


def _overlapping(found: Detections, view: Tensor, windows: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Any row, and one of `rows`, of the same class and from different views, whose boxes overlap: int64 (P,) each, and
    the boxes' IoU (P,)."""
    neighbours = (pairwise_iou(windows.float(), windows.float()) > 0).fill_diagonal_(False)
    others, chosen, ious = [rows[:0]], [rows[:0]], [found.boxes.new_zeros(0)]
    for v in view[rows].unique():  # view by view: comparing all with all would take seconds for thousands of detections
        here, near = rows[view[rows] == v], neighbours[v][view].nonzero()[:, 0]
        iou = pairwise_iou(found.boxes[near], found.boxes[here])
        other, row = ((iou > 0) & (found.labels[near][:, None] == found.labels[here])).nonzero(as_tuple=True)
        others.append(near[other])
        chosen.append(here[row])
        ious.append(iou[other, row])
    return torch.cat(others), torch.cat(chosen), torch.cat(ious)


def _shared(found: Detections, a: Tensor, b: Tensor) -> Tensor:
    """float (P,): the area that the masks of rows a and b have in common, as a part of the smaller one.

    Without masks it is that of the boxes.
    """
    shared = [torch.zeros(0)]
    for rows in zip(a.split(PAIRS), b.split(PAIRS), strict=True):
        first, second = (found.boxes[r] for r in rows)
        common = torch.cat(
            [torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])], dim=1
        )
        both, areas = area(common), [area(first), area(second)]
        if isinstance(found.masks, Tensor):
            masks = [found.masks[r] for r in rows]
            inside = [_inside(m, box, common) for m, box in zip(masks, (first, second), strict=True)]
            both = both * (inside[0] & inside[1]).float().mean(dim=(1, 2))
            areas = [whole * (m >= 0.5).float().mean(dim=(1, 2)) for whole, m in zip(areas, masks, strict=True)]
        shared.append(both / torch.minimum(*areas).clamp(min=1e-6))
    return torch.cat(shared)


def _inside(masks: Tensor, boxes: Tensor, common: Tensor) -> Tensor:
    """bool (P, GRID, GRID): whether points spread over `common` (P, 4) lie in the masks (P, m, m) of the boxes."""
    steps = (torch.arange(GRID) + 0.5) / GRID
    corner, extent = boxes[:, None, :2], (boxes[:, None, 2:] - boxes[:, None, :2]).clamp(min=1e-6)
    points = common[:, None, :2] + steps[:, None] * (common[:, None, 2:] - common[:, None, :2])
    x, y = (2 * (points - corner) / extent - 1).unbind(dim=-1)
    grid = torch.stack([x[:, None, :].expand(-1, GRID, -1), y[:, :, None].expand(-1, -1, GRID)], dim=-1)
    return F.grid_sample(masks[:, None].float(), grid, align_corners=False)[:, 0] >= 0.5
