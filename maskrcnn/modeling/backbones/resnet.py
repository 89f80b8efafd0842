"""ResNet (He et al., 2016) and ResNeXt (Xie et al., 2017), the trunks of Mask R-CNN §3."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.modeling.backbones.stages import BlockOptions, make_3x3, make_shortcut, make_stage
from maskrcnn.modeling.layers import ConvNorm, FeatureSpec, init_kaiming
from maskrcnn.registry import BACKBONES

BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
STAGES = ("res2", "res3", "res4", "res5")


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


@BACKBONES.register()
class ResNet(nn.Module):
    """ResNet-18, 34, 50, 101 or 152; with `groups`, the ResNeXt of that depth.

    Images (N, 3, H, W) -> {"res2": (N, C, H/4, W/4), ..., "res5": (N, C, H/32, W/32)}, those in `out_features`;
    C of res2 is `width` for ResNet-18 and 34, 4 * `width` for the deeper ones, and doubles with each stage. A dilated
    res5 has the resolution of res4.

    Args:
        width: channels of the stem and of the 3x3 convolutions in res2; 64 in the paper and in all released weights.
        norm: FrozenBN (fixed, as in the paper), BN, SyncBN or GN.
        freeze_at: how many of stem, res2, res3, ... are not trained and have frozen norms; 0 trains all (from scratch).
        stride_in_1x1: where a bottleneck has its stride; torchvision's weights want it in the 3x3, MSRA's in the 1x1.
        groups, width_per_group: of the 3x3 convolutions in res2, where the stem has 64 channels: ResNeXt 64x4d is 64
            and 4, 32x8d is 32 and 8. Their channels are groups * width_per_group there, and double with each stage.
        res5_dilation: 2 keeps res5 at stride 16, its 3x3 convolutions, all of them, reading every other pixel (DC5).
        deform_stages: stages whose 3x3 convolutions are deformable (Dai et al. 2017, DCN).
        deform_modulated: DCNv2 (Zhu et al. 2019) instead of v1.

    Raises:
        ValueError: no such depth, level or stage; groups or deformable stages without bottlenecks.
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
        groups: int = 1,
        width_per_group: int = 64,
        res5_dilation: int = 1,
        deform_stages: Sequence[str] = (),
        deform_modulated: bool = False,
    ) -> None:
        super().__init__()
        if depth not in BLOCKS_PER_STAGE:
            raise ValueError(f"ResNet.DEPTH: {depth} is not one of {', '.join(map(str, BLOCKS_PER_STAGE))}")
        if unknown := {*out_features, *deform_stages} - set(STAGES):
            raise ValueError(f"ResNet has no level {', '.join(sorted(unknown))}; its levels are {', '.join(STAGES)}")
        if res5_dilation not in (1, 2):
            raise ValueError(f"ResNet.RES5_DILATION: {res5_dilation} is neither 1 (stride 32) nor 2 (stride 16)")
        if depth < 50 and (deform_stages or (groups, width_per_group) != (1, 64)):
            raise ValueError(
                f"ResNet.DEPTH: {depth} has no bottlenecks, which GROUPS, WIDTH_PER_GROUP and DEFORM_STAGES are about; "
                "take 50, 101 or 152"
            )
        self.depth, self.width, self.norm, self.freeze_at = depth, width, norm, freeze_at
        self.stride_in_1x1, self.groups, self.width_per_group = stride_in_1x1, groups, width_per_group
        self.res5_dilation, self.deform_stages, self.deform_modulated = res5_dilation, deform_stages, deform_modulated

        levels = {name: FeatureSpec(self._channels(i), 4 * 2**i) for i, name in enumerate(STAGES)}
        if res5_dilation == 2:
            levels["res5"] = FeatureSpec(levels["res5"].channels, levels["res4"].stride)
        self.specs = {name: levels[name] for name in STAGES if name in out_features}

        self.stem = Stem(width, self._norm(0))
        self.stages = nn.ModuleDict()
        for i, name in enumerate(STAGES):
            if name > max(out_features):
                break  # a stage that nobody reads would be parameters without a gradient
            dilation = res5_dilation if name == "res5" else 1
            stride = 1 if i == 0 or dilation > 1 else 2
            self.stages[name] = self._stage(i, stride=stride, dilation=dilation)
        if freeze_at > 0:
            self.stem.requires_grad_(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features, x = {}, self.stem(images)
        for name, stage in self.stages.items():
            x = stage(x)
            features[name] = x
        return {name: features[name] for name in self.specs}

    def blocks(self) -> list[nn.Module]:
        """What runs one after the other: the stem and the residual blocks."""
        return [self.stem, *(block for stage in self.stages.values() for block in stage.children())]

    def roi_stage(self, stride: int) -> tuple[str, nn.Sequential, int]:
        """The stage behind the last one, for a head that runs it on RoIs (Mask R-CNN §3, C4: res5).

        Returns:
            Its name among a whole trunk's weights, the stage with fresh weights, and the channels that it gives.

        Raises:
            ValueError: all stages are in the trunk.
        """
        i = len(self.stages)
        if i == len(STAGES):
            raise ValueError(
                f"ResNet.OUT_FEATURES: {', '.join(self.specs)} leaves no stage to run on RoIs; C4 has OUT_FEATURES "
                "[res4]"
            )
        return f"stages.{STAGES[i]}", self._stage(i, stride=stride, dilation=1), self._channels(i)

    def _stage(self, i: int, *, stride: int, dilation: int) -> nn.Sequential:
        """Stage res(i + 2)."""
        options = BlockOptions(
            inner=self.width * 2**i * self.groups * self.width_per_group // 64,
            norm=self._norm(i + 1),
            stride_in_1x1=self.stride_in_1x1,
            groups=self.groups,
            dilation=dilation,
            deformable=STAGES[i] in self.deform_stages,
            modulated=self.deform_modulated,
        )
        channels = self.width if i == 0 else self._channels(i - 1)
        stage = make_stage(self._block, channels, self._channels(i), BLOCKS_PER_STAGE[self.depth][i], stride, options)
        return stage.requires_grad_(i + 1 >= self.freeze_at)

    @property
    def _block(self) -> type[BasicBlock | Bottleneck]:
        return Bottleneck if self.depth >= 50 else BasicBlock

    def _channels(self, i: int) -> int:
        return self.width * 2**i * self._block.expansion

    def _norm(self, part: int) -> str:
        """Of the stem (0) or of a stage (1, 2, ...)."""
        return "FrozenBN" if part < self.freeze_at and self.norm in ("BN", "SyncBN") else self.norm
