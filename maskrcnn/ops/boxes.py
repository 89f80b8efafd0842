"""Box arithmetic. Boxes are (..., 4) XYXY, continuous; everything here is differentiable and takes empty inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_LOG_SCALE = math.log(1000 / 16)  # of Detectron: an anchor of 16 pixels grows to at most 1000 in one step


def area(boxes: Tensor) -> Tensor:
    """Areas (...,) of boxes (..., 4); zero for an inverted box."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)


def clip_boxes(boxes: Tensor, size: tuple[int, int], *, kept: float = 0.0) -> Tensor:
    """Boxes (..., 4) cut at the border of a frame of `size` (height, width).

    Args:
        kept: x1 and y1 stay so far inside the right and lower border, and x2 and y2 inside the others: what a box that
            lies outside keeps of its width. 0: it loses its area.
    """
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(-1)
    low = (x1.clamp(0, width - kept), y1.clamp(0, height - kept))
    return torch.stack((*low, x2.clamp(kept, width), y2.clamp(kept, height)), dim=-1)


def clip_batch(boxes: Tensor, sizes: Sequence[tuple[int, int]], *, kept: float = 0.0) -> Tensor:
    """`clip_boxes` of boxes (N, P, 4), those of each image by its own one of N sizes."""
    limits = torch.tensor([(w - kept, h - kept, w, h) for h, w in sizes], dtype=boxes.dtype).reshape(-1, 1, 4)
    boxes = boxes.clamp(min=boxes.new_tensor([0, 0, kept, kept]) if kept else 0)
    return boxes.clamp(max=limits.to(boxes.device, non_blocking=True))


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    """Areas (...) that boxes (..., 4) share. By coordinate: an (..., 2) tensor would cost twice the time."""
    ax1, ay1, ax2, ay2 = a.unbind(-1)
    bx1, by1, bx2, by2 = b.unbind(-1)
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    return width * height


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (...) of boxes (..., 4), broadcast; zero where neither has an area."""
    shared = _intersection(a, b)
    union = area(a) + area(b) - shared
    return torch.where(union > 0, shared / union, 0.0)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (N, M) of boxes (N, 4) and (M, 4); zero where neither has an area."""
    return paired_iou(a[:, None], b)


def pairwise_ioa(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over the area of `a` (N, M), of boxes (N, 4) and (M, 4); zero where `a` has none.

    For crowd regions: how much of `a` a region `b` covers, however large the region is.
    """
    areas = area(a)[:, None]
    return torch.where(areas > 0, _intersection(a[:, None], b) / areas, 0.0)


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x1, y1, x2, y2 = boxes.unbind(-1)
    width, height = x2 - x1, y2 - y1
    return x1 + width / 2, y1 + height / 2, width, height


def encode_boxes(boxes: Tensor, reference: Tensor, weights: tuple[float, float, float, float]) -> Tensor:
    """Boxes relative to reference boxes (Fast R-CNN's t_x, t_y, t_w, t_h; R-CNN Appendix C, Eq. 6-9).

    Args:
        boxes: (..., 4), with positive width and height.
        reference: (..., 4) anchors or proposals, broadcast against `boxes`, with positive width and height.
        weights: (w_x, w_y, w_w, w_h), what the deltas are multiplied by.

    Returns:
        Deltas (..., 4), float32 (float64 for float64 boxes). Infinite or NaN where a side is not positive.
    """
    x, y, w, h = _centre_and_size(_full_precision(boxes))
    rx, ry, rw, rh = _centre_and_size(_full_precision(reference))
    wx, wy, ww, wh = weights
    return torch.stack((wx * (x - rx) / rw, wy * (y - ry) / rh, ww * (w / rw).log(), wh * (h / rh).log()), dim=-1)


def decode_boxes(
    deltas: Tensor,
    reference: Tensor,
    weights: tuple[float, float, float, float],
    clip: float = MAX_LOG_SCALE,
    *,
    symmetric: bool = False,
) -> Tensor:
    """The boxes that deltas stand for; undoes `encode_boxes`.

    Args:
        deltas: (..., 4); half types under mixed precision are decoded in float32.
        reference: (..., 4), broadcast against `deltas`: (R, 1, 4) for class-wise deltas (R, K, 4).
        weights: as in `encode_boxes`.
        clip: the largest log-scale of width and height, against overflow from an untrained network.
        symmetric: -clip is the smallest one.

    Returns:
        (..., 4), float32 (float64 for float64 deltas); not clipped to any frame.
    """
    dx, dy, dw, dh = (d / w for d, w in zip(_full_precision(deltas).unbind(-1), weights, strict=True))
    rx, ry, rw, rh = _centre_and_size(_full_precision(reference))
    x, y = rx + dx * rw, ry + dy * rh
    least = -clip if symmetric else None
    half_w, half_h = rw * dw.clamp(least, clip).exp() / 2, rh * dh.clamp(least, clip).exp() / 2
    return torch.stack((x - half_w, y - half_h, x + half_w, y + half_h), dim=-1)


def _full_precision(x: Tensor) -> Tensor:
    """At least float32: a bfloat16 coordinate of 1000 would be off by up to 4 pixels."""
    return x if x.dtype == torch.float64 else x.float()
