"""From features of a pyramid to features of regions (Mask R-CNN §3; level assignment: FPN §4.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from maskrcnn.conventions import OURS, Conventions
from maskrcnn.modeling.layers import FeatureSpec, RoISpec, pick_levels
from maskrcnn.ops.reference.roi_align import assign_levels
from maskrcnn.ops.roi_align import LevelRule, roi_align_all_levels, roi_align_levels
from maskrcnn.ops.roi_pool import roi_pool

# Those that read bilinearly: how a bin's points are put together, and whether corners are rounded before.
SAMPLED = {
    "RoIAlign": ("average", False),
    "RoIAlignMax": ("max", False),
    "RoIWarp": ("average", True),
    "RoIWarpMax": ("max", True),
}
METHODS = (*SAMPLED, "RoIPool")


class RoIPooler(nn.Module):
    """Features of each box from the level that suits its size, or from all levels.

    Args:
        specs: the levels that there are.
        size: side of the output.
        method: one of Table 2c. "RoIAlign", the average of a bin's points, or "RoIAlignMax"; "RoIPool" (Fast R-CNN
            §2.1), the maximum over whole pixels; "RoIWarp" and "RoIWarpMax", which round a box's corners as RoIPool
            does and then read as RoIAlign.
        sampling_ratio: samples per bin and axis; 0 adapts to the size of the bin. RoIPool has none.
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
        method: str = "RoIAlign",
        sampling_ratio: int = 2,
        in_features: Sequence[str] = ("p2", "p3", "p4", "p5"),
        levels: str = "assigned",
    ) -> None:
        super().__init__()
        if levels not in ("assigned", "all"):
            raise ValueError(f"LEVELS: {levels!r} is neither 'assigned' nor 'all'")
        if method not in METHODS:
            raise ValueError(f"METHOD: {method!r} is not one of {', '.join(METHODS)}")
        picked = pick_levels(specs, in_features, "RoIPooler")
        self.extent = float(conventions.inclusive_boxes)
        rule = None if levels == "all" else LevelRule(epsilon=conventions.level_epsilon, extent=self.extent)
        self.pool: Callable[..., Tensor] = partial(roi_pool_levels, rule=rule)
        if method in SAMPLED:
            self.pool = sampled(method, rule, sampling_ratio=sampling_ratio, aligned=conventions.roi_align_aligned)
        self.strides = {name: spec.stride for name, spec in picked.items()}
        channels = next(iter(picked.values())).channels
        self.roi = RoISpec(channels, (size, size), len(picked) if levels == "all" else 1)

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor]) -> Tensor:
        rois = to_rois(boxes)
        if self.extent:
            rois[:, 3:] -= self.extent  # to their last pixels, whose coordinates those libraries pool between
        return self.pool(
            [features[name] for name in self.strides],
            rois,
            scales=[1 / stride for stride in self.strides.values()],
            output_size=self.roi.size,
        )


def sampled(method: str, rule: LevelRule | None, *, sampling_ratio: int, aligned: bool) -> Callable[..., Tensor]:
    """One of `SAMPLED`; rounded corners are whole pixels, as RoIPool's, so that nothing is shifted by half of one."""
    aggregation, rounded = SAMPLED[method]
    pool = roi_align_all_levels if rule is None else partial(roi_align_levels, rule=rule)
    return partial(
        pool,
        aggregation=aggregation,
        round_boxes=rounded,
        sampling_ratio=sampling_ratio,
        aligned=aligned and not rounded,
    )


def roi_pool_levels(
    features: list[Tensor],
    rois: Tensor,
    *,
    scales: list[float],
    output_size: tuple[int, int],
    rule: LevelRule | None,
) -> Tensor:
    """`roi_pool` of each box from the level of the rule, (R, C, h, w); without one from all, (L, R, C, h, w).

    Unlike `roi_align_levels` it is one call per level, and on a GPU it waits to know how many boxes each has: the
    pooling of a baseline.
    """
    pool = partial(roi_pool, output_size=output_size)
    if rule is None:
        return torch.stack([pool(level, rois, scale=scale) for level, scale in zip(features, scales, strict=True)])
    if len(features) == 1:
        return pool(features[0], rois, scale=scales[0])
    level = assign_levels(
        rois[:, 1:],
        len(features),
        canonical_level=rule.canonical_level,
        canonical_size=rule.canonical_size,
        epsilon=rule.epsilon,
        finest=math.floor(-math.log2(max(scales))),
        extent=rule.extent,
    )
    rows = [(level == k).nonzero()[:, 0] for k in range(len(features))]
    parts = [pool(f, rois[row], scale=s) for f, row, s in zip(features, rows, scales, strict=True)]
    return torch.cat(parts)[torch.cat(rows).argsort()]


def to_rois(boxes: list[Tensor]) -> Tensor:
    """Boxes of each image -> (R, 5): image index, then XYXY."""
    return torch.cat([torch.cat([b.new_full((len(b), 1), image), b], dim=1) for image, b in enumerate(boxes)])
