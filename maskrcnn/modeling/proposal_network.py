"""A first stage alone: what the RPN of a detector is when it is trained apart (Mask R-CNN §4; Ren et al. §4.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from torch import Tensor, nn

from maskrcnn.conventions import OURS, Conventions
from maskrcnn.modeling.generalized_rcnn import ProposalStage, RegionModel, first_parts
from maskrcnn.modeling.model import IMAGENET_MEAN, IMAGENET_STD, targets_of
from maskrcnn.registry import BACKBONES, MODELS, NECKS, PROPOSALS
from maskrcnn.structures import Proposals, Sample


@MODELS.register(BACKBONE=BACKBONES, NECK=NECKS, PROPOSALS=PROPOSALS)
class ProposalNetwork(RegionModel):
    """Backbone, neck, proposals, with the names that they have in `GeneralizedRCNN`: their weights fit there.

    A detector's weights fit here without those of its second stage.

    Raises:
        ValueError: the first stage hands on proposals that were made before: nothing would be left to train.
    """

    outputs = Proposals
    without = ("roi_heads.",)

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module | None,
        proposals: ProposalStage,
        pixel_mean: Sequence[float] = IMAGENET_MEAN,
        pixel_std: Sequence[float] = IMAGENET_STD,
        conventions: Conventions = OURS,
    ) -> None:
        if getattr(proposals, "from_files", False):
            raise ValueError(
                f"MODEL.PROPOSALS.NAME is {type(proposals).__name__!r}, which computes nothing, and MODEL.NAME "
                "'ProposalNetwork' has no other stage; name RPN, or take 'GeneralizedRCNN'"
            )
        super().__init__(backbone, neck, proposals, pixel_mean, pixel_std, conventions)

    @classmethod
    def from_config(
        cls,
        cfg: Mapping[str, Any],
        num_classes: int,
        detections_per_image: int,
        conventions: Conventions = OURS,
    ) -> Self:
        """The numbers of classes and of detections are a second stage's, and mean nothing here."""
        backbone, neck, _, proposals = first_parts(cfg, conventions)
        return cls(backbone, neck, proposals, cfg["PIXEL_MEAN"], cfg["PIXEL_STD"], conventions)

    def losses(self, batch: list[Sample]) -> dict[str, Tensor]:
        targets = targets_of(batch, self.device)
        images = self.image_batch(batch)
        features = self.features(images)
        return self.with_all_levels(self.proposals.losses(features, images, targets)[1], features)

    def inference(self, batch: list[Sample]) -> list[Proposals]:
        """The best proposals first, in the frame of each image's file."""
        images = self.image_batch(batch)
        proposals = self.proposals.inference(self.features(images), images)
        return [self.in_file(p, s.original_size) for p, s in zip(proposals, batch, strict=True)]

    def compilable(self) -> list[nn.Module]:
        return [part for part in (self.backbone, self.neck, self.proposals) if isinstance(part, nn.Module)]
