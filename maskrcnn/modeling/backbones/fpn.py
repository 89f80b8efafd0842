"""Feature pyramid network (Lin et al., 2017), as Mask R-CNN uses it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.modeling.layers import ConvNorm, FeatureSpec, init_xavier
from maskrcnn.registry import NECKS


@NECKS.register()
class FPN(nn.Module):
    """Top-down path with lateral connections (FPN §3), and p6 by subsampling p5 for the RPN's largest anchors.

    {"res2": (N, C2, H/4, W/4), ..., "res5"} -> {"p2": (N, channels, H/4, W/4), ..., "p5", "p6"}, p6 of stride 64.
    """

    def __init__(self, specs: Mapping[str, FeatureSpec], *, channels: int = 256, norm: str = "") -> None:
        super().__init__()
        strides = [spec.stride for spec in specs.values()]
        if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
            raise ValueError(
                f"FPN: the levels {', '.join(specs)} have strides {', '.join(map(str, strides))}, but each must be "
                "twice the one before; a dilated res5 goes without an FPN"
            )
        self.in_features = tuple(specs)
        self.lateral = nn.ModuleDict()
        self.output = nn.ModuleDict()
        self.specs = {}
        for name, spec in specs.items():
            self.lateral[name] = ConvNorm(spec.channels, channels, 1, norm=norm)
            self.output[name] = ConvNorm(channels, channels, 3, norm=norm)
            self.specs[f"p{name[-1]}"] = FeatureSpec(channels, spec.stride)
        for conv in self.modules():
            if isinstance(conv, ConvNorm):
                init_xavier(conv)
        coarsest = self.in_features[-1]
        self.coarsest, self.extra = f"p{coarsest[-1]}", f"p{int(coarsest[-1]) + 1}"
        self.specs[self.extra] = FeatureSpec(channels, 2 * specs[coarsest].stride)
        self.divisibility = specs[
            coarsest
        ].stride  # so that each level is exactly twice the next, and the sum needs no crop

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = {}
        top_down: Tensor | None = None
        for name in reversed(self.in_features):
            lateral = self.lateral[name](features[name])
            top_down = lateral if top_down is None else lateral + F.interpolate(top_down, scale_factor=2.0)
            outputs[f"p{name[-1]}"] = self.output[name](top_down)
        outputs[self.extra] = F.max_pool2d(outputs[self.coarsest], kernel_size=1, stride=2)
        return {name: outputs[name] for name in self.specs}
