"""Non-maximum suppression. Nothing here has a gradient: what is chosen is an index."""

from __future__ import annotations

import torch
from torch import Tensor

from maskrcnn.ops import reference
from maskrcnn.ops.extension import COMPILED, devices

DEVICES = devices("nms")


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression: a box goes when one of a higher score, itself kept, overlaps it too much.

    On CUDA it waits for the device once, for the number of kept boxes; `padded_nms` never waits.

    Args:
        boxes: (N, 4); half types are compared in float32.
        scores: (N,); of equal scores the earlier box counts as the higher.
        iou_threshold: in [0, 1]; a box is suppressed by an IoU above it.

    Returns:
        int64 indices of the kept boxes, by falling score. A box with a non-finite coordinate, or a score that is NaN,
        neither is kept nor suppresses; nor does a box suppress whose area is zero or overflows.

    Raises:
        ValueError: shape, dtype, device or threshold; names the argument.
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


def padded_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, max_keep: int
) -> tuple[Tensor, Tensor]:
    """`batched_nms` of each image of a batch, in one call whose results' sizes do not depend on the data.

    Args:
        boxes: (N, P, 4).
        scores: (N, P); NaN leaves a box out.
        groups: int64 (P,), the same for all images, or (N, P).
        iou_threshold: as in `nms`.
        max_keep: an image's best so many of all groups are kept.

    Returns:
        Indices int64 (N, max_keep) into the image's boxes, by falling score, then -1; and their number, int64 (N,).

    Raises:
        ValueError: shape, dtype, device, threshold or max_keep; names the argument.
    """
    check_boxes_and_scores(boxes, scores, ("N", "P"))
    if groups.dtype != torch.int64 or groups.shape not in (scores.shape, scores.shape[1:]):
        expected = f"({scores.shape[1]},) or {tuple(scores.shape)}"
        raise ValueError(f"groups: {groups.dtype} of shape {tuple(groups.shape)}; expected int64 {expected}")
    check_device("groups", groups, boxes)
    check_threshold(iou_threshold)
    if max_keep < 0:
        raise ValueError(f"max_keep: {max_keep}; expected a number that is not negative")
    boxes, scores = without_gradient(boxes), without_gradient(scores)
    if boxes.device.type not in DEVICES:
        return reference.padded_nms(boxes, scores, groups, iou_threshold, max_keep)
    kept: Tensor
    counts: Tensor
    kept, counts = torch.ops.maskrcnn.padded_nms(boxes, scores, groups, iou_threshold, max_keep)
    return kept, counts


def _nms(boxes: Tensor, scores: Tensor, groups: Tensor | None, iou_threshold: float) -> Tensor:
    check_boxes_and_scores(boxes, scores, ("N",))
    if groups is not None:
        check_groups(groups, boxes)
    check_threshold(iou_threshold)
    boxes, scores = without_gradient(boxes), without_gradient(scores)
    if boxes.device.type not in DEVICES:
        return reference.batched_nms(boxes, scores, groups, iou_threshold)
    kept: Tensor = torch.ops.maskrcnn.nms(boxes, scores, groups, iou_threshold)
    return kept


def without_gradient(x: Tensor) -> Tensor:
    """Detached, and at least float32."""
    return x.detach() if x.dtype == torch.float64 else x.detach().float()


def check_boxes_and_scores(boxes: Tensor, scores: Tensor, dims: tuple[str, ...]) -> None:
    """Boxes (*dims, 4) and scores (*dims,), floats on one device."""
    if boxes.ndim != len(dims) + 1 or boxes.shape[-1] != 4 or not boxes.is_floating_point():
        expected = f"({', '.join(dims)}, 4)"
        raise ValueError(f"boxes: {boxes.dtype} of shape {tuple(boxes.shape)}; expected a float tensor {expected}")
    if scores.shape != boxes.shape[:-1] or not scores.is_floating_point():
        expected = str(tuple(boxes.shape[:-1]))
        raise ValueError(f"scores: {scores.dtype} of shape {tuple(scores.shape)}; expected a float tensor {expected}")
    check_device("scores", scores, boxes)


def check_groups(groups: Tensor, boxes: Tensor) -> None:
    """Groups int64 (N,) for boxes (N, 4)."""
    if groups.ndim != 1 or groups.shape[0] != boxes.shape[0] or groups.dtype != torch.int64:
        raise ValueError(f"groups: {groups.dtype} of shape {tuple(groups.shape)}; expected int64 ({boxes.shape[0]},)")
    check_device("groups", groups, boxes)


def check_device(name: str, other: Tensor, boxes: Tensor) -> None:
    if other.device != boxes.device:
        raise ValueError(f"{name}: on {other.device}, but boxes are on {boxes.device}")


def check_threshold(iou_threshold: float) -> None:
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold: {iou_threshold}; expected a number in [0, 1]")


def _fake(boxes: Tensor, scores: Tensor, groups: Tensor | None, iou_threshold: float) -> Tensor:
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


def _fake_padded(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, max_keep: int
) -> tuple[Tensor, Tensor]:
    images = boxes.shape[0]
    return boxes.new_empty(images, max_keep, dtype=torch.int64), boxes.new_empty(images, dtype=torch.int64)


if COMPILED:  # an operator that does not exist takes no fake
    torch.library.register_fake("maskrcnn::nms", _fake)
    torch.library.register_fake("maskrcnn::padded_nms", _fake_padded)
