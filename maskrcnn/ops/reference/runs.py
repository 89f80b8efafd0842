"""Masks as runs of pixels down single columns to small grids, or to answers at points, in plain PyTorch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from maskrcnn.ops.ranges import check_packed, expand_ranges
from maskrcnn.ops.reference.rle import Ints


def runs_of_counts(counts: Ints, lengths: Ints, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Runs of single columns from run lengths; arguments and result as in `ops.runs.runs_of_counts`."""
    height, width = size
    place, mask = counts.cumsum(), np.repeat(np.arange(len(lengths)), lengths)
    wrong = (counts < 0).any() or (np.bincount(mask, counts, len(lengths)) != height * width).any()
    if wrong:
        raise ValueError(f"mask: runs that are negative or do not add up to the {height * width} pixels of {size}")
    # Every mask's runs add up to height * width, so that the sums number the pixels of all masks in a row.
    ones = (np.arange(len(counts)) - np.repeat(lengths.cumsum() - lengths, lengths)) % 2 == 1
    chosen = ones & (counts > 0)
    stop, start = torch.from_numpy(place[chosen]), torch.from_numpy((place - counts)[chosen])
    first, last = start // max(height, 1), (stop - 1) // max(height, 1)
    run, column = expand_ranges(first, last - first + 1)  # a run that goes on in the next column is cut there
    top = (start[run] - column * height).clamp(min=0)
    bottom = (stop[run] - column * height).clamp(max=height)
    num_runs = torch.bincount(column // max(width, 1), minlength=len(lengths))
    runs = torch.stack([column % max(width, 1), top, bottom], dim=1).int()
    return runs, torch.cat([num_runs.new_zeros(1), num_runs.cumsum(0)])


def cover_cells(runs: Tensor, offsets: Tensor, index: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The part of each cell that an object covers, exactly; arguments and result as in `ops.cover_cells`."""
    check_packed(index, offsets=(offsets, len(runs)))
    height, width = size
    corner, extent = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    scale = boxes.new_tensor([width, height]) / extent
    valid = (extent != 0).all(dim=1) & extent.isfinite().all(dim=1) & scale.isfinite().all(dim=1)
    first = offsets[index]
    roi, run = expand_ranges(first, (offsets[index + 1] - first) * valid)
    column, top, bottom = runs[run].to(boxes.dtype).unbind(1)
    (left, up), (scale_x, scale_y) = corner[roi].unbind(1), scale[roi].unbind(1)
    across = _steps((column - left) * scale_x, (column + 1 - left) * scale_x, width)
    down = _steps((top - up) * scale_y, (bottom - up) * scale_y, height)

    cells = boxes.new_zeros(len(boxes) * (height + 2) * (width + 2))
    for x, weight_x in across:
        for y, weight_y in down:
            cells.index_add_(0, (roi * (height + 2) + y) * (width + 2) + x, weight_y * weight_x)
    grid = cells.view(-1, height + 2, width + 2)[:, :height, :width]
    return grid.cumsum(dim=1).cumsum(dim=2) * extent.sign().prod(dim=1)[:, None, None]  # mirrored runs end first


def sample_runs(runs: Tensor, offsets: Tensor, index: Tensor, points: Tensor, size: tuple[int, int]) -> Tensor:
    """Bitmaps at points; arguments and result as in `ops.sample_runs`."""
    check_packed(index, offsets=(offsets, len(runs)))
    height, width = size
    # One increasing number per pixel of all objects finds the last run that starts at or before a pixel.
    owner = torch.repeat_interleave(offsets.diff())
    column, top, bottom = runs.long().unbind(1)
    starts = (owner * width + column) * height + top
    stops = torch.cat([starts + bottom - top, starts.new_zeros(1)])  # the last answers for "no run before"
    base = (points - 0.5).floor().nan_to_num(-2.0).clamp(-2, max(height, width) + 1)
    fraction = points - 0.5 - base
    sampled = torch.zeros(points.shape[:-1], device=points.device)
    for dx in (0, 1):
        for dy in (0, 1):
            x, y = (base + base.new_tensor([dx, dy])).long().unbind(-1)
            weight = ((1 - dx) + (2 * dx - 1) * fraction[..., 0]) * ((1 - dy) + (2 * dy - 1) * fraction[..., 1])
            pixel = (index[:, None] * width + x) * height + y
            inside = pixel < stops[torch.searchsorted(starts, pixel, right=True) - 1]
            within = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            sampled += weight.where(inside & within, 0.0)
    return sampled


def _steps(start: Tensor, stop: Tensor, num_cells: int) -> list[tuple[Tensor, Tensor]]:
    """What intervals cover of cells 0..num_cells - 1, as steps: four (cell, weight) each, whose running sum it is."""
    steps = []
    for end, sign in ((start, 1.0), (stop, -1.0)):
        inside = end.clamp(0, num_cells)
        cell = inside.floor()
        rest = inside - cell
        steps += [(cell.long(), sign * (1 - rest)), (cell.long() + 1, sign * rest)]
    return steps
