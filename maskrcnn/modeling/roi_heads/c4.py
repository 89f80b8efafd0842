"""Box and mask heads on RoI features that the trunk's last stage computes (Mask R-CNN Fig. 4 left, C4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from maskrcnn.conventions import OURS, Conventions
from maskrcnn.modeling.layers import FeatureSpec, RoISpec
from maskrcnn.modeling.matching import Matcher, Sampler
from maskrcnn.modeling.poolers import RoIPooler
from maskrcnn.modeling.roi_heads.box import BoxHead
from maskrcnn.modeling.roi_heads.mask import MaskHead
from maskrcnn.modeling.roi_heads.roi_heads import RoIHeads, split_rows
from maskrcnn.registry import BOX_HEADS, MASK_HEADS, ROI_HEADS, kwargs_of
from maskrcnn.structures import Candidates, Detections, Instances, Proposals, RoISamples


class Trunk(Protocol):
    """A backbone that leaves a stage to be run on RoIs."""

    def roi_stage(self, stride: int) -> tuple[str, nn.Sequential, int]:
        """Its name among a whole trunk's weights, the stage, and the channels that it gives."""
        ...


class RoIStage(nn.Sequential):
    """The stage behind the trunk's last level, run on each RoI: (R, C, size, size) -> (R, C', size', size').

    Args:
        trunk: whose stage it is; it keeps none of it.
        roi: what goes in.
        stride: of the stage. The paper has 1 on 7 x 7; released weights, from Detectron on, have 2 on 14 x 14.

    `roi` is what comes out, `name_in_trunk` what the stage is called where it is a part of the trunk.
    """

    def __init__(self, trunk: Trunk, roi: RoISpec, *, stride: int = 2) -> None:
        name, stage, channels = trunk.roi_stage(stride)
        super().__init__(*stage)
        self.name_in_trunk = name
        height, width = (-(-side // stride) for side in roi.size)
        self.roi = RoISpec(channels, (height, width))


@ROI_HEADS.register(
    MATCHER=Matcher, SAMPLER=Sampler, POOLER=RoIPooler, ROI_STAGE=RoIStage, BOX_HEAD=BOX_HEADS, MASK_HEAD=MASK_HEADS
)
class C4RoIHeads(RoIHeads):
    """A box head and, if wanted, a mask head on the same RoI features: pooled, then sent through the RoI stage.

    The stage runs once for all sampled RoIs in training, of which the mask head takes the foreground's rows, and a
    second time at test, on the detections' own boxes.
    """

    def __init__(
        self,
        num_classes: int,
        detections_per_image: int = 100,
        conventions: Conventions = OURS,
        *,
        pooler: RoIPooler,
        roi_stage: RoIStage,
        box_head: BoxHead,
        mask_head: MaskHead | None = None,
        matcher: Matcher = Matcher(positive=0.5, negative=0.5),
        sampler: Sampler = Sampler(batch_size_per_image=512, positive_fraction=0.25),
        score_thresh_test: float = 0.05,
        nms_thresh_test: float = 0.5,
    ) -> None:
        super().__init__(
            num_classes,
            detections_per_image,
            conventions,
            matcher=matcher,
            sampler=sampler,
            score_thresh_test=score_thresh_test,
            nms_thresh_test=nms_thresh_test,
        )
        self.pooler, self.roi_stage = pooler, roi_stage
        self.box_head, self.mask_head = box_head, mask_head

    @classmethod
    def from_config(
        cls,
        cfg: Mapping[str, Any],
        specs: Mapping[str, FeatureSpec],
        num_classes: int,
        detections_per_image: int,
        conventions: Conventions,
        backbone: Trunk,
    ) -> Self:
        if not hasattr(backbone, "roi_stage"):
            raise ValueError(f"C4RoIHeads: the backbone {type(backbone).__name__} has no roi_stage() to run on RoIs")
        pooler = RoIPooler(specs, conventions, **kwargs_of(RoIPooler, cfg["POOLER"]))
        if pooler.roi.levels > 1:
            raise ValueError("C4RoIHeads.POOLER.LEVELS: the RoI stage takes one level; 'assigned', not 'all'")
        stage = RoIStage(backbone, pooler.roi, **kwargs_of(RoIStage, cfg["ROI_STAGE"]))
        parts = {
            "pooler": pooler,
            "roi_stage": stage,
            "box_head": BOX_HEADS.build(cfg["BOX_HEAD"], stage.roi, num_classes),
            "mask_head": MASK_HEADS.build(cfg["MASK_HEAD"], stage.roi, num_classes),
        }
        options = {**kwargs_of(cls, cfg), **parts}
        return cls(num_classes, detections_per_image, conventions, **options)

    @property
    def heads(self) -> list[nn.Module]:
        return [part for part in (self.roi_stage, self.box_head, self.mask_head) if part is not None]

    def losses(
        self, features: dict[str, Tensor], proposals: list[Proposals], targets: list[Instances]
    ) -> dict[str, Tensor]:
        samples = self.sample(proposals, targets)
        x = self.roi_features(features, samples)
        losses = self.box_head.losses(self.box_head(x), samples, targets)
        if self.mask_head is not None:
            rows = (torch.cat([s.labels for s in samples]) < self.num_classes).nonzero()[:, 0]
            foreground = [s.foreground() for s in samples]
            losses |= self.mask_head.losses(self.mask_head(x[rows]), foreground, targets)
        return losses

    def score(self, features: dict[str, Tensor], proposals: list[Proposals]) -> list[Candidates]:
        output = self.box_head(self.roi_features(features, proposals))
        return self.box_head.score(output, proposals, self.conventions)

    def on_boxes(self, features: dict[str, Tensor], detections: list[Detections]) -> dict[str, Tensor]:
        if self.mask_head is None:
            return {}
        logits = self.mask_head(self.roi_features(features, detections))
        return {"masks": self.mask_head.inference(logits, detections)}

    def finish(self, outputs: dict[str, Tensor], detections: list[Detections]) -> list[Detections]:
        if "masks" not in outputs:
            return detections
        masks = split_rows(outputs["masks"], detections)
        return [replace(d, masks=m) for d, m in zip(detections, masks, strict=True)]

    def roi_features(
        self, features: dict[str, Tensor], rows: list[RoISamples] | list[Proposals] | list[Detections]
    ) -> Tensor:
        """(R, C', size', size') of all images' boxes."""
        return self.roi_stage(self.pooler(features, [r.boxes for r in rows]))
