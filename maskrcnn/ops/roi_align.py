"""RoIAlign (Mask R-CNN §3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maskrcnn.ops import reference
from maskrcnn.ops.extension import COMPILED, devices

DEVICES = devices("roi_align")


def roi_align(
    features: Tensor,
    rois: Tensor,
    *,
    scale: float,
    output_size: tuple[int, int],
    sampling_ratio: int = 2,
    aligned: bool = True,
) -> Tensor:
    """Features of each RoI, bilinear at regular points and averaged per bin (Mask R-CNN §3); no rounding anywhere.

    Differentiable in the features, not in the rois. The gradient is the same, bit for bit, for any number of threads.

    Args:
        features: (N, C, H, W), float32, float64, float16 or bfloat16; half types are summed in float32. channels_last
            is the fast layout; another one is converted, once per call.
        rois: (R, 5), image index then XYXY in input pixels; float32, or float64 for float64 features.
        scale: feature pixels per input pixel, 1 / stride.
        output_size: (h, w), the number of bins.
        sampling_ratio: points per bin and axis; 0 takes ceil(bin side), at least one per pixel. A box without extent
            then has no point, and gives zeros.
        aligned: pixel centres lie at half-integers, as for all boxes here; False: at integers, with boxes of at least
            one feature pixel, which is what the paper's and torchvision's weights were trained with.

    Returns:
        (R, C, h, w) with dtype and memory format of `features`. A point more than one pixel outside the map counts as
        zero; a non-finite box gives NaN in its row, and no gradient.

    Raises:
        ValueError: shape, dtype, device, a size that is not positive, an image index out of range.
    """
    _check(features, rois, output_size, sampling_ratio)
    if features.device.type not in DEVICES:
        return reference.roi_align(
            features, rois, scale=scale, output_size=output_size, sampling_ratio=sampling_ratio, aligned=aligned
        )
    aligned_features: Tensor = torch.ops.maskrcnn.roi_align(
        features, rois, scale, *output_size, sampling_ratio, aligned
    )
    return aligned_features


def _check(features: Tensor, rois: Tensor, output_size: tuple[int, int], sampling_ratio: int) -> None:
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
    if sampling_ratio < 0:
        raise ValueError(f"sampling_ratio: {sampling_ratio}; expected 0 (adaptive) or a positive number")


def _is_channels_last(features: Tensor) -> bool:
    return features.is_contiguous(memory_format=torch.channels_last) and not features.is_contiguous()


def _new_empty(like: Tensor, shape: tuple[int, int, int, int], channels_last: bool) -> Tensor:
    n, c, h, w = shape
    return like.new_empty(n, h, w, c).permute(0, 3, 1, 2) if channels_last else like.new_empty(n, c, h, w)


def _fake(
    features: Tensor, rois: Tensor, scale: float, height: int, width: int, sampling_ratio: int, aligned: bool
) -> Tensor:
    return _new_empty(features, (rois.shape[0], features.shape[1], height, width), _is_channels_last(features))


def _fake_backward(
    grad: Tensor,
    rois: Tensor,
    scale: float,
    images: int,
    height: int,
    width: int,
    sampling_ratio: int,
    aligned: bool,
    channels_last: bool,
) -> Tensor:
    return _new_empty(grad, (images, grad.shape[1], height, width), channels_last)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, rois, ctx.scale, _, _, ctx.sampling_ratio, ctx.aligned = inputs
    ctx.save_for_backward(rois)  # not the features: the map is linear in them
    ctx.images, _, ctx.height, ctx.width = features.shape
    ctx.channels_last = _is_channels_last(features)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (rois,) = ctx.saved_tensors
    features_grad: Tensor = torch.ops.maskrcnn.roi_align_backward(
        grad, rois, ctx.scale, ctx.images, ctx.height, ctx.width, ctx.sampling_ratio, ctx.aligned, ctx.channels_last
    )
    return features_grad, None, None, None, None, None, None


if COMPILED:  # an operator that does not exist takes no fake and no gradient
    torch.library.register_fake("maskrcnn::roi_align", _fake)
    torch.library.register_fake("maskrcnn::roi_align_backward", _fake_backward)
    torch.library.register_autograd("maskrcnn::roi_align", _backward, setup_context=_setup_context)
