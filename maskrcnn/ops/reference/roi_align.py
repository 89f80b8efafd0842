"""RoIAlign in plain PyTorch (Mask R-CNN §3), from one or many levels (FPN §4.2, PANet §3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn.ops.reference.rois import check_image_index, finite_boxes, in_layout_of, round_half_away

TAPS_PER_CHUNK = 1 << 22  # of an index and a weight each: 50 MB


def assign_levels(
    boxes: Tensor,
    levels: int,
    *,
    canonical_level: float,
    canonical_size: float,
    epsilon: float,
    finest: float,
    extent: float,
) -> Tensor:
    """FPN Eq. 1: k = floor(k0 + log2(sqrt(wh) / 224)), as an index into levels that begin with `finest`.

    Boxes (R, 4) -> int64 (R,), 0..levels - 1; 0 for NaN. Without a rounding error on the boundaries, `epsilon` is 0;
    `extent` is added to w and h.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    area = (x2 - x1 + extent).clamp(min=0) * (y2 - y1 + extent).clamp(min=0)
    relative = area.sqrt() / canonical_size
    k = (canonical_level + (relative + epsilon).log2()).floor()
    return (k - finest).nan_to_num().clamp(0, levels - 1).to(torch.int64)


def roi_align(
    features: Sequence[Tensor],
    rois: Tensor,
    scales: Sequence[float],
    output_size: tuple[int, int],
    sampling_ratio: int,
    aligned: bool,
    rounded: bool,
    maximum: bool,
    level_rule: Sequence[float] | None,
) -> Tensor:
    """RoIAlign (Mask R-CNN §3): each box from the level of the rule, or without one from all, level by level.

    Arguments as `ops.roi_align` and its siblings name them; `level_rule` is (k0, canonical size, epsilon, finest level,
    extent) or None. Gives (R, C, h, w), or (L * R, C, h, w).

    A bin is a weighted sum of feature vectors, which is what `embedding_bag` computes: the maps of all levels are the
    table, a bin (or for the maximum a sample) is a bag, and the weights are the bilinear ones.
    """
    images, channels = features[0].shape[:2]
    count, (bins_h, bins_w) = rois.shape[0], output_size
    check_image_index(rois, images)
    if level_rule is not None:
        k0, size, epsilon, finest, extent = level_rule
        level = assign_levels(
            rois[:, 1:],
            len(features),
            canonical_level=k0,
            canonical_size=size,
            epsilon=epsilon,
            finest=finest,
            extent=extent,
        )
    else:
        level = torch.arange(len(features), device=rois.device).repeat_interleave(count)
        rois = rois.repeat(len(features), 1)
    if len(rois) * channels * images == 0:
        return _nothing(features, rois, output_size)
    sizes = torch.tensor([f.shape[2:] if f.numel() > 0 else (0, 0) for f in features], device=rois.device)
    heights, widths = sizes[level].unbind(1)
    scale = rois.new_tensor(list(scales))[level]
    valid = finite_boxes(rois, scale[:, None]) & (rois[:, 0] >= 0) & (rois[:, 0] < images)
    safe = torch.where(valid[:, None], rois, 0)
    # embedding_bag's weights have the table's dtype, which must not be a half type.
    maps = [f if f.dtype == torch.float64 else f.float() for f in features]
    # A row of zeros at the end is where a level without pixels reads.
    table = torch.cat([*(f.permute(0, 2, 3, 1).reshape(-1, channels) for f in maps), maps[0].new_zeros(1, channels)])
    starts = torch.tensor([0, *(f[:, 0].numel() for f in features[:-1])], device=rois.device).cumsum(0)
    first = starts[level] + safe[:, 0].long() * heights * widths

    y = _samples(safe[:, 2], safe[:, 4], scale, bins_h, heights, sampling_ratio, aligned, rounded)
    x = _samples(safe[:, 1], safe[:, 3], scale, bins_w, widths, sampling_ratio, aligned, rounded)
    per_row = bins_h * bins_w * 4 * y.inside.shape[2] * x.inside.shape[2]
    chunk = max(1, TAPS_PER_CHUNK // max(per_row * (channels // 4 if maximum else 1), 1))
    pool = _maximum if maximum else _mean
    parts = [slice(r, r + chunk) for r in range(0, len(rois), chunk)]
    bins = [pool(table, first[part], widths[part], y.rows(part), x.rows(part)) for part in parts]
    out = torch.cat(bins).reshape(len(rois), bins_h, bins_w, channels).permute(0, 3, 1, 2)
    out = torch.where(valid[:, None, None, None], out, torch.nan).to(features[0].dtype)
    return in_layout_of(features[0], out)


def _nothing(features: Sequence[Tensor], rois: Tensor, output_size: tuple[int, int]) -> Tensor:
    """No element, but in the graph, so that distributed training does not hang."""
    zero = torch.stack([f.sum() for f in features]).sum() * 0
    return zero + features[0].new_zeros(len(rois), features[0].shape[1], *output_size)


class _Samples(NamedTuple):
    """The samples of one axis, (R, bins, samples): two pixels and weights each, and how many a bin has."""

    pixels: Tensor  # (R, bins, samples, 2)
    weights: Tensor  # (R, bins, samples, 2); zero for a sample outside the map
    exists: Tensor  # a box may have fewer than there is room for
    inside: Tensor
    per_bin: Tensor  # (R, 1, 1)

    def rows(self, part: slice) -> _Samples:
        return _Samples(*(field[part] for field in self))


def _samples(
    low: Tensor,
    high: Tensor,
    scale: Tensor,
    bins: int,
    sizes: Tensor,
    sampling_ratio: int,
    aligned: bool,
    rounded: bool,
) -> _Samples:
    """Where the bins of one axis read, on maps of `sizes` (R,) pixels."""
    low, high = low * scale, high * scale
    if rounded:
        low, high = round_half_away(low), round_half_away(high)
    offset = 0.5 if aligned else 0.0
    start = low - offset
    length = high - offset - start
    if not aligned:
        length = length.clamp(min=1)
    bin_length = (length / bins)[:, None, None]
    per_bin = bin_length.ceil().clamp(0, 2**30) if sampling_ratio == 0 else torch.full_like(bin_length, sampling_ratio)
    origin = start[:, None, None] + torch.arange(bins, device=low.device, dtype=low.dtype)[:, None] * bin_length
    # Of a large box only the points that can lie on the map: with one or more per pixel, as many as its size allows.
    first = torch.zeros_like(origin)
    most = sampling_ratio or max(1, int(per_bin.max()))
    room = 2 * int(sizes.max()) + 8
    if sampling_ratio == 0 and most > room:
        step = bin_length / per_bin.clamp(min=1)
        first = ((-1 - origin) / step.clamp(min=0.5)).floor().sub(2).clamp(min=0).minimum(per_bin)
        most = room
    point = first + torch.arange(most, device=low.device, dtype=low.dtype)
    x = origin + (point + 0.5) * bin_length / per_bin.clamp(min=1)
    size = sizes[:, None, None]
    exists = point < per_bin
    inside = exists & (x >= -1) & (x <= size) & (size > 0)
    last = (size - 1).clamp(min=0)
    x = torch.where(inside, x, 0).clamp(min=0).minimum(last.to(x.dtype))  # beyond the last centre: the last pixel
    left = x.floor().minimum((last - 1).clamp(min=0).to(x.dtype))
    weights = torch.stack((1 - (x - left), x - left), dim=-1) * inside[..., None]
    pixels = torch.stack((left.long(), (left.long() + 1).minimum(last)), dim=-1)
    return _Samples(pixels, weights, exists, inside, per_bin)


def _mean(table: Tensor, first: Tensor, widths: Tensor, y: _Samples, x: _Samples) -> Tensor:
    """(r * h * w, C): a bag for each bin, with every tap of a row times every tap of a column."""
    # (r, h, 1, a, 1) and (r, 1, w, 1, b)
    rows, cols = y.pixels.flatten(2)[:, :, None, :, None], x.pixels.flatten(2)[:, None, :, None, :]
    index = first[:, None, None, None, None] + rows * widths[:, None, None, None, None] + cols
    by_row = (y.weights / y.per_bin.clamp(min=1)[..., None]).flatten(2)[:, :, None, :, None]
    by_col = (x.weights / x.per_bin.clamp(min=1)[..., None]).flatten(2)[:, None, :, None, :]
    return _bags(table, index.flatten(3).flatten(0, 2), (by_row * by_col).flatten(3).flatten(0, 2))


def _maximum(table: Tensor, first: Tensor, widths: Tensor, y: _Samples, x: _Samples) -> Tensor:
    """(r * h * w, C): a bag for each sample, of its four pixels; then the greatest, the first of equals."""
    # (r, h, 1, i, 1, a, 1) and (r, 1, w, 1, j, 1, b)
    rows, cols = y.pixels[:, :, None, :, None, :, None], x.pixels[:, None, :, None, :, None, :]
    index = first.view(-1, 1, 1, 1, 1, 1, 1) + rows * widths.view(-1, 1, 1, 1, 1, 1, 1) + cols
    weight = y.weights[:, :, None, :, None, :, None] * x.weights[:, None, :, None, :, None, :]
    samples = math.prod(index.shape[3:5])
    values = _bags(table, index.flatten(5).flatten(0, 4), weight.flatten(5).flatten(0, 4))
    values = values.view(-1, samples, table.shape[1])
    exists = (y.exists[:, :, None, :, None] & x.exists[:, None, :, None, :]).flatten(3).flatten(0, 2)
    greatest = torch.where(exists[..., None], values, -torch.inf).argmax(dim=1, keepdim=True)
    return torch.where(exists.any(dim=1)[:, None], values.gather(1, greatest)[:, 0], 0.0)


def _bags(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    return F.embedding_bag(index, table, mode="sum", per_sample_weights=weight)
