"""RoIAlign in plain PyTorch (Mask R-CNN §3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TAPS_PER_CHUNK = 1 << 22  # of an index and a weight each: 50 MB


def roi_align(
    features: Tensor, rois: Tensor, *, scale: float, output_size: tuple[int, int], sampling_ratio: int, aligned: bool
) -> Tensor:
    """RoIAlign (Mask R-CNN §3); arguments and result as in `ops.roi_align`.

    A bin is a weighted sum of feature vectors, which is what `embedding_bag` computes: the map is the table, a bin is
    a bag, and the weights are the bilinear ones.
    """
    images, channels, height, width = features.shape
    count, (bins_h, bins_w) = rois.shape[0], output_size
    if rois.device.type == "cpu":  # elsewhere it would wait for the device, which then checks the index itself
        _check_image_index(rois[:, 0], images)
    if count * features.numel() == 0:
        return features.sum() * 0 + features.new_zeros(count, channels, bins_h, bins_w)
    finite = _finite(rois, scale)
    safe = torch.where(finite[:, None], rois, 0)
    # embedding_bag's weights have the table's dtype, which must not be a half type.
    table = features if features.dtype == torch.float64 else features.float()
    table = table.permute(0, 2, 3, 1).reshape(images * height * width, channels)

    rows, row_weights = _axis_taps(safe[:, 2], safe[:, 4], scale, bins_h, height, sampling_ratio, aligned)
    cols, col_weights = _axis_taps(safe[:, 1], safe[:, 3], scale, bins_w, width, sampling_ratio, aligned)
    taps_per_bin = rows.shape[2] * cols.shape[2]
    chunk = max(1, TAPS_PER_CHUNK // (bins_h * bins_w * max(taps_per_bin, 1)))
    first = safe[:, 0].long() * (height * width)
    bins = []
    for part in (slice(r, r + chunk) for r in range(0, count, chunk)):
        # (r, h, 1, a, 1) and (r, 1, w, 1, b): every row tap with every column tap of a bin
        index = rows[part, :, None, :, None] * width + cols[part, None, :, None, :]
        index = index + first[part, None, None, None, None]
        weight = row_weights[part, :, None, :, None] * col_weights[part, None, :, None, :]
        index, weight = index.flatten(3).flatten(0, 2), weight.flatten(3).flatten(0, 2)
        bins.append(F.embedding_bag(index, table, mode="sum", per_sample_weights=weight))
    out = torch.cat(bins).reshape(count, bins_h, bins_w, channels).permute(0, 3, 1, 2)
    out = torch.where(finite[:, None, None, None], out, torch.nan).to(features.dtype)
    channels_last = features.is_contiguous(memory_format=torch.channels_last) and not features.is_contiguous()
    return out if channels_last else out.contiguous()


def _check_image_index(index: Tensor, images: int) -> None:
    wrong = ~((index >= 0) & (index < images))
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(f"rois: row {row} has image index {index[row].item():g}, but there are {images} images")


def _finite(rois: Tensor, scale: float) -> Tensor:
    """(R,) whether a box's corners and sides are finite, in feature pixels."""
    boxes = rois[:, 1:] * scale
    return boxes.isfinite().all(dim=1) & (boxes[:, 2:] - boxes[:, :2]).isfinite().all(dim=1)


def _axis_taps(
    low: Tensor, high: Tensor, scale: float, bins: int, size: int, sampling_ratio: int, aligned: bool
) -> tuple[Tensor, Tensor]:
    """Where the bins of one axis read: pixels and weights (R, bins, taps), weight zero where a box has fewer."""
    offset = 0.5 if aligned else 0.0
    start = low * scale - offset
    length = high * scale - offset - start
    if not aligned:
        length = length.clamp(min=1)
    bin_length = (length / bins)[:, None, None]
    per_bin = bin_length.ceil().clamp(0, 2**30) if sampling_ratio == 0 else torch.full_like(bin_length, sampling_ratio)
    origin = start[:, None, None] + torch.arange(bins, device=low.device, dtype=low.dtype)[:, None] * bin_length
    # Of a large box only the points that can lie on the map: with one or more per pixel, as many as its size allows.
    first = torch.zeros_like(origin)
    most = sampling_ratio or max(1, int(per_bin.max()))
    if sampling_ratio == 0 and most > 2 * size + 8:
        step = bin_length / per_bin.clamp(min=1)
        first = ((-1 - origin) / step.clamp(min=0.5)).floor().sub(2).clamp(min=0).minimum(per_bin)
        most = 2 * size + 8
    point = first + torch.arange(most, device=low.device, dtype=low.dtype)
    x = origin + (point + 0.5) * bin_length / per_bin.clamp(min=1)
    valid = (point < per_bin) & (x >= -1) & (x <= size)
    x = torch.where(valid, x, 0).clamp(0, size - 1)  # beyond the last centre: the last pixel alone
    left = x.floor().clamp(max=max(size - 2, 0))
    right_weight = x - left
    weights = torch.stack((1 - right_weight, right_weight), dim=-1)
    weights = weights * (valid / per_bin.clamp(min=1))[..., None]
    pixels = torch.stack((left, (left + 1).clamp(max=size - 1)), dim=-1).long()
    return pixels.flatten(2), weights.flatten(2)
