"""RoIPool in plain PyTorch (Fast R-CNN §2.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from maskrcnn.ops.reference.rois import check_image_index, finite_boxes, in_layout_of, round_half_away

VALUES_PER_CHUNK = 1 << 22


def roi_pool(features: Tensor, rois: Tensor, *, scale: float, output_size: tuple[int, int]) -> Tensor:
    """RoIPool (Fast R-CNN §2.1); arguments and result as in `ops.roi_pool`.

    Which pixel is a bin's largest is looked up without a gradient; the value is then read there, with one.
    """
    images, channels, height, width = features.shape
    count, (bins_h, bins_w) = rois.shape[0], output_size
    check_image_index(rois, images)
    if count * features.numel() == 0:
        return in_layout_of(features, features.sum() * 0 + features.new_zeros(count, channels, bins_h, bins_w))
    finite = finite_boxes(rois, scale)
    safe = torch.where(finite[:, None], rois, 0).detach()
    top, bottom = _windows(safe[:, 2], safe[:, 4], scale, bins_h, height)
    left, right = _windows(safe[:, 1], safe[:, 3], scale, bins_w, width)
    wide = features if features.dtype == torch.float64 else features.float()  # where gradients are summed
    table = wide.permute(0, 2, 3, 1).reshape(images * height * width, channels)
    rows, cols = (bottom - top).clamp(min=1), (right - left).clamp(min=1)
    longest_row, longest_col = int(rows.max()), int(cols.max())
    chunk = max(1, VALUES_PER_CHUNK // (bins_h * bins_w * longest_row * longest_col * channels))
    first = safe[:, 0].long() * (height * width)
    positions = []
    for part in (slice(r, r + chunk) for r in range(0, count, chunk)):
        # Smaller windows repeat their last pixel, which changes neither the maximum nor where it is found first.
        y = _pixels(top[part], rows[part], height)[:, :, None, :, None]  # (r, h, 1, a, 1)
        x = _pixels(left[part], cols[part], width)[:, None, :, None, :]  # (r, 1, w, 1, b)
        index = (first[part, None, None, None, None] + y * width + x).flatten(3)  # (r, h, w, a * b)
        best = table.detach()[index].max(dim=3).indices  # (r, h, w, C); the first of equals
        positions.append(index.gather(3, best))
    position = torch.cat(positions)  # (R, h, w, C), into (N * H * W, C)
    out = table.flatten()[position * channels + torch.arange(channels, device=features.device)]
    empty = (bottom <= top)[:, :, None] | (right <= left)[:, None, :]
    out = torch.where(empty[..., None], 0, out)
    out = torch.where(finite[:, None, None, None], out, torch.nan).to(features.dtype)
    return in_layout_of(features, out.permute(0, 3, 1, 2))


def _windows(low: Tensor, high: Tensor, scale: float, bins: int, size: int) -> tuple[Tensor, Tensor]:
    """The pixels first..last - 1 of the bins of one axis, int64 (R, bins) each."""
    start = round_half_away(low * scale)
    length = (round_half_away(high * scale) - start + 1).clamp(min=1)
    bin_length, p = (length / bins)[:, None], torch.arange(bins, device=low.device, dtype=low.dtype)
    first = (p * bin_length).floor() + start[:, None]
    last = ((p + 1) * bin_length).ceil() + start[:, None]
    return first.clamp(0, size).long().clamp(max=size), last.clamp(0, size).long().clamp(max=size)


def _pixels(first: Tensor, length: Tensor, size: int) -> Tensor:
    """(r, bins) -> (r, bins, longest): every pixel of each window, its last one repeated."""
    step = torch.arange(int(length.max()), device=first.device)
    return (first[..., None] + step.minimum(length[..., None] - 1)).clamp(max=size - 1)
