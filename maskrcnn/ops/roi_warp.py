"""RoIWarp (MNC §4)."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn.ops import reference
from maskrcnn.ops.extension import COMPILED, devices
from maskrcnn.ops.rois import check_rois, is_channels_last, new_map

DEVICES = devices("roi_warp")


def roi_warp(
    features: Tensor, rois: Tensor, *, scale: float, output_size: tuple[int, int], rounded: bool = False
) -> Tensor:
    """RoI warping, differentiable in the boxes as well as in the features (MNC §4, Eq. 6-9).

    Sample p of w lies at x1 + p (x2 - x1) / w in feature pixels, the start of the p-th bin, and is bilinear; likewise
    y. Pixel centres lie at whole coordinates. Pixels beyond the map do not exist (Eq. 8 has no weight for them):
    values fade to zero within one pixel outside the border pixels' centres. The derivative in x jumps where a sample
    meets a pixel centre; there it is the one to the right, as with y the one below.

    On the CPU, gradients are the same, bit for bit, for any number of threads; on CUDA they are the same for each run
    under `torch.use_deterministic_algorithms(True)`.

    Args:
        features: (N, C, H, W), float32, float64, float16 or bfloat16; half types are summed in float32. On the CPU,
            channels_last is the fast layout; another one is converted, once per call.
        rois: (R, 5), image index then XYXY in input pixels; float32, or float64 for float64 features, and so is their
            gradient, which is zero for the image index.
        scale: feature pixels per input pixel, 1 / stride.
        output_size: (h, w), samples; MNC warps to (28, 28) and max-pools afterwards: `roi_warp_pool`.
        rounded: as MNC's released code: corners are rounded (half away from zero) once they are scaled, and a box
            without a positive width is one column, its x1; likewise y. The gradient takes rounding as the identity.

    Returns:
        (R, C, h, w) with dtype and memory format of `features`. A box without extent repeats one sample, an inverted
        one mirrors; a non-finite box gives NaN in its row, and no gradient.

    Raises:
        ValueError: shape, dtype, device, a size that is not positive, an image index out of range (on CUDA, where
            looking at it would wait for the device, its row is NaN instead).
    """
    check_rois(features, rois, output_size)
    if features.device.type not in DEVICES:
        return reference.roi_warp(features, rois, scale=scale, output_size=output_size, rounded=rounded)
    warped: Tensor = torch.ops.maskrcnn.roi_warp(features, rois, scale, *output_size, rounded)
    return warped


def roi_warp_pool(
    features: Tensor,
    rois: Tensor,
    *,
    scale: float,
    output_size: tuple[int, int],
    pool: Literal["max", "average"] = "max",
    window: int = 2,
    rounded: bool = False,
) -> Tensor:
    """RoI warping to `window` times the output size, then pooling (MNC §4: 28 x 28, then max-pooled to 14 x 14).

    Arguments, result and errors as of `roi_warp`, and:

    Args:
        output_size: (h, w) after pooling.
        pool: "max" or "average" over windows of `window` x `window` samples.
    """
    if pool not in ("max", "average"):
        raise ValueError(f"pool: {pool!r}; expected 'max' or 'average'")
    if window < 1:
        raise ValueError(f"window: {window}; expected a positive number")
    check_rois(features, rois, output_size)
    height, width = output_size
    samples = (height * window, width * window)
    warped = roi_warp(features, rois, scale=scale, output_size=samples, rounded=rounded)
    if features.shape[1] == 0:  # torch's pooling refuses tensors without channels
        return warped[:, :, ::window, ::window]
    return F.max_pool2d(warped, window) if pool == "max" else F.avg_pool2d(warped, window)


def _fake(features: Tensor, rois: Tensor, scale: float, height: int, width: int, rounded: bool) -> Tensor:
    shape = (rois.shape[0], features.shape[1], height, width)
    return new_map(features, shape, channels_last=is_channels_last(features))


def _fake_backward_input(
    grad: Tensor,
    rois: Tensor,
    scale: float,
    images: int,
    height: int,
    width: int,
    rounded: bool,
    channels_last: bool,
    deterministic: bool,
) -> Tensor:
    return new_map(grad, (images, grad.shape[1], height, width), channels_last=channels_last)


def _fake_backward_rois(grad: Tensor, features: Tensor, rois: Tensor, scale: float, rounded: bool) -> Tensor:
    return rois.new_empty(rois.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, rois, ctx.scale, _, _, ctx.rounded = inputs
    # With constant boxes the features are not needed: the map is linear in them.
    ctx.save_for_backward(rois, *([features] if ctx.needs_input_grad[1] else []))
    ctx.images, _, ctx.height, ctx.width = features.shape
    ctx.channels_last = is_channels_last(features)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rois, *features = ctx.saved_tensors
    features_grad: Tensor | None = None
    rois_grad: Tensor | None = None
    if ctx.needs_input_grad[0]:
        features_grad = torch.ops.maskrcnn.roi_warp_backward_input(
            grad,
            rois,
            ctx.scale,
            ctx.images,
            ctx.height,
            ctx.width,
            ctx.rounded,
            ctx.channels_last,
            torch.are_deterministic_algorithms_enabled(),
        )
    if ctx.needs_input_grad[1]:
        rois_grad = torch.ops.maskrcnn.roi_warp_backward_rois(grad, *features, rois, ctx.scale, ctx.rounded)
    return features_grad, rois_grad, None, None, None, None


if COMPILED:  # an operator that does not exist takes no fake and no gradient
    torch.library.register_fake("maskrcnn::roi_warp", _fake)
    torch.library.register_fake("maskrcnn::roi_warp_backward_input", _fake_backward_input)
    torch.library.register_fake("maskrcnn::roi_warp_backward_rois", _fake_backward_rois)
    torch.library.register_autograd("maskrcnn::roi_warp", _backward, setup_context=_setup_context)
