"""RoIPool (Fast R-CNN §2.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maskrcnn.ops import reference
from maskrcnn.ops.extension import COMPILED, devices
from maskrcnn.ops.rois import check_rois, is_channels_last, new_map

DEVICES = devices("roi_pool")


def roi_pool(features: Tensor, rois: Tensor, *, scale: float, output_size: tuple[int, int]) -> Tensor:
    """The largest value in each bin of each RoI, everything rounded to whole pixels (Fast R-CNN §2.1).

    Corners are rounded half away from zero and both are pixels of the box, which is at least one pixel wide and high;
    a bin reaches from the floor of its start to the ceiling of its end, so that neighbours may share pixels.
    Differentiable in the features, not in the rois: the gradient goes to the first pixel, row by row, that holds the
    largest value. On the CPU it is the same, bit for bit, for any number of threads; on CUDA it is so under
    `torch.use_deterministic_algorithms(True)`.

    Args:
        features: (N, C, H, W), float32, float64, float16 or bfloat16; planes of fewer than 2^31 pixels. On the CPU,
            channels_last is the fast layout; another one is converted, once per call.
        rois: (R, 5), image index then XYXY in input pixels; float32, or float64 for float64 features.
        scale: feature pixels per input pixel, 1 / stride.
        output_size: (h, w), the number of bins.

    Returns:
        (R, C, h, w) with dtype and memory format of `features`. A bin without a pixel on the map is zero and passes no
        gradient; a NaN among a bin's pixels is its largest value; a non-finite box gives NaN in its row, and no
        gradient.

    Raises:
        ValueError: shape, dtype, device, a size that is not positive, an image index out of range (on CUDA, where
            looking at it would wait for the device, its row is NaN instead).
    """
    check_rois(features, rois, output_size)
    if features.device.type not in DEVICES:
        return reference.roi_pool(features, rois, scale=scale, output_size=output_size)
    pooled: Tensor = torch.ops.maskrcnn.roi_pool(features, rois, scale, *output_size)[0]
    return pooled


def _fake(features: Tensor, rois: Tensor, scale: float, height: int, width: int) -> tuple[Tensor, Tensor]:
    shape = (rois.shape[0], features.shape[1], height, width)
    channels_last = is_channels_last(features)
    return (
        new_map(features, shape, channels_last=channels_last),
        new_map(features, shape, channels_last=channels_last, dtype=torch.int32),
    )


def _fake_backward(
    grad: Tensor,
    argmax: Tensor,
    rois: Tensor,
    scale: float,
    images: int,
    height: int,
    width: int,
    channels_last: bool,
    deterministic: bool,
) -> Tensor:
    return new_map(grad, (images, grad.shape[1], height, width), channels_last=channels_last)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, rois, ctx.scale, _, _ = inputs
    argmax = output[1]
    ctx.mark_non_differentiable(argmax)
    ctx.save_for_backward(argmax, rois)
    ctx.images, _, ctx.height, ctx.width = features.shape
    ctx.channels_last = is_channels_last(features)


def _backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    argmax, rois = ctx.saved_tensors
    features_grad: Tensor = torch.ops.maskrcnn.roi_pool_backward(
        grad,
        argmax,
        rois,
        ctx.scale,
        ctx.images,
        ctx.height,
        ctx.width,
        ctx.channels_last,
        torch.are_deterministic_algorithms_enabled(),
    )
    return features_grad, None, None, None, None


if COMPILED:  # an operator that does not exist takes no fake and no gradient
    torch.library.register_fake("maskrcnn::roi_pool", _fake)
    torch.library.register_fake("maskrcnn::roi_pool_backward", _fake_backward)
    torch.library.register_autograd("maskrcnn::roi_pool", _backward, setup_context=_setup_context)
