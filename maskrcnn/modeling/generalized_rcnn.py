"""Two-stage detectors: the order in which their parts run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, Self, TypeVar

from torch import Tensor, nn

from maskrcnn.conventions import OURS, Conventions
from maskrcnn.modeling.model import IMAGENET_MEAN, IMAGENET_STD, Model, targets_of
from maskrcnn.modeling.roi_heads import RoIHeads
from maskrcnn.registry import BACKBONES, MODELS, NECKS, PROPOSALS, ROI_HEADS
from maskrcnn.structures import Candidates, Detections, ImageBatch, Instances, Proposals, Sample

Found = TypeVar("Found", Candidates, Detections)


class ProposalStage(Protocol):
    """The face of a first stage."""

    def losses(
        self, features: dict[str, Tensor], images: ImageBatch, targets: list[Instances]
    ) -> tuple[list[Proposals], dict[str, Tensor]]: ...

    def inference(self, features: dict[str, Tensor], images: ImageBatch) -> list[Proposals]: ...


@MODELS.register(BACKBONE=BACKBONES, NECK=NECKS, PROPOSALS=PROPOSALS, ROI_HEADS=ROI_HEADS)
class GeneralizedRCNN(Model):
    """Backbone, neck, proposals, RoI heads (Faster R-CNN; Mask R-CNN §3).

    Args:
        neck: turns the backbone's features into those that the stages read; None leaves them.
        proposals: first stage, RPN or another of its face.
    """

    task = "instance"

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module | None,
        proposals: ProposalStage,
        roi_heads: RoIHeads,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
        conventions: Conventions = OURS,
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        self.backbone, self.neck, self.roi_heads = backbone, neck, roi_heads
        self.proposals: ProposalStage = proposals
        self.conventions = conventions
        own = (getattr(part, "divisibility", 1) for part in (backbone, neck))
        self.divisibility: int = max(conventions.pad_multiple, *own)

    @classmethod
    def from_config(
        cls,
        cfg: Mapping[str, Any],
        num_classes: int,
        detections_per_image: int,
        conventions: Conventions = OURS,
    ) -> Self:
        backbone = BACKBONES.build(cfg["BACKBONE"])
        neck = NECKS.build(cfg["NECK"], backbone.specs)
        specs = backbone.specs if neck is None else neck.specs
        proposals = PROPOSALS.build(cfg["PROPOSALS"], specs, conventions)
        roi_heads = ROI_HEADS.build(cfg["ROI_HEADS"], specs, num_classes, detections_per_image, conventions, backbone)
        return cls(backbone, neck, proposals, roi_heads, cfg["PIXEL_MEAN"], cfg["PIXEL_STD"], conventions)

    def losses(self, batch: list[Sample]) -> dict[str, Tensor]:
        targets = targets_of(batch, self.device)
        images = self.image_batch(batch)
        features = self.features(images)
        proposals, losses = self.proposals.losses(features, images, targets)
        return losses | self.roi_heads.losses(features, proposals, targets)

    def inference(self, batch: list[Sample]) -> list[Detections]:
        """Detections in the frame of each image's file, masks small and soft."""
        images = self.image_batch(batch)
        features = self.features(images)
        detections = self.roi_heads.inference(features, self.proposals.inference(features, images))
        return [self.in_file(d, s.original_size) for d, s in zip(detections, batch, strict=True)]

    def in_file(self, found: Found, size: tuple[int, int]) -> Found:
        """What was found, in another frame of the same image, of `size`: in its file's, or in another view's."""
        if not self.conventions.inclusive_boxes:
            return found.resize(size)
        pixel = found.boxes.new_tensor([0, 0, 1, 1])
        resized = replace(found, boxes=found.boxes - pixel).resize(size)
        return replace(resized, boxes=resized.boxes + pixel)

    def compilable(self) -> list[nn.Module]:
        parts = [self.backbone, self.neck, self.proposals, *self.roi_heads.heads]
        return [part for part in parts if isinstance(part, nn.Module)]

    def recomputable(self) -> list[nn.Module]:
        return [*blocks_of(self.backbone), *getattr(self.roi_heads, "roi_stage", ())]

    def place(self, name: str) -> str:
        stage = getattr(self.roi_heads, "roi_stage", None)
        if stage is None:
            return name
        in_trunk = f"backbone.{stage.name_in_trunk}."
        return f"roi_heads.roi_stage.{name.removeprefix(in_trunk)}" if name.startswith(in_trunk) else name

    def image_batch(self, batch: list[Sample]) -> ImageBatch:
        return ImageBatch.from_samples(batch, self.pixel_mean, self.pixel_std, self.divisibility)

    def features(self, images: ImageBatch) -> dict[str, Tensor]:
        features = self.backbone(images.tensor)
        return features if self.neck is None else self.neck(features)


def blocks_of(backbone: nn.Module) -> list[nn.Module]:
    """What SOLVER.GRADIENT_CHECKPOINTING recomputes of a backbone.

    Raises:
        ValueError: it does not say.
    """
    blocks = getattr(backbone, "blocks", None)
    if not callable(blocks):
        raise ValueError(
            f"SOLVER.GRADIENT_CHECKPOINTING: the backbone {type(backbone).__name__} has no blocks() that says what to "
            "recompute; add it, or leave the key off"
        )
    return list(blocks())
