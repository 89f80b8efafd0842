"""RoIWarp in plain PyTorch (MNC §4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn.ops.reference.rois import check_image_index, finite_boxes, in_layout_of, round_half_away


def roi_warp(
    features: Tensor, rois: Tensor, *, scale: float, output_size: tuple[int, int], rounded: bool = False
) -> Tensor:
    """RoI warping (MNC §4); arguments and result as in `ops.roi_warp`.

    A sample is F_RoI(u', v') = sum over (u, v) of G(u, v; u', v' | B) F(u, v) (Eq. 6), with G = g(u, u' | x, w) times
    g(v, v' | y, h) (Eq. 7). That sum of four feature vectors is what `embedding_bag` computes: the map is the table, a
    sample is a bag. It gives the gradients to the table and to the weights, and the weights theirs to the box (Eq. 9).
    """
    images, channels, height, width = features.shape
    count, (out_h, out_w) = rois.shape[0], output_size
    check_image_index(rois, images)
    if count * features.numel() == 0:
        zeros = features.new_zeros(count, channels, out_h, out_w)
        return in_layout_of(features, zeros + features.sum() * 0 + rois[:0].sum().to(features.dtype))
    finite = finite_boxes(rois, scale)
    safe = torch.where(finite[:, None], rois, 0)
    # embedding_bag's weights have the table's dtype, which must not be a half type.
    table = features if features.dtype == torch.float64 else features.float()
    table = table.permute(0, 2, 3, 1).reshape(images * height * width, channels)
    rows, row_weights, row_on_map = _hats(safe[:, 2], safe[:, 4], scale, out_h, height, rounded)
    cols, col_weights, col_on_map = _hats(safe[:, 1], safe[:, 3], scale, out_w, width, rounded)
    # (R, h, 1, 2, 1) and (R, 1, w, 1, 2): both rows of a sample with both columns
    index = rows[:, :, None, :, None] * width + cols[:, None, :, None, :]
    index = index + (safe[:, 0].long() * (height * width))[:, None, None, None, None]
    weight = row_weights[:, :, None, :, None] * col_weights[:, None, :, None, :]
    index, weight = index.flatten(3).flatten(0, 2), weight.flatten(3).flatten(0, 2)
    out = F.embedding_bag(index, table, mode="sum", per_sample_weights=weight)
    out = out.reshape(count, out_h, out_w, channels)
    out = torch.where((row_on_map[:, :, None] & col_on_map[:, None, :])[..., None], out, 0)
    out = torch.where(finite[:, None, None, None], out, torch.nan).to(features.dtype)
    return in_layout_of(features, out.permute(0, 3, 1, 2))


def _hats(
    low: Tensor, high: Tensor, scale: float, samples: int, size: int, rounded: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """g(u, u' | x, w) = max(0, 1 - |x + u' w / W' - u|) (Eq. 8; x the centre, u' from -W'/2) where it is not zero.

    Returns:
        The two pixels u beside each sample u', int64 (R, samples, 2), their weights, zero for a pixel beyond the map,
        and (R, samples) whether one of them lies on it.
    """
    start, end = low * scale, high * scale
    if rounded:  # forward the whole number, backward the identity
        start = start + (round_half_away(start) - start).detach()
        end = end + (round_half_away(end) - end).detach()
    length = end - start
    if rounded:
        length = torch.where(length < 0, 0, length)  # clamp would stop the gradient of a length of zero
    ratio = torch.arange(samples, device=low.device, dtype=low.dtype) / samples
    x = start[:, None] + ratio * length[:, None]
    near = (x >= -1) & (x < size)
    x = torch.where(near, x, 0)
    left = x.detach().floor()
    fraction = x - left
    pixels = torch.stack((left, left + 1), dim=-1)
    on_map = near[..., None] & (pixels >= 0) & (pixels < size)
    weights = torch.where(on_map, torch.stack((1 - fraction, fraction), dim=-1), 0)
    return pixels.long().clamp(0, size - 1), weights, near
