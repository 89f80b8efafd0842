"""Box, mask and keypoint heads side by side, each with its own pooling (Mask R-CNN Fig. 4 right, §5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from torch import Tensor, nn

from maskrcnn.conventions import OURS, Conventions
from maskrcnn.modeling.layers import FeatureSpec
from maskrcnn.modeling.matching import Matcher, Sampler
from maskrcnn.modeling.poolers import RoIPooler
from maskrcnn.modeling.roi_heads.box import BoxHead
from maskrcnn.modeling.roi_heads.keypoint import KeypointHead
from maskrcnn.modeling.roi_heads.mask import MaskHead
from maskrcnn.modeling.roi_heads.roi_heads import RoIHeads, split_rows
from maskrcnn.registry import BOX_HEADS, KEYPOINT_HEADS, MASK_HEADS, ROI_HEADS, kwargs_of
from maskrcnn.structures import Candidates, Detections, Instances, Proposals, RoISamples


@ROI_HEADS.register(
    MATCHER=Matcher,
    SAMPLER=Sampler,
    BOX_POOLER=RoIPooler,
    BOX_HEAD=BOX_HEADS,
    MASK_POOLER=RoIPooler,
    MASK_HEAD=MASK_HEADS,
    KEYPOINT_POOLER=RoIPooler,
    KEYPOINT_HEAD=KEYPOINT_HEADS,
)
class StandardRoIHeads(RoIHeads):
    """A box head and, if wanted, a mask head and a keypoint head, each on features of its own pooler.

    Args:
        mask_pooler, mask_head: both, or neither (without a keypoint head: Faster R-CNN).
        keypoint_pooler, keypoint_head: both, or neither.
    """

    def __init__(
        self,
        num_classes: int,
        detections_per_image: int = 100,
        conventions: Conventions = OURS,
        *,
        box_pooler: RoIPooler,
        box_head: BoxHead,
        mask_pooler: RoIPooler | None = None,
        mask_head: MaskHead | None = None,
        keypoint_pooler: RoIPooler | None = None,
        keypoint_head: KeypointHead | None = None,
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
        self.box_pooler, self.box_head = box_pooler, box_head
        self.mask_pooler, self.mask_head = mask_pooler, mask_head
        self.keypoint_pooler, self.keypoint_head = keypoint_pooler, keypoint_head

    @classmethod
    def from_config(
        cls,
        cfg: Mapping[str, Any],
        specs: Mapping[str, FeatureSpec],
        num_classes: int,
        detections_per_image: int,
        conventions: Conventions = OURS,
        backbone: nn.Module | None = None,
    ) -> Self:
        box_pooler = RoIPooler(specs, conventions, **kwargs_of(RoIPooler, cfg["BOX_POOLER"]))
        box_head = BOX_HEADS.build(cfg["BOX_HEAD"], box_pooler.roi, num_classes)
        parts: dict[str, Any] = {"box_pooler": box_pooler, "box_head": box_head}
        if cfg["MASK_HEAD"]["NAME"]:
            mask_pooler = RoIPooler(specs, conventions, **kwargs_of(RoIPooler, cfg["MASK_POOLER"]))
            mask_head = MASK_HEADS.build(cfg["MASK_HEAD"], mask_pooler.roi, num_classes)
            parts |= {"mask_pooler": mask_pooler, "mask_head": mask_head}
        if cfg["KEYPOINT_HEAD"]["NAME"]:
            keypoint_pooler = RoIPooler(specs, conventions, **kwargs_of(RoIPooler, cfg["KEYPOINT_POOLER"]))
            keypoint_head = KEYPOINT_HEADS.build(cfg["KEYPOINT_HEAD"], keypoint_pooler.roi, num_classes)
            parts |= {"keypoint_pooler": keypoint_pooler, "keypoint_head": keypoint_head}
        options = {**kwargs_of(cls, cfg), **parts}
        return cls(num_classes, detections_per_image, conventions, **options)

    @property
    def heads(self) -> list[nn.Module]:
        return [head for head in (self.box_head, self.mask_head, self.keypoint_head) if head is not None]

    def losses(
        self, features: dict[str, Tensor], proposals: list[Proposals], targets: list[Instances]
    ) -> dict[str, Tensor]:
        samples = self.sample(proposals, targets)
        losses = self.box_head.losses(self.box_output(features, samples), samples, targets)
        if self.mask_head is not None:
            foreground = [s.foreground() for s in samples]
            losses |= self.mask_head.losses(self.mask_logits(features, foreground), foreground, targets)
        if self.keypoint_head is not None:
            labelled = self.keypoint_head.samples(samples, targets)
            losses |= self.keypoint_head.losses(self.keypoint_logits(features, labelled), labelled, targets)
        return losses

    def score(self, features: dict[str, Tensor], proposals: list[Proposals]) -> list[Candidates]:
        return self.box_head.score(self.box_output(features, proposals), proposals, self.conventions)

    def on_boxes(self, features: dict[str, Tensor], detections: list[Detections]) -> dict[str, Tensor]:
        outputs = {}
        if self.mask_head is not None:
            outputs["masks"] = self.mask_head.inference(self.mask_logits(features, detections), detections)
        if self.keypoint_head is not None:
            outputs["keypoints"] = self.keypoint_logits(features, detections)
        return outputs

    def finish(self, outputs: dict[str, Tensor], detections: list[Detections]) -> list[Detections]:
        if self.keypoint_head is not None:
            outputs = outputs | {"keypoints": self.keypoint_head.inference(outputs["keypoints"], detections)}
        rows: dict[str, list[Any]] = {name: split_rows(values, detections) for name, values in outputs.items()}
        return [replace(d, **{name: parts[i] for name, parts in rows.items()}) for i, d in enumerate(detections)]

    def box_output(
        self, features: dict[str, Tensor], rows: list[RoISamples] | list[Proposals]
    ) -> tuple[Tensor, Tensor]:
        return self.box_head(self.box_pooler(features, [r.boxes for r in rows]))

    def mask_logits(self, features: dict[str, Tensor], rows: list[RoISamples] | list[Detections]) -> Tensor:
        assert self.mask_head is not None and self.mask_pooler is not None
        return self.mask_head(self.mask_pooler(features, [r.boxes for r in rows]))

    def keypoint_logits(self, features: dict[str, Tensor], rows: list[RoISamples] | list[Detections]) -> Tensor:
        assert self.keypoint_head is not None and self.keypoint_pooler is not None
        return self.keypoint_head(self.keypoint_pooler(features, [r.boxes for r in rows]))
