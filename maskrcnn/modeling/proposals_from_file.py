"""A first stage that computes nothing: the loader hands over proposals that were computed before."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from maskrcnn.conventions import OURS, Conventions
from maskrcnn.modeling.layers import FeatureSpec
from maskrcnn.registry import PROPOSALS
from maskrcnn.structures import ImageBatch, Instances, Proposals


@PROPOSALS.register()
class ProposalsFromFile:
    """The best proposals of DATASETS.PROPOSAL_FILES_*, as Fast R-CNN has them; no weights, no losses.

    Args:
        topk_train, topk_test: proposals per image, at most.

    `from_files` is how the engine knows that there must be files.
    """

    from_files = True

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        conventions: Conventions = OURS,
        *,
        topk_train: int = 2000,
        topk_test: int = 1000,
    ) -> None:
        for key, value in (("TOPK_TRAIN", topk_train), ("TOPK_TEST", topk_test)):
            if value < 1:
                raise ValueError(f"ProposalsFromFile.{key} is {value}; it must be at least 1")
        self.topk_train, self.topk_test = topk_train, topk_test
        self.min_size = conventions.min_proposal_size

    def losses(
        self, features: dict[str, Tensor], images: ImageBatch, targets: list[Instances]
    ) -> tuple[list[Proposals], dict[str, Tensor]]:
        return self.best(images, self.topk_train), {}

    def inference(self, features: dict[str, Tensor], images: ImageBatch) -> list[Proposals]:
        return self.best(images, self.topk_test)

    def best(self, images: ImageBatch, count: int) -> list[Proposals]:
        """By score, cut to the image; what has no area then is left out.

        Raises:
            ValueError: the images came without proposals.
        """
        if images.proposals is None:
            raise ValueError(
                "these images have no proposals, which a model with MODEL.PROPOSALS.NAME 'ProposalsFromFile' cannot do "
                "without: give each Sample its own, or evaluate a data set with DATASETS.PROPOSAL_FILES_TEST"
            )
        best = []
        for proposals in images.proposals:
            clipped = proposals.clip()
            clipped = clipped[((clipped.boxes[:, 2:] - clipped.boxes[:, :2]) > self.min_size).all(dim=1)]
            best.append(clipped[clipped.scores.argsort(descending=True, stable=True)[:count]])
        return best
