"""From features of a pyramid to features of regions (Mask R-CNN §3; level assignment: FPN §4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from maskrcnn.conventions import OURS, Conventions
from maskrcnn.modeling.layers import FeatureSpec, RoISpec, pick_levels
from maskrcnn.ops.roi_align import LevelRule, roi_align_all_levels, roi_align_levels


class RoIPooler(nn.Module):
    """RoIAlign from the level that suits a box's size, or from all levels.

    Args:
        specs: the levels that there are.
        size: side of the output.
        sampling_ratio: samples per bin and axis; 0 adapts to the size of the bin.
        in_features: the levels, high to low resolution, each of half the resolution of the one before.
        levels: "assigned" pools each box from one level (FPN Eq. 1), "all" from every one (PANet §3.2).

    Features and boxes, one (R_i, 4) per image -> (R, C, size, size), or (L, R, C, size, size) from all levels.
    """

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        conventions: Conventions = OURS,
        *,
        size: int = 7,
        sampling_ratio: int = 2,
        in_features: Sequence[str] = ("p2", "p3", "p4", "p5"),
        levels: str = "assigned",
    ) -> None:
        super().__init__()
        if levels not in ("assigned", "all"):
            raise ValueError(f"LEVELS: {levels!r} is neither 'assigned' nor 'all'")
        picked = pick_levels(specs, in_features, "RoIPooler")
        self.sampling_ratio, self.aligned = sampling_ratio, conventions.roi_align_aligned
        rule = LevelRule(epsilon=conventions.level_epsilon)
        self.pool = roi_align_all_levels if levels == "all" else partial(roi_align_levels, rule=rule)
        self.strides = {name: spec.stride for name, spec in picked.items()}
        channels = next(iter(picked.values())).channels
        self.roi = RoISpec(channels, (size, size), len(picked) if levels == "all" else 1)

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor]) -> Tensor:
        return self.pool(
            [features[name] for name in self.strides],
            to_rois(boxes),
            scales=[1 / stride for stride in self.strides.values()],
            output_size=self.roi.size,
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
        )


def to_rois(boxes: list[Tensor]) -> Tensor:
    """Boxes of each image -> (R, 5): image index, then XYXY."""
    return torch.cat([torch.cat([b.new_full((len(b), 1), image), b], dim=1) for image, b in enumerate(boxes)])
