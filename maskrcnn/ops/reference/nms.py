"""Greedy suppression in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from maskrcnn.ops.boxes import pairwise_iou

NMS_BLOCK = 1024


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression; arguments and result as in `ops.nms`."""
    return batched_nms(boxes, scores, None, iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor | None, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression within groups (None: one group); arguments and result as in `ops.batched_nms`.

    Block by block of falling score: what earlier blocks kept suppresses first, then the block's own boxes. Within a
    block, `keep = not suppressed by a kept one` is repeated until it holds; each round settles at least one more box
    and few rounds are needed, where a loop over boxes would wait for the device at each.
    """
    order = scores.sort(descending=True, stable=True).indices
    order = order[(boxes.isfinite().all(dim=1) & ~scores.isnan())[order]]
    kept = order[:0]
    for start in range(0, len(order), NMS_BLOCK):
        block = order[start : start + NMS_BLOCK]
        block = block[~_suppressed(boxes, groups, kept, block, iou_threshold).any(dim=0)]
        suppresses = _suppressed(boxes, groups, block, block, iou_threshold).triu(diagonal=1)
        keep = torch.ones_like(block, dtype=torch.bool)
        while True:
            settled = ~(suppresses & keep[:, None]).any(dim=0)
            if torch.equal(settled, keep):
                break
            keep = settled
        kept = torch.cat((kept, block[keep]))
    return kept


def padded_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, max_keep: int
) -> tuple[Tensor, Tensor]:
    """Greedy non-maximum suppression of each image of a batch; arguments and result as in `ops.padded_nms`."""
    images, count = scores.shape
    values, group = torch.unique(groups, return_inverse=True)
    image = torch.arange(images, device=boxes.device)
    kept = batched_nms(
        boxes.flatten(0, 1), scores.flatten(), (image[:, None] * len(values) + group).flatten(), iou_threshold
    )
    owner = kept // max(count, 1)
    by_image = owner.sort(stable=True).indices  # within an image still by falling score
    kept, owner = kept[by_image], owner[by_image]
    counts = torch.bincount(owner, minlength=images)
    place = torch.arange(len(kept), device=boxes.device) - (counts.cumsum(0) - counts)[owner]
    best = place < max_keep
    indices = torch.full((images, max_keep), -1, device=boxes.device)
    indices[owner[best], place[best]] = kept[best] % max(count, 1)
    return indices, counts.clamp(max=max_keep)


def _suppressed(boxes: Tensor, groups: Tensor | None, by: Tensor, candidates: Tensor, iou_threshold: float) -> Tensor:
    """(B, C) whether box `by[i]` overlaps box `candidates[j]` of its group too much."""
    overlap = pairwise_iou(boxes[by], boxes[candidates]) > iou_threshold
    return overlap if groups is None else overlap & (groups[by][:, None] == groups[candidates])
