"""2-d convolution with a faster gradient of its weight on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input

MAX_PADDING = 1.25  # how much larger padding may make the map: on the 14x14 cells of a RoI torch's own way is as fast


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """`F.conv2d`, with the same values and gradients.

    For float32 in channels_last on the CPU, oneDNN takes two to three times as long for the weight's gradient of a 3x3
    convolution as for its other two passes, which are of the same size. There it is computed as one matrix product for
    each of the kernel's taps.

    Args:
        x: (N, C_in, H, W).
        weight: (C_out, C_in / groups, h, w).
        bias: (C_out,), or None.
    """
    if _by_products(x, weight, padding, dilation, groups):
        out: Tensor = _Conv2d.apply(x, weight, bias, stride, padding)
        return out
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def _by_products(x: Tensor, weight: Tensor, padding: Sequence[int], dilation: Sequence[int], groups: int) -> bool:
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    if not (weight.requires_grad and torch.is_grad_enabled()) or torch.compiler.is_compiling():
        return False
    height, width = x.shape[2:]
    padded = (height + 2 * padding[0]) * (width + 2 * padding[1])
    wide = weight.shape[2] * weight.shape[3] > 1 and 0 < padded <= MAX_PADDING * height * width
    return wide and groups == 1 and tuple(dilation) == (1, 1) and x.is_contiguous(memory_format=torch.channels_last)


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        x_grad = weight_grad = None
        if needs_x:
            size, (stride, padding) = x.shape, (ctx.stride, ctx.padding)
            x_grad = conv2d_input(size, weight, grad, stride, padding)  # type: ignore[no-untyped-call]
        if needs_weight:
            weight_grad = weight_gradient(x, grad, (weight.shape[2], weight.shape[3]), ctx.stride, ctx.padding)
        return x_grad, weight_grad, grad.sum(dim=(0, 2, 3)) if needs_bias else None, None, None


def weight_gradient(
    x: Tensor, grad: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """The gradient of a convolution's weight: for each tap the product of outputs' gradients and the inputs they saw.

    Args:
        x: (N, C_in, H, W), channels_last.
        grad: (N, C_out, H', W'), of the output.

    Returns:
        (C_out, C_in, h, w).
    """
    count, channels = grad.shape[:2]
    rows, columns = grad.shape[2:]
    (pad_y, pad_x), (step_y, step_x) = padding, stride
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, pad_x, pad_x, pad_y, pad_y)).contiguous()
    products = grad.new_empty(*kernel, channels, x.shape[1])
    taps = [(i, j) for i in range(kernel[0]) for j in range(kernel[1])]
    grad = grad.permute(0, 2, 3, 1)
    if tuple(stride) == (1, 1):
        # On the padded map a tap is the same place further on, so no input is copied; the gradient has zeros there.
        spread = grad.new_zeros(*padded.shape[:3], channels)
        spread[:, :rows, :columns] = grad
        outputs, inputs = spread.view(-1, channels), padded.view(-1, x.shape[1])
        for i, j in taps:
            shift = i * padded.shape[2] + j
            torch.mm(outputs[: len(outputs) - shift].t(), inputs[shift:], out=products[i, j])
    else:
        outputs = grad.reshape(count * rows * columns, channels)
        for i, j in taps:
            seen = padded[:, i : i + step_y * (rows - 1) + 1 : step_y, j : j + step_x * (columns - 1) + 1 : step_x]
            torch.mm(outputs.t(), seen.reshape(len(outputs), x.shape[1]), out=products[i, j])
    return products.permute(2, 3, 0, 1)
