"""What the parts are made of: feature specs, convolution with norm and activation, initialisers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.modeling.sync_batch_norm import SyncBatchNorm2d
from maskrcnn.ops.conv import conv2d

NORMS = ("", "FrozenBN", "BN", "SyncBN", "GN")


@dataclass(frozen=True)
class FeatureSpec:
    """What is known of a feature level before any tensor exists: its channels, and its stride in input pixels."""

    channels: int
    stride: int


@dataclass(frozen=True)
class RoISpec:
    """What a pooler gives a head: (R, channels, *size), with `levels` > 1 (PANet §3.2) one of levels before."""

    channels: int
    size: tuple[int, int]
    levels: int = 1


def pick_levels(specs: Mapping[str, FeatureSpec], names: Sequence[str], reader: str) -> dict[str, FeatureSpec]:
    """The specs of the levels that a part reads.

    Raises:
        ValueError: a level does not exist; names the reader and the levels there are.
    """
    if unknown := [name for name in names if name not in specs]:
        raise ValueError(f"{reader} reads {', '.join(unknown)}, but the levels are {', '.join(specs)}")
    return {name: specs[name] for name in names}


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation as a fixed affine map per channel; statistics and affine parameters are buffers.

    `ConvNorm` folds it into its convolution, which saves a pass over the activations.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """(C,), (C,) float32: x * scale + shift."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.scale_and_shift()
        return x * scale.to(x.dtype)[:, None, None] + shift.to(x.dtype)[:, None, None]


def make_norm(name: str, channels: int) -> nn.Module | None:
    """A norm layer for (N, channels, H, W); None for the empty name.

    BN has the statistics of a process's own batch, SyncBN those of all processes' (`SyncBatchNorm2d`); GN has 32 groups
    (Wu & He), fewer if they do not divide the channels.

    Raises:
        ValueError: an unknown name.
    """
    if name == "":
        return None
    if name == "FrozenBN":
        return FrozenBatchNorm2d(channels)
    if name == "BN":
        return nn.BatchNorm2d(channels)
    if name == "SyncBN":
        return SyncBatchNorm2d(channels)
    if name == "GN":
        return nn.GroupNorm(next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0), channels)
    raise ValueError(f"NORM: {name!r} is not one of {', '.join(repr(n) for n in NORMS)}")


class ConvNorm(nn.Conv2d):
    """A convolution and its norm; without a norm, with a bias. A frozen norm is folded into the weight on the fly."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        norm: str = "",
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        padding = dilation * (kernel_size // 2) if padding is None else padding
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups=groups, bias=norm == ""
        )
        self.norm = make_norm(norm, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.norm, FrozenBatchNorm2d):
            scale, shift = self.norm.scale_and_shift()
            weight = self.weight * scale[:, None, None, None]
            return self._convolve(x, weight, shift)
        x = self._convolve(x, self.weight, self.bias)
        return x if self.norm is None else self.norm(x)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        assert not isinstance(self.padding, str)
        convolve = conv2d if torch.is_grad_enabled() else F.conv2d  # they differ in the gradient alone
        return convolve(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


@torch.no_grad()
def fold_frozen_norms(model: nn.Module) -> None:
    """Fold each frozen norm into its convolution for good, in place: for inference, once its weights are loaded."""
    for conv in model.modules():
        if isinstance(conv, ConvNorm) and isinstance(conv.norm, FrozenBatchNorm2d):
            scale, shift = conv.norm.scale_and_shift()
            conv.weight.mul_(scale[:, None, None, None])
            conv.bias = nn.Parameter(shift, requires_grad=conv.weight.requires_grad)
            conv.norm = None


def init_kaiming(conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """MSRA initialisation: normal by fan-out, for a ReLU behind; bias 0."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def init_xavier(layer: nn.Conv2d | nn.Linear) -> None:
    """Caffe2's XavierFill: uniform by fan-in (FPN and fully connected layers); bias 0."""
    nn.init.kaiming_uniform_(layer.weight, a=1)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def init_normal(layer: nn.Conv2d | nn.Linear | nn.ConvTranspose2d, std: float) -> None:
    """N(0, std); bias 0."""
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class ConvReLU(ConvNorm):
    """`ConvNorm` and a ReLU, initialised for it."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, *, norm: str = "") -> None:
        super().__init__(in_channels, out_channels, kernel_size, norm=norm)
        init_kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x), inplace=True)


def conv_relu_stack(in_channels: int, channels: int, count: int, norm: str = "") -> nn.Sequential:
    """`count` 3x3 convolutions of `channels`, each with norm and ReLU."""
    return nn.Sequential(*(ConvReLU(in_channels if i == 0 else channels, channels, norm=norm) for i in range(count)))


class PerLevel(nn.Module):
    """A head's first layer under a pooler of all levels: one copy per level, then fused by max (PANet §3.2).

    (L, R, C, h, w) -> (R, C', h', w'). With one level it is the plain block on (R, C, h, w).
    """

    def __init__(self, make_block: Callable[[], nn.Module], levels: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(make_block() for _ in range(levels))

    def forward(self, x: Tensor) -> Tensor:
        if len(self.blocks) == 1:
            return self.blocks[0](x)
        return torch.stack([block(level) for block, level in zip(self.blocks, x, strict=True)]).amax(dim=0)
