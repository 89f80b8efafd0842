"""Soft-NMS (Bodla et al. 2017)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from maskrcnn.ops import reference
from maskrcnn.ops.extension import COMPILED, devices
from maskrcnn.ops.nms import check_boxes_and_scores, check_groups, check_threshold, without_gradient

DEVICES = devices("soft_nms")


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    iou_threshold: float,
    *,
    method: Literal["linear", "gaussian"] = "linear",
    sigma: float = 0.5,
    min_score: float = 1e-3,
) -> tuple[Tensor, Tensor]:
    """Instead of removing a box that overlaps a better one of its group, lower its score (Bodla et al. 2017, Fig. 2).

    Without a gradient. On CUDA it waits for the device once, for the number of kept boxes.

    Args:
        boxes: (N, 4).
        scores: (N,); half types count as float32, and with float64 on either side all is float64.
        groups: int64 (N,), any values.
        iou_threshold: linear: an IoU above it multiplies a score by 1 - IoU (Eq. 2); Gaussian: unused.
        method: linear, or Gaussian, where every IoU multiplies a score by exp(-IoU^2 / sigma) (Eq. 3).
        sigma: of the Gaussian.
        min_score: not negative; boxes whose new score is not above it go.

    Returns:
        int64 indices of the kept boxes, by falling new score (of equal ones the earlier box first), and the new scores.
        A box with a non-finite coordinate or score is neither kept nor lowers a score.

    Raises:
        ValueError: shape, dtype, device, or a number out of its range; names the argument.
    """
    check_boxes_and_scores(boxes, scores, ("N",))
    check_groups(groups, boxes)
    check_threshold(iou_threshold)
    if method not in ("linear", "gaussian"):
        raise ValueError(f"method: {method!r}; expected 'linear' or 'gaussian'")
    if not sigma > 0:
        raise ValueError(f"sigma: {sigma}; expected a positive number")
    if not min_score >= 0:
        raise ValueError(f"min_score: {min_score}; expected a number that is not negative")
    boxes, scores = without_gradient(boxes), without_gradient(scores)
    dtype = torch.promote_types(boxes.dtype, scores.dtype)
    arguments = boxes.to(dtype), scores.to(dtype), groups, iou_threshold, method == "gaussian", sigma, min_score
    if boxes.device.type not in DEVICES:
        return reference.soft_nms(*arguments)
    kept: Tensor
    rescored: Tensor
    kept, rescored = torch.ops.maskrcnn.soft_nms(*arguments)
    return kept, rescored


def _fake(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    iou_threshold: float,
    gaussian: bool,
    sigma: float,
    min_score: float,
) -> tuple[Tensor, Tensor]:
    size = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(size, dtype=torch.int64), scores.new_empty(size)


if COMPILED:  # an operator that does not exist takes no fake
    torch.library.register_fake("maskrcnn::soft_nms", _fake)
