"""What a ResNet or ResNeXt is made of: the stem, the blocks, and stages of blocks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

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


class Stem(nn.Module):
    """7x7 convolution of stride 2, then 3x3 max-pooling of stride 2."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, channels, 7, norm=norm, stride=2)
        init_kaiming(self.conv1)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.conv1(x), inplace=True), kernel_size=3, stride=2, padding=1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (ResNet-18 and 34)."""

    expansion = 1

    def __init__(self, in_channels: int, out_channels: int, stride: int, options: BlockOptions) -> None:
        super().__init__()
        norm, dilation = options.norm, options.dilation
        self.conv1 = ConvNorm(in_channels, out_channels, 3, norm=norm, stride=stride, dilation=dilation)
        self.conv2 = ConvNorm(out_channels, out_channels, 3, norm=norm, dilation=dilation)
        self.shortcut = make_shortcut(in_channels, out_channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.conv1(x), inplace=True))
        return F.relu(out + self.shortcut(x), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 (ResNet-50 and deeper); the stride in the first 1x1 (MSRA's weights) or the 3x3 (torchvision's).

    With groups it is the block of ResNeXt (Xie et al. 2017, Fig. 3c).
    """

    expansion = 4

    def __init__(self, in_channels: int, out_channels: int, stride: int, options: BlockOptions) -> None:
        super().__init__()
        norm, inner = options.norm, options.inner
        stride_1x1, stride_3x3 = (stride, 1) if options.stride_in_1x1 else (1, stride)
        self.conv1 = ConvNorm(in_channels, inner, 1, norm=norm, stride=stride_1x1)
        self.conv2 = make_3x3(inner, stride_3x3, options)
        self.conv3 = ConvNorm(inner, out_channels, 1, norm=norm)
        self.shortcut = make_shortcut(in_channels, out_channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.conv1(x), inplace=True)
        out = F.relu(self.conv2(out), inplace=True)
        return F.relu(self.conv3(out) + self.shortcut(x), inplace=True)


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
    block: type[BasicBlock | Bottleneck],
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
