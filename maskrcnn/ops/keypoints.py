"""Keypoints from heat maps (Mask R-CNN §3.1, "Keypoint detection")."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from maskrcnn.ops import reference
from maskrcnn.ops.extension import COMPILED, devices

DEVICES = devices("decode_keypoints")


def decode_keypoints(heatmaps: Tensor, boxes: Tensor, *, score: Literal["logit", "probability"] = "logit") -> Tensor:
    """The point of each heat map: the first largest sample of the map resized (bicubic) to its box.

    A box of w x h px is sampled at ceil(w) x ceil(h) points, at the centres of as many equal parts: what the authors'
    code does. A side below one pixel counts as one, and one beyond 8192 px is sampled at 8192 points. The resized maps
    are never built; the kernels' time hardly grows with the box. Of 16 equal cells the first sample counts, whichever
    rounding would lift. Not differentiable.

    Args:
        heatmaps: (R, K, m, m) logits, one map per keypoint; float32, float64, float16 or bfloat16, interpolated in
            float32 (float64 for float64). Any layout, without a copy.
        boxes: (R, 4) XYXY; float32, or float64 for float64 heat maps.
        score: "logit", the resized map's at the point (Detectron, torchvision); "probability", that logit's
            exponential over the sum of the m x m map's own (Detectron2), which makes boxes of all sizes comparable. As
            the cubic overshoots, it may exceed 1 a little.

    Returns:
        (R, K, 3), the dtype of `boxes`: x, y in the frame of the boxes, and the score. NaN where the box is not finite,
        or a value of the map is not (or is beyond an eighth of the dtype's largest, so that the cubic might overflow).

    Raises:
        ValueError: shape, dtype, device or score; names the argument.
    """
    _check(heatmaps, boxes, score)
    heatmaps, boxes = heatmaps.detach(), boxes.detach()
    if heatmaps.device.type in DEVICES:
        keypoints: Tensor = torch.ops.maskrcnn.decode_keypoints(heatmaps, boxes)
    else:
        keypoints = reference.decode_keypoints(heatmaps, boxes)
    if score == "logit":
        return keypoints
    total = heatmaps.to(boxes.dtype).flatten(2).logsumexp(dim=2, keepdim=True)
    return torch.cat((keypoints[..., :2], (keypoints[..., 2:] - total).exp()), dim=2)


def _check(heatmaps: Tensor, boxes: Tensor, score: str) -> None:
    if heatmaps.ndim != 4 or not heatmaps.is_floating_point() or 0 in heatmaps.shape[2:]:
        raise ValueError(
            f"heatmaps: {heatmaps.dtype} of shape {tuple(heatmaps.shape)}; expected a float tensor (R, K, m, m), m > 0"
        )
    if boxes.ndim != 2 or boxes.shape[0] != heatmaps.shape[0] or boxes.shape[1] != 4:
        raise ValueError(f"boxes: shape {tuple(boxes.shape)}; expected ({heatmaps.shape[0]}, 4): x1, y1, x2, y2")
    expected = torch.float64 if heatmaps.dtype == torch.float64 else torch.float32
    if boxes.dtype != expected:
        raise ValueError(f"boxes: {boxes.dtype}; expected {expected} for {heatmaps.dtype} heatmaps")
    if boxes.device != heatmaps.device:
        raise ValueError(f"boxes: on {boxes.device}, but heatmaps are on {heatmaps.device}")
    if score not in ("logit", "probability"):
        raise ValueError(f"score: {score!r}; expected 'logit' or 'probability'")


def _fake(heatmaps: Tensor, boxes: Tensor) -> Tensor:
    return boxes.new_empty(heatmaps.shape[0], heatmaps.shape[1], 3)


if COMPILED:  # an operator that does not exist takes no fake
    torch.library.register_fake("maskrcnn::decode_keypoints", _fake)
