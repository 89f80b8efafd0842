"""A first stage alone: what the RPN of a detector is when it is trained apart (Mask R-CNN §4; Ren et al. §4.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from maskrcnn.conventions import OURS, Conventions
from maskrcnn.modeling.generalized_rcnn import ProposalStage, blocks_of
from maskrcnn.modeling.model import IMAGENET_MEAN, IMAGENET_STD, Model, targets_of
from maskrcnn.registry import BACKBONES, MODELS, NECKS, PROPOSALS
from maskrcnn.structures import ImageBatch, Proposals, Sample


@MODELS.register(BACKBONE=BACKBONES, NECK=NECKS, PROPOSALS=PROPOSALS)
class ProposalNetwork(Model):
    """Backbone, neck, proposals, with the names that they have in `GeneralizedRCNN`: their weights fit there.

    Args:
        neck, proposals: as for `GeneralizedRCNN`.
    """

    task = "instance"
    outputs = Proposals

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module | None,
        proposals: ProposalStage,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        self.backbone, self.neck = backbone, neck
        self.proposals: ProposalStage = proposals
        self.divisibility: int = max(getattr(part, "divisibility", 1) for part in (backbone, neck))

    @classmethod
    def from_config(
        cls,
        cfg: Mapping[str, Any],
        num_classes: int,
        detections_per_image: int,
        conventions: Conventions = OURS,
    ) -> Self:
        """The numbers of classes and of detections are a second stage's, and mean nothing here."""
        backbone = BACKBONES.build(cfg["BACKBONE"])
        neck = NECKS.build(cfg["NECK"], backbone.specs)
        specs = backbone.specs if neck is None else neck.specs
        proposals = PROPOSALS.build(cfg["PROPOSALS"], specs, conventions)
        return cls(backbone, neck, proposals, cfg["PIXEL_MEAN"], cfg["PIXEL_STD"])

    def losses(self, batch: list[Sample]) -> dict[str, Tensor]:
        targets = targets_of(batch, self.device)
        images = self.image_batch(batch)
        features = self.features(images)
        losses = self.proposals.losses(features, images, targets)[1]
        # Of none of their rows: a level that only a second stage would read has its gradient too, of zero, without
        # which several processes could not exchange them.
        nothing = torch.stack([level[:0].sum().float() for level in features.values()]).sum()
        return {name: loss + nothing for name, loss in losses.items()}

    def inference(self, batch: list[Sample]) -> list[Proposals]:
        """The best proposals first, in the frame of each image's file."""
        images = self.image_batch(batch)
        proposals = self.proposals.inference(self.features(images), images)
        return [p.resize(s.original_size) for p, s in zip(proposals, batch, strict=True)]

    def compilable(self) -> list[nn.Module]:
        return [part for part in (self.backbone, self.neck, self.proposals) if isinstance(part, nn.Module)]

    def recomputable(self) -> list[nn.Module]:
        return blocks_of(self.backbone)

    def image_batch(self, batch: list[Sample]) -> ImageBatch:
        return ImageBatch.from_samples(batch, self.pixel_mean, self.pixel_std, self.divisibility)

    def features(self, images: ImageBatch) -> dict[str, Tensor]:
        features = self.backbone(images.tensor)
        return features if self.neck is None else self.neck(features)
