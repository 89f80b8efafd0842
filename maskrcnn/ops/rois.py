"""What the operators on RoIs share: checks that cost no wait for the device, and memory layouts."""

from __future__ import annotations

import torch
from torch import Tensor


def check_rois(features: Tensor, rois: Tensor, output_size: tuple[int, int]) -> None:
    """Raises ValueError for what is not features (N, C, H, W), rois (R, 5) beside them, and a size (h, w)."""
    if features.ndim != 4 or not features.is_floating_point():
        raise ValueError(
            f"features: {features.dtype} of shape {tuple(features.shape)}; expected a float tensor (N, C, H, W)"
        )
    if rois.ndim != 2 or rois.shape[1] != 5:
        raise ValueError(f"rois: shape {tuple(rois.shape)}; expected (R, 5): image index, x1, y1, x2, y2")
    expected = torch.float64 if features.dtype == torch.float64 else torch.float32
    if rois.dtype != expected:
        raise ValueError(f"rois: {rois.dtype}; expected {expected} for {features.dtype} features")
    if rois.device != features.device:
        raise ValueError(f"rois: on {rois.device}, but features are on {features.device}")
    if len(output_size) != 2 or min(output_size) < 1:
        raise ValueError(f"output_size: {output_size}; expected two positive numbers (h, w)")


def is_channels_last(t: Tensor) -> bool:
    """True where the layout of (N, C, H, W) is NHWC and not NCHW too (one channel, or one pixel, is both)."""
    return t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous()


def new_map(
    like: Tensor, shape: tuple[int, int, int, int], *, channels_last: bool, dtype: torch.dtype | None = None
) -> Tensor:
    """An uninitialised (n, c, h, w) in the layout asked for; for fakes."""
    n, c, h, w = shape
    if channels_last:
        return like.new_empty(n, h, w, c, dtype=dtype).permute(0, 3, 1, 2)
    return like.new_empty(n, c, h, w, dtype=dtype)
