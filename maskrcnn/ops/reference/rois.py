"""What the references on RoIs share."""

from __future__ import annotations

import torch
from torch import Tensor


def check_image_index(rois: Tensor, images: int) -> None:
    """Raises ValueError for an image that does not exist. On the CPU alone: elsewhere it would wait for the device."""
    if rois.device.type != "cpu":
        return
    wrong = ~((rois[:, 0] >= 0) & (rois[:, 0] < images))
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(f"rois: row {row} has image index {rois[row, 0].item():g}, but there are {images} images")


def finite_boxes(rois: Tensor, scale: float | Tensor) -> Tensor:
    """(R,) whether a box's corners and sides are finite, in feature pixels."""
    boxes = rois[:, 1:] * scale
    return boxes.isfinite().all(dim=1) & (boxes[:, 2:] - boxes[:, :2]).isfinite().all(dim=1)


def round_half_away(x: Tensor) -> Tensor:
    """Whole numbers as C's round() gives them; torch.round takes halves to even numbers."""
    whole = x.trunc()
    return whole + torch.where((x - whole).abs() >= 0.5, x.sign(), 0)


def in_layout_of(features: Tensor, out: Tensor) -> Tensor:
    """`out` in the memory format of `features`."""
    channels_last = features.is_contiguous(memory_format=torch.channels_last) and not features.is_contiguous()
    return out.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
