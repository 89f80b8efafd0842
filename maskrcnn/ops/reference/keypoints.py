"""Keypoints from heat maps in plain PyTorch (Mask R-CNN §3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_SAMPLES = 8192  # per side of a box
SAMPLES_PER_CHUNK = 1 << 22  # of resized maps: 16 MB


def decode_keypoints(heatmaps: Tensor, boxes: Tensor) -> Tensor:
    """x, y and logit (R, K, 3); arguments and result as in `ops.decode_keypoints`.

    Resizing is a product with a sparse matrix on either side, rows (samples, m) and columns (samples, m) of the cubic's
    weights. Boxes of like sizes go together, padded to the largest of them, and as many rows at a time as fit the
    memory; samples beyond a box's own count as minus infinity. What is resized is each map less its largest value, so
    that a plateau there is exactly zero, and rounding does not choose among its samples.
    """
    heatmaps = heatmaps.to(boxes.dtype)
    corner, sides = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    finite = (corner.isfinite() & sides.isfinite()).all(dim=1)[:, None] & _has_peak(heatmaps)
    heatmaps = torch.where(finite[:, :, None, None], heatmaps, 0)
    largest = heatmaps.amax(dim=(2, 3), keepdim=True)
    heatmaps = heatmaps - largest
    sides = torch.where(sides.isfinite(), sides, 1).clamp(min=1)
    samples = sides.clamp(max=MAX_SAMPLES).ceil()
    peaks = heatmaps.new_zeros(*heatmaps.shape[:2], 3)  # column, row, logit
    if peaks.numel() > 0:
        order = samples.prod(dim=1).argsort()
        widths, heights = samples.long().T.tolist()
        for part in _chunks(order.tolist(), widths, heights, heatmaps.shape[1]):
            peaks[part] = _peaks(heatmaps[part], samples[part])
    points = corner[:, None] + (peaks[..., :2] + 0.5) * (sides / samples)[:, None]
    logits = peaks[..., 2:] + largest.flatten(2)
    return torch.where(finite[..., None], torch.cat((points, logits), dim=2), torch.nan)


def _has_peak(heatmaps: Tensor) -> Tensor:
    """(R, K) whether no value is NaN or so large that the cubic's weights might overflow."""
    return (heatmaps.abs() <= torch.finfo(heatmaps.dtype).max / 8).flatten(2).all(dim=2)


def _chunks(order: list[int], widths: list[int], heights: list[int], keypoints: int) -> list[list[int]]:
    """Boxes that together, padded to the largest, stay within the memory; a box too large for it stands alone."""
    chunks: list[list[int]] = []
    width = height = 0
    for r in order:
        width, height = max(width, widths[r]), max(height, heights[r])
        if not chunks or (len(chunks[-1]) + 1) * keypoints * width * height > SAMPLES_PER_CHUNK:
            chunks.append([])
            width, height = widths[r], heights[r]
        chunks[-1].append(r)
    return chunks


def _peaks(heatmaps: Tensor, samples: Tensor) -> Tensor:
    """Column, row and value (r, K, 3) of the first largest sample of maps resized to (r, 2) widths and heights."""
    width, height = (int(side) for side in samples.amax(dim=0))
    count, keypoints, rows, columns = heatmaps.shape
    across = heatmaps @ _cubic_matrix(samples[:, 0], width, columns)[:, None].mT  # (r, K, m, width)
    down = _cubic_matrix(samples[:, 1], height, rows)
    padding = torch.arange(width, device=heatmaps.device) >= samples[:, :1]
    best = heatmaps.new_full((count, keypoints), -torch.inf)
    index = torch.zeros_like(best, dtype=torch.int64)
    step = max(1, SAMPLES_PER_CHUNK // (count * keypoints * width))
    for y in range(0, height, step):
        strip = down[:, None, y : y + step] @ across  # (r, K, step, width)
        below = torch.arange(y, min(y + step, height), device=heatmaps.device) >= samples[:, 1:]
        strip.masked_fill_((below[:, :, None] | padding[:, None])[:, None], -torch.inf)
        value, at = strip.flatten(2).max(dim=2)
        index = torch.where(value > best, at + y * width, index)
        best = best.maximum(value)
    return torch.stack(((index % width).to(best.dtype), (index // width).to(best.dtype), best), dim=2)


def _cubic_matrix(samples: Tensor, most: int, cells: int) -> Tensor:
    """(r, most, cells) weights of Keys' cubic with a = -0.75; cells beyond the edge are the edge."""
    scale = torch.full_like(samples, cells) / samples  # rounded once: `cells / samples` is by the reciprocal
    position = (torch.arange(most, device=samples.device) + 0.5) * scale[:, None] - 0.5
    cell = position.floor()
    t, a = position - cell, -0.75
    u = 1 - t
    weights = torch.stack(
        (
            a * t * u**2,
            (a + 2) * t**3 - (a + 3) * t**2 + 1,
            (a + 2) * u**3 - (a + 3) * u**2 + 1,
            a * u * t**2,
        ),
        dim=2,
    )
    taps = (cell[:, :, None] + torch.arange(-1, 3, device=samples.device)).clamp(0, cells - 1).long()
    return weights.new_zeros(*position.shape, cells).scatter_add(2, taps, weights)
