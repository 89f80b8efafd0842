"""Batch normalisation over the batches of all processes, on any device.

torch's own takes GPUs alone, and there waits for the device at every layer.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose statistics are those of all processes' batches put together.

    (N, C, H, W) of any size in each process, also empty, -> the same shape. With one process, and in evaluation, it is
    `nn.BatchNorm2d`. In training every process has to call it, and to go back through it, equally often. Gradients of
    weight and bias are this process's share, as those of any other layer.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        return self._over_all_processes(x)

    @torch.compiler.disable  # the collectives are not part of a graph
    def _over_all_processes(self, x: Tensor) -> Tensor:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        mean, var, count = global_statistics(x, dtype=self.running_mean.dtype)
        # As in torch: the running variance is the unbiased one, and a batch without a pixel moves nothing.
        momentum = self.momentum * (count > 0).to(mean.dtype)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(var * (count / (count - 1).clamp(min=1)), momentum)
        self.num_batches_tracked.add_(1)
        out: Tensor = _Normalise.apply(x, self.weight, self.bias, mean, var, count, self.eps)
        return out


@torch.no_grad()
def global_statistics(x: Tensor, *, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), biased variance (C,) and number of pixels () over all processes' x, which are (N, C, H, W).

    The variances are put together around the processes' own means (Chan et al., 1979): E[x²] - E[x]² would lose the
    digits that mean and deviation do not share.

    Args:
        dtype: of mean and variance; float32 for 16-bit x.
    """
    channels = x.shape[1]
    own = x.new_zeros(2 * channels + 1, dtype=torch.promote_types(dtype, torch.float32))
    if x.numel() > 0:
        # Without running statistics of this type 16-bit values would have statistics of 16 bits.
        unused = x.new_zeros(2, channels, dtype=dtype)
        mean, var = torch.batch_norm_update_stats(x, unused[0], unused[1], 0.0)
        own = torch.cat([mean, var, mean.new_full((1,), x.numel() // channels)]).to(own.dtype)
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, own)
    means, variances, counts = torch.stack(gathered).split([channels, channels, 1], dim=1)
    count = counts.sum()
    shares = counts / count.clamp(min=1)
    mean = (shares * means).sum(dim=0)
    var = (shares * (variances + (means - mean).square())).sum(dim=0)
    return mean.to(dtype), var.to(dtype), count


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) * weight + bias, where mean and var are statistics of all processes' x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, count: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps = eps
        return affine(x, weight, bias, mean, var, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, count = ctx.saved_tensors
        if x.numel() > 0:
            # As if mean and variance were constants: the gradients of weight and bias are whole, that of x is not.
            grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
                grad, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
            )
        else:
            grad_x, grad_weight, grad_bias = torch.zeros_like(x), torch.zeros_like(weight), torch.zeros_like(weight)
        if ctx.needs_input_grad[0]:
            # What x does through mean and variance (Ioffe & Szegedy §3) is an affine function of x as well.
            sums = torch.stack([grad_weight, grad_bias])
            dist.all_reduce(sums)
            factors = sums * weight * (var + ctx.eps).rsqrt() / count.clamp(min=1).to(sums.dtype)
            grad_x -= affine(x, factors[0], factors[1], mean, var, ctx.eps)
        return grad_x, grad_weight, grad_bias, None, None, None, None


def affine(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    """Normalisation by given statistics: torch's kernel of one pass, in the layout of x."""
    if x.numel() == 0:
        return torch.empty_like(x)
    out: Tensor = torch.native_batch_norm(x, weight, bias, mean, var, False, 0.0, eps)[0]
    return out
