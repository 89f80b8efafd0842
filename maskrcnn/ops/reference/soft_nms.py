"""Soft-NMS in plain PyTorch (Bodla et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from maskrcnn.ops.boxes import paired_iou


def soft_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, gaussian: bool, sigma: float, min_score: float
) -> tuple[Tensor, Tensor]:
    """Soft-NMS within groups (Fig. 2); arguments as in `ops.soft_nms`, the method as a flag, and the same result.

    All groups at once: each round takes the best box of every group that has one, so there are as many rounds as the
    largest group has boxes.
    """
    count = len(boxes)
    values, group = torch.unique(groups, return_inverse=True)
    takes_part = boxes.isfinite().all(dim=1) & scores.isfinite()
    current = torch.where(takes_part, scores, -1)
    final = torch.full_like(scores, -1)
    position = torch.arange(count, device=boxes.device)
    while (current > min_score).any():
        best = current.new_full((len(values),), -1).scatter_reduce(0, group, current, "amax")
        candidate = torch.where((current == best[group]) & (current > min_score), position, count)
        first = position.new_full((len(values),), count).scatter_reduce(0, group, candidate, "amin")
        taken = first[first < count]
        final[taken] = current[taken]
        iou = paired_iou(boxes[first.clamp(max=max(count - 1, 0))[group]], boxes)
        iou = iou.where(first[group] < count, 0)
        if gaussian:
            decay = torch.exp(-(iou**2) / sigma)  # Eq. 3
        else:
            decay = torch.where(iou > iou_threshold, 1 - iou, 1)  # Eq. 2
        current = (current * decay).where(current > min_score, -1)
        current[taken] = -1
    order = final.sort(descending=True, stable=True).indices
    order = order[final[order] > min_score]
    return order, final[order]
