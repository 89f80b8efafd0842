"""Non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor

from maskrcnn.ops import reference
from maskrcnn.ops.extension import COMPILED, devices

DEVICES = devices("nms")


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression: a box goes when one of a higher score, itself kept, overlaps it too much.

    Args:
        boxes: (N, 4).
        scores: (N,); of equal scores the earlier box counts as the higher.
        iou_threshold: in [0, 1]; a box is suppressed by an IoU above it.

    Returns:
        int64 indices of the kept boxes, by falling score. A box with a non-finite coordinate, or a score that is NaN,
        neither is kept nor suppresses.

    Raises:
        ValueError: shape, device or threshold; names the argument.
    """
    return _nms(boxes, scores, None, iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """`nms` within each group: boxes of different groups do not compete.

    Args:
        boxes, scores, iou_threshold: as in `nms`.
        groups: int64 (N,), any values: classes, levels, images or a mix of them.

    Returns:
        int64 indices of the kept boxes of all groups, by falling score.
    """
    return _nms(boxes, scores, groups, iou_threshold)


def _nms(boxes: Tensor, scores: Tensor, groups: Tensor | None, iou_threshold: float) -> Tensor:
    _check(boxes, scores, groups, iou_threshold)
    boxes, scores = boxes.detach(), scores.detach()
    if boxes.dtype != torch.float64:
        boxes = boxes.float()
    if boxes.device.type not in DEVICES:
        return reference.batched_nms(boxes, scores, groups, iou_threshold)
    if groups is None:
        groups = boxes.new_empty(0, dtype=torch.int64)
    kept: Tensor = torch.ops.maskrcnn.nms(boxes, scores, groups, iou_threshold)
    return kept


def _check(boxes: Tensor, scores: Tensor, groups: Tensor | None, iou_threshold: float) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise ValueError(f"boxes: {boxes.dtype} of shape {tuple(boxes.shape)}; expected a float tensor (N, 4)")
    if scores.ndim != 1 or scores.shape[0] != boxes.shape[0] or not scores.is_floating_point():
        raise ValueError(
            f"scores: {scores.dtype} of shape {tuple(scores.shape)}; expected a float tensor ({boxes.shape[0]},)"
        )
    if groups is not None and (groups.ndim != 1 or groups.shape[0] != boxes.shape[0] or groups.dtype != torch.int64):
        raise ValueError(f"groups: {groups.dtype} of shape {tuple(groups.shape)}; expected int64 ({boxes.shape[0]},)")
    for name, other in (("scores", scores), ("groups", groups)):
        if other is not None and other.device != boxes.device:
            raise ValueError(f"{name}: on {other.device}, but boxes are on {boxes.device}")
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold: {iou_threshold}; expected a number in [0, 1]")


def _fake(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


if COMPILED:  # an operator that does not exist takes no fake
    torch.library.register_fake("maskrcnn::nms", _fake)
