"""Two-stage detectors: the order in which their parts run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol, Self, TypeVar, cast

from torch import Tensor, nn

from maskrcnn.conventions import OURS, Conventions
from maskrcnn.modeling.layers import FeatureSpec
from maskrcnn.modeling.model import IMAGENET_MEAN, IMAGENET_STD, Model, targets_of
from maskrcnn.modeling.roi_heads import RoIHeads
from maskrcnn.registry import BACKBONES, MODELS, NECKS, PROPOSALS, ROI_HEADS
from maskrcnn.structures import Candidates, Detections, ImageBatch, Instances, Proposals, Sample

Found = TypeVar("Found", Candidates, Detections, Proposals)


class ProposalStage(Protocol):
    """The face of a first stage."""

    def losses(
        self, features: dict[str, Tensor], images: ImageBatch, targets: list[Instances]
    ) -> tuple[list[Proposals], dict[str, Tensor]]: ...

    def inference(self, features: dict[str, Tensor], images: ImageBatch) -> list[Proposals]: ...


class RegionModel(Model):
    """Backbone, neck, proposals, and how images come to features: what a detector and its first stage alone share.

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
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
        conventions: Conventions = OURS,
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        self.backbone, self.neck = backbone, neck
        self.proposals: ProposalStage = proposals
        self.conventions = conventions
        own = (getattr(part, "divisibility", 1) for part in (backbone, neck))
        self.divisibility: int = max(conventions.pad_multiple, *own)

    def image_batch(self, batch: list[Sample]) -> ImageBatch:
        return ImageBatch.from_samples(batch, self.pixel_mean, self.pixel_std, self.divisibility)

    def features(self, images: ImageBatch) -> dict[str, Tensor]:
        features = self.backbone(images.tensor)
        return features if self.neck is None else self.neck(features)

    @cached_property
    def levels_read(self) -> set[str]:
        """The levels that the stages say they read: a part that reads some has their `strides`, by name."""
        parts = [part for name, part in self.named_modules() if name.split(".")[0] not in ("backbone", "neck")]
        return {level for part in parts for level in getattr(part, "strides", ())}

    def unread_levels(self) -> list[str]:
        """The levels that no stage says it reads: what computes one of them alone does not learn."""
        specs = cast("Mapping[str, FeatureSpec]", (self.backbone if self.neck is None else self.neck).specs)
        return [level for level in specs if level not in self.levels_read]

    def with_all_levels(self, losses: dict[str, Tensor], features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses, on which every level depends, by a zero if no stage reads it.

        Its layers do not learn, but have a gradient as all others, without which several processes could not go on.
        """
        # of none of their rows; a stage that does not say what it reads is taken to read nothing, which does no harm
        unread = [level[:0].sum().float() for name, level in features.items() if name not in self.levels_read]
        return {name: loss + sum(unread) for name, loss in losses.items()} if unread else losses

    def in_file(self, found: Found, size: tuple[int, int]) -> Found:
        """What was found, in another frame of the same image, of `size`: in its file's, or in another view's."""
        if not self.conventions.inclusive_boxes:
            return found.resize(size)
        pixel = found.boxes.new_tensor([0, 0, 1, 1])
        resized = replace(found, boxes=found.boxes - pixel).resize(size)
        return replace(resized, boxes=resized.boxes + pixel)

    def recomputable(self) -> list[nn.Module]:
        return blocks_of(self.backbone)


@MODELS.register(BACKBONE=BACKBONES, NECK=NECKS, PROPOSALS=PROPOSALS, ROI_HEADS=ROI_HEADS)
class GeneralizedRCNN(RegionModel):
    """Backbone, neck, proposals, RoI heads (Faster R-CNN; Mask R-CNN §3)."""

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
        super().__init__(backbone, neck, proposals, pixel_mean, pixel_std, conventions)
        self.roi_heads = roi_heads
        self.without = () if isinstance(proposals, nn.Module) else ("proposals.",)

    @classmethod
    def from_config(
        cls,
        cfg: Mapping[str, Any],
        num_classes: int,
        detections_per_image: int,
        conventions: Conventions = OURS,
    ) -> Self:
        backbone, neck, specs, proposals = first_parts(cfg, conventions)
        roi_heads = ROI_HEADS.build(cfg["ROI_HEADS"], specs, num_classes, detections_per_image, conventions, backbone)
        return cls(backbone, neck, proposals, roi_heads, cfg["PIXEL_MEAN"], cfg["PIXEL_STD"], conventions)

    def losses(self, batch: list[Sample]) -> dict[str, Tensor]:
        targets = targets_of(batch, self.device)
        images = self.image_batch(batch)
        features = self.features(images)
        proposals, losses = self.proposals.losses(features, images, targets)
        losses |= self.roi_heads.losses(features, proposals, targets)
        return self.with_all_levels(losses, features)

    def inference(self, batch: list[Sample]) -> list[Detections]:
        """Detections in the frame of each image's file, masks small and soft."""
        images = self.image_batch(batch)
        features = self.features(images)
        detections = self.roi_heads.inference(features, self.proposals.inference(features, images))
        return [self.in_file(d, s.original_size) for d, s in zip(detections, batch, strict=True)]

    def compilable(self) -> list[nn.Module]:
        parts = [self.backbone, self.neck, self.proposals, *self.roi_heads.heads]
        return [part for part in parts if isinstance(part, nn.Module)]

    def recomputable(self) -> list[nn.Module]:
        return [*super().recomputable(), *getattr(self.roi_heads, "roi_stage", ())]

    def place(self, name: str) -> str:
        stage = getattr(self.roi_heads, "roi_stage", None)
        if stage is None:
            return name
        in_trunk = f"backbone.{stage.name_in_trunk}."
        return f"roi_heads.roi_stage.{name.removeprefix(in_trunk)}" if name.startswith(in_trunk) else name


def first_parts(
    cfg: Mapping[str, Any], conventions: Conventions
) -> tuple[nn.Module, nn.Module | None, Mapping[str, FeatureSpec], ProposalStage]:
    """From a MODEL section: backbone, neck, the levels that come out of them, and the first stage on these."""
    backbone = BACKBONES.build(cfg["BACKBONE"])
    neck = NECKS.build(cfg["NECK"], backbone.specs)
    specs = backbone.specs if neck is None else neck.specs
    return backbone, neck, specs, PROPOSALS.build(cfg["PROPOSALS"], specs, conventions)


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
