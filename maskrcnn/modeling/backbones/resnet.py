"""ResNet (He et al., 2016), the trunk of Mask R-CNN §3."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.modeling.layers import ConvNorm, FeatureSpec, init_kaiming
from maskrcnn.registry import BACKBONES

BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
STAGES = ("res2", "res3", "res4", "res5")


class Stem(nn.Module):
    """7x7 convolution of stride 2, then 3x3 max-pooling of stride 2."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, channels, 7, norm=norm, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.conv1(x), inplace=True), kernel_size=3, stride=2, padding=1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (ResNet-18 and 34)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, *, stride: int, norm: str, stride_in_1x1: bool) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, width, 3, norm=norm, stride=stride)
        self.conv2 = ConvNorm(width, width, 3, norm=norm)
        self.shortcut = make_shortcut(in_channels, width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.conv1(x), inplace=True))
        return F.relu(out + self.shortcut(x), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 (ResNet-50 and deeper); the stride in the first 1x1 (MSRA's weights) or the 3x3 (torchvision's)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, *, stride: int, norm: str, stride_in_1x1: bool) -> None:
        super().__init__()
        out_channels = width * self.expansion
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = ConvNorm(in_channels, width, 1, norm=norm, stride=stride_1x1)
        self.conv2 = ConvNorm(width, width, 3, norm=norm, stride=stride_3x3)
        self.conv3 = ConvNorm(width, out_channels, 1, norm=norm)
        self.shortcut = make_shortcut(in_channels, out_channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.conv1(x), inplace=True)
        out = F.relu(self.conv2(out), inplace=True)
        return F.relu(self.conv3(out) + self.shortcut(x), inplace=True)


def make_shortcut(in_channels: int, out_channels: int, stride: int, norm: str) -> nn.Module:
    """The identity, or a 1x1 projection where the shape changes."""
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    return ConvNorm(in_channels, out_channels, 1, norm=norm, stride=stride)


@BACKBONES.register()
class ResNet(nn.Module):
    """ResNet-18, 34, 50, 101 or 152.

    Images (N, 3, H, W) -> {"res2": (N, C, H/4, W/4), ..., "res5": (N, C, H/32, W/32)}, those in `out_features`;
    C of res2 is `width` for ResNet-18 and 34, 4 * `width` for the deeper ones, and doubles with each stage.

    Args:
        width: channels of the stem and of the 3x3 convolutions in res2; 64 in the paper and in all released weights.
        norm: FrozenBN (fixed, as in the paper), BN, SyncBN or GN.
        freeze_at: how many of stem, res2, res3, ... are not trained and have frozen norms; 0 trains all (from scratch).
        stride_in_1x1: where a bottleneck has its stride; torchvision's weights want it in the 3x3, MSRA's in the 1x1.
    """

    divisibility = 1

    def __init__(
        self,
        *,
        depth: int = 50,
        width: int = 64,
        out_features: Sequence[str] = STAGES,
        norm: str = "FrozenBN",
        freeze_at: int = 2,
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__()
        if depth not in BLOCKS_PER_STAGE:
            raise ValueError(f"ResNet.DEPTH: {depth} is not one of {', '.join(map(str, BLOCKS_PER_STAGE))}")
        if unknown := set(out_features) - set(STAGES):
            raise ValueError(f"ResNet has no level {', '.join(sorted(unknown))}; its levels are {', '.join(STAGES)}")
        block = Bottleneck if depth >= 50 else BasicBlock
        levels = {
            name: FeatureSpec(channels=width * 2**i * block.expansion, stride=4 * 2**i) for i, name in enumerate(STAGES)
        }
        self.specs = {name: levels[name] for name in STAGES if name in out_features}

        def norm_at(stage: int) -> str:
            return "FrozenBN" if stage < freeze_at and norm in ("BN", "SyncBN") else norm

        self.stem = Stem(width, norm_at(0))
        self.stages = nn.ModuleDict()
        channels = width
        for i, (name, level) in enumerate(levels.items()):
            if name > max(out_features):
                break  # a stage that nobody reads would be parameters without a gradient
            stride = 1 if i == 0 else 2
            blocks = []
            for j in range(BLOCKS_PER_STAGE[depth][i]):
                blocks.append(
                    block(
                        channels,
                        width * 2**i,
                        stride=stride if j == 0 else 1,
                        norm=norm_at(i + 1),
                        stride_in_1x1=stride_in_1x1,
                    )
                )
                channels = level.channels
            self.stages[name] = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, ConvNorm):
                init_kaiming(module)
        for part in [self.stem, *self.stages.values()][:freeze_at]:
            part.requires_grad_(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features, x = {}, self.stem(images)
        for name, stage in self.stages.items():
            x = stage(x)
            features[name] = x
        return {name: features[name] for name in self.specs}

    def blocks(self) -> list[nn.Module]:
        """What runs one after the other: the stem and the residual blocks."""
        return [self.stem, *(block for stage in self.stages.values() for block in stage.children())]
