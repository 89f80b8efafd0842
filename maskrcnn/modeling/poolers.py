"""From features of a pyramid to features of regions (Mask R-CNN §3; level assignment: FPN §4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from maskrcnn.conventions import OURS, Conventions
from maskrcnn.modeling.layers import FeatureSpec, RoISpec, pick_levels
from maskrcnn.ops.boxes import area
from maskrcnn.ops.roi_align import roi_align

CANONICAL_LEVEL, CANONICAL_SIZE = 4, 224  # k0 and ImageNet's side in FPN Eq. 1


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
        self.conventions, self.levels, self.sampling_ratio = conventions, levels, sampling_ratio
        self.strides = {name: spec.stride for name, spec in picked.items()}
        channels = next(iter(picked.values())).channels
        self.roi = RoISpec(channels, (size, size), len(picked) if levels == "all" else 1)

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor]) -> Tensor:
        rois = to_rois(boxes)
        if self.levels == "all":
            return torch.stack([self.pool(features, name, rois) for name in self.strides])
        if len(self.strides) == 1:
            return self.pool(features, next(iter(self.strides)), rois)
        level = self.assign(rois[:, 1:])
        rows = [(level == k).nonzero()[:, 0] for k in range(len(self.strides))]
        pooled = torch.cat([self.pool(features, name, rois[r]) for name, r in zip(self.strides, rows, strict=True)])
        return pooled[torch.cat(rows).argsort()]

    def pool(self, features: dict[str, Tensor], name: str, rois: Tensor) -> Tensor:
        return roi_align(
            features[name],
            rois,
            scale=1 / self.strides[name],
            output_size=self.roi.size,
            sampling_ratio=self.sampling_ratio,
            aligned=self.conventions.roi_align_aligned,
        )

    def assign(self, boxes: Tensor) -> Tensor:
        """FPN Eq. 1: k = floor(k0 + log2(sqrt(wh) / 224)), as an index into the pooler's levels, int64 (R,)."""
        relative = area(boxes).clamp(min=0).sqrt() / CANONICAL_SIZE
        k = (CANONICAL_LEVEL + (relative + self.conventions.level_epsilon).log2()).floor()
        finest = min(self.strides.values()).bit_length() - 1  # stride 4 is level 2
        return (k - finest).nan_to_num().clamp(0, len(self.strides) - 1).to(torch.int64)


def to_rois(boxes: list[Tensor]) -> Tensor:
    """Boxes of each image -> (R, 5): image index, then XYXY."""
    return torch.cat([torch.cat([b.new_full((len(b), 1), image), b], dim=1) for image, b in enumerate(boxes)])
