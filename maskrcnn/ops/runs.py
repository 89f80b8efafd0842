"""Masks as runs of pixels down single columns -> many small grids, or answers at points, in one call.

Packed like the polygons of `ops.polygons`: `runs` int32 (N, 3), column, top and bottom (the run covers the pixels top
to bottom - 1), sorted by object, column and top, none over another; object g owns `runs[offsets[g] : offsets[g + 1]]`.
The work grows with the length of the objects' outlines, and no bitmap is ever made.

Targets have no gradient; arguments that want one are detached.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from maskrcnn.ops import reference
from maskrcnn.ops.extension import COMPILED, devices
from maskrcnn.ops.rle import Ints

DEVICES = devices("cover_cells")


def runs_of_counts(counts: Ints, lengths: Ints, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Runs of single columns from run lengths as `ops.rle` packs them; one that goes on in the next column is cut.

    Args:
        counts, lengths: int64, the run lengths of all masks, and how many each mask has.
        size: (H, W) of the masks.

    Returns:
        runs int32 (N, 3) and offsets int64 (G + 1,).

    Raises:
        ValueError: the runs of a mask are negative or do not add up to H * W.
    """
    if "cpu" not in DEVICES:
        return reference.runs_of_counts(counts, lengths, size)
    packed = (torch.from_numpy(np.ascontiguousarray(a, dtype=np.int64)) for a in (counts, lengths))
    runs, offsets = torch.ops.maskrcnn.runs_of_counts(*packed, *size)
    return runs, offsets


def cover_cells(runs: Tensor, offsets: Tensor, index: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The part of each cell of a grid over each box that an object covers, exactly.

    Args:
        runs, offsets: the objects.
        index: int64 (R,), the object of each box; on CUDA, where looking at it would wait for the device, a number
            out of range gives zeros.
        boxes: float32 or float64 (R, 4), XYXY in the frame of the runs; x2 < x1 mirrors the grid, and likewise y.
        size: (h, w), the grid's cells.

    Returns:
        float (R, h, w), 0..1 to rounding (float64 where the device has it); 0 for a box that has no area or is not
        finite.

    Raises:
        ValueError: shape, dtype, device, a size that is not positive, an offset or an index out of range.
    """
    _check(runs, offsets, index, boxes, "boxes")
    if boxes.shape != (index.shape[0], 4):
        raise ValueError(f"boxes: shape {tuple(boxes.shape)}; expected ({index.shape[0]}, 4), a box per index")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size: {size}; expected two positive numbers (h, w)")
    # A sum of products of many small pieces: in float32, cells that are half covered would fall on either side of 1/2.
    boxes = boxes.detach().to(torch.float32 if boxes.device.type == "mps" else torch.float64)
    if boxes.device.type not in DEVICES:
        return reference.cover_cells(runs, offsets, index, boxes, size)
    covered: Tensor = torch.ops.maskrcnn.cover_cells(runs, offsets, index, boxes, *size)
    return covered


def sample_runs(runs: Tensor, offsets: Tensor, index: Tensor, points: Tensor, size: tuple[int, int]) -> Tensor:
    """Bitmaps at points: bilinear between pixel centres, zero beyond the image, as `F.grid_sample` would answer.

    Args:
        runs, offsets: the objects.
        index: int64 (R,), the object that row r asks about; out of range as in `cover_cells`.
        points: float32 or float64 (R, P, 2), x and y in the frame of the runs.
        size: (H, W) of that frame.

    Returns:
        float32 (R, P).

    Raises:
        ValueError: as `cover_cells`.
    """
    _check(runs, offsets, index, points, "points")
    if points.ndim != 3 or points.shape[0] != index.shape[0] or points.shape[2] != 2:
        raise ValueError(f"points: shape {tuple(points.shape)}; expected ({index.shape[0]}, P, 2), a row per index")
    if len(size) != 2 or min(size) < 0:
        raise ValueError(f"size: {size}; expected (H, W), neither negative")
    points = points.detach()
    if points.device.type not in DEVICES:
        return reference.sample_runs(runs, offsets, index, points, size)
    sampled: Tensor = torch.ops.maskrcnn.sample_runs(runs, offsets, index, points, *size)
    return sampled


def _check(runs: Tensor, offsets: Tensor, index: Tensor, places: Tensor, name: str) -> None:
    if runs.ndim != 2 or runs.shape[1] != 3 or runs.dtype != torch.int32:
        raise ValueError(f"runs: {runs.dtype} of shape {tuple(runs.shape)}; expected int32 (N, 3)")
    for argument, lists in (("offsets", offsets), ("index", index)):
        if lists.ndim != 1 or lists.dtype != torch.int64:
            raise ValueError(f"{argument}: {lists.dtype} of shape {tuple(lists.shape)}; expected int64, one dimension")
        if lists.device != runs.device:
            raise ValueError(f"{argument}: on {lists.device}, but runs are on {runs.device}")
    if places.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name}: {places.dtype}; expected float32 or float64")
    if places.device != runs.device:
        raise ValueError(f"{name}: on {places.device}, but runs are on {runs.device}")


def _fake_of_counts(counts: Tensor, lengths: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    runs = counts.new_empty(torch.library.get_ctx().new_dynamic_size(), 3, dtype=torch.int32)
    return runs, lengths.new_empty(lengths.shape[0] + 1)


def _fake_cover(runs: Tensor, offsets: Tensor, index: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    return boxes.new_empty(index.shape[0], height, width)


def _fake_sample(runs: Tensor, offsets: Tensor, index: Tensor, points: Tensor, height: int, width: int) -> Tensor:
    return points.new_empty(points.shape[:2], dtype=torch.float32)


if COMPILED:  # an operator that does not exist takes no fake
    torch.library.register_fake("maskrcnn::runs_of_counts", _fake_of_counts)
    torch.library.register_fake("maskrcnn::cover_cells", _fake_cover)
    torch.library.register_fake("maskrcnn::sample_runs", _fake_sample)
