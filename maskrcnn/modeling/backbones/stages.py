"""How the stages of a ResNet or ResNeXt are put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from maskrcnn.modeling.backbones.deformable import DeformConvNorm
from maskrcnn.modeling.layers import ConvNorm, init_kaiming


@dataclass(frozen=True)
class BlockOptions:
    """What all blocks of a stage have in common.

    Args:
        inner: channels of the 3x3 convolutions.
        dilation: of the 3x3 convolutions.
        deformable: 3x3 convolutions are deformable; `modulated`: those of DCNv2.
    """

    inner: int
    norm: str
    stride_in_1x1: bool = False
    groups: int = 1
    dilation: int = 1
    deformable: bool = False
    modulated: bool = False


def make_3x3(channels: int, stride: int, options: BlockOptions) -> ConvNorm:
    """A bottleneck's 3x3 convolution, plain or deformable."""
    kind = partial(DeformConvNorm, modulated=options.modulated) if options.deformable else ConvNorm
    return kind(
        channels, channels, 3, norm=options.norm, stride=stride, dilation=options.dilation, groups=options.groups
    )


def make_shortcut(in_channels: int, out_channels: int, stride: int, norm: str) -> nn.Module:
    """The identity, or a 1x1 projection where the shape changes."""
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    return ConvNorm(in_channels, out_channels, 1, norm=norm, stride=stride)


def make_stage(
    block: Callable[[int, int, int, BlockOptions], nn.Module],
    in_channels: int,
    out_channels: int,
    count: int,
    stride: int,
    options: BlockOptions,
) -> nn.Sequential:
    """`count` blocks, the first of which has the stride."""
    first = block(in_channels, out_channels, stride, options)
    stage = nn.Sequential(first, *(block(out_channels, out_channels, 1, options) for _ in range(count - 1)))
    for module in stage.modules():
        if isinstance(module, ConvNorm):
            init_kaiming(module)
    return stage
