"""Test-time augmentation: several views of an image, of other sizes and in a mirror, that become one result.

The views meet in two places: at the candidates, of all views together, from which detections are chosen once; and at
the maps of masks and keypoints on these detections, of which the mean over the views counts. Everything in between is
the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from maskrcnn.data import ResizeShortestEdge
from maskrcnn.data.transforms import hflip, resize, resized_size
from maskrcnn.modeling import Model
from maskrcnn.modeling.generalized_rcnn import GeneralizedRCNN
from maskrcnn.modeling.roi_heads import RoIHeads
from maskrcnn.ops.boxes import paired_iou
from maskrcnn.structures import Candidates, Detections, Sample, cat
from maskrcnn.structures.instances import MIRRORED_KEYPOINTS

Boxes = TypeVar("Boxes", Candidates, Detections)
Resize = Callable[[Boxes, tuple[int, int]], Boxes]


@dataclass(frozen=True)
class View:
    """One way to look at an image.

    Args:
        shorter: the length of its shorter side.
        max_size: the limit of the longer one.
        mirrored: left and right.
        rounding: of the sides, see `resized_size`.
    """

    shorter: int
    max_size: int
    mirrored: bool = False
    rounding: str = "half_up"

    def size(self, original: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of the view of an image of that size."""
        return resized_size(original, self.shorter, self.max_size, self.rounding)

    def of(self, sample: Sample) -> Sample:
        """The view of a sample: resized, then mirrored, as in training."""
        seen = resize(sample, self.size(sample.size))
        return hflip(seen) if self.mirrored else seen

    def into(self, found: Boxes, size: tuple[int, int], resize: Resize[Boxes]) -> Boxes:
        """What was found in the image, in the frame of its view, which has that size.

        Args:
            resize: how the model takes boxes to another size.
        """
        seen = resize(found, size)
        return seen.hflip() if self.mirrored else seen

    def out_of(self, seen: Boxes, size: tuple[int, int], resize: Resize[Boxes]) -> Boxes:
        """What was found in the view, in the frame of the image at that size: undoes `into`."""
        return resize(seen.hflip() if self.mirrored else seen, size)

    def maps_out_of(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a model predicts on boxes in the view (`RoIHeads.on_boxes`), as it is in the image."""
        return {name: MIRRORED[name](maps) for name, maps in outputs.items()} if self.mirrored else dict(outputs)


# What a mirror does to the maps of boxes, by their name.
MIRRORED = {
    "masks": lambda maps: maps.flip(-1),
    "keypoints": lambda maps: maps[:, MIRRORED_KEYPOINTS].flip(-1),  # a left hand looks like a right one there
}


class MultiViewInference(nn.Module):
    """A two-stage model that looks at each image several times; otherwise used as the model itself.

    Detections are chosen in the frame that the model alone would use, so that one view of that size gives exactly what
    the model does. On them the masks' probabilities are averaged and, of keypoints, the logits: a point is read off the
    mean map as off a single one, with a score of the same kind, and the mean of the points that two views see at two
    places would be at neither. The features of all views of one image are in memory together, those of one image at a
    time: computing them again for the masks would nearly double the time.

    Args:
        model: ready for inference; it stays what it is.
        frame: how the model alone looks at an image.
        views: one or more.
        voting: see `vote`; 0 leaves the boxes.

    Raises:
        ValueError: the model is of another form, there are no views, or the vote is not from 0 to 1.
    """

    def __init__(self, model: Model, frame: View, views: Sequence[View], *, voting: float = 0.0) -> None:
        super().__init__()
        if not isinstance(model, GeneralizedRCNN) or not isinstance(model.roi_heads, RoIHeads):
            raise ValueError(
                f"TEST.AUGMENTATION.ENABLED: a model of RoI heads on proposals can look at an image several times, but "
                f"not {type(model).__name__}; set it to False"
            )
        if not 0 <= voting <= 1:
            raise ValueError(f"TEST.AUGMENTATION.BOX_VOTING is {voting}, an IoU; expected 0 (no vote) to 1")
        assert views
        self.model, self.frame, self.views, self.voting = model, frame, tuple(views), voting

    @classmethod
    def from_config(cls, cfg: Mapping[str, Any], model: Model) -> Self | None:
        """As TEST.AUGMENTATION says; None where it is not enabled.

        Raises:
            ValueError: a value, or the model, does not fit.
        """
        section, ordinary = cfg["TEST"]["AUGMENTATION"], cfg["INPUT"]
        if not section["ENABLED"]:
            return None
        try:
            ResizeShortestEdge(section["SIZES"], section["MAX_SIZE"])
        except ValueError as error:
            raise ValueError(f"TEST.AUGMENTATION.SIZES and MAX_SIZE: {error}") from error
        mirrors = (False, True) if section["HFLIP"] else (False,)
        rounding = ordinary["SIZE_ROUNDING"]
        views = [View(size, section["MAX_SIZE"], mirror, rounding) for size in section["SIZES"] for mirror in mirrors]
        frame = View(ordinary["MIN_SIZE_TEST"], ordinary["MAX_SIZE_TEST"], rounding=rounding)
        return cls(model, frame, views, voting=section["BOX_VOTING"])

    def __str__(self) -> str:
        return f"in {len(self.views)} views"

    def inference(self, batch: list[Sample]) -> list[Detections]:
        """As the model's, of samples that were not resized."""
        return [self.detect(sample) for sample in batch]

    def detect(self, sample: Sample) -> Detections:
        heads, frame = self.model.roi_heads, self.frame.size(sample.size)
        features, candidates = [], []
        for view in self.views:
            images = self.model.image_batch([view.of(sample)])
            features.append(self.model.features(images))
            proposals = self.model.proposals.inference(features[-1], images)
            (seen,) = heads.score(features[-1], proposals)
            candidates.append(view.out_of(seen, frame, self.model.in_file))
        joined = cat(candidates)
        (found,) = heads.select([joined])
        if self.voting:
            found = vote(found, joined, self.voting, heads.score_thresh_test)
        outputs = []
        for view, levels in zip(self.views, features, strict=True):
            seen_again = view.into(found, view.size(sample.size), self.model.in_file)
            outputs.append(view.maps_out_of(heads.on_boxes(levels, [seen_again])))
        means = {name: torch.stack([maps[name].float() for maps in outputs]).mean(dim=0) for name in outputs[0]}
        (finished,) = heads.finish(means, [found])
        return self.model.in_file(finished, sample.original_size)


def vote(found: Detections, candidates: Candidates, iou: float, threshold: float) -> Detections:
    """Each detection with the mean of the candidates' boxes of its class that lie on it, weighted by their scores.

    Box voting, as Detectron does it: score and order stay. A detection on which no candidate lies keeps its box.

    Args:
        candidates: from which the detections were chosen.
        iou: of a candidate's box with the detection, to have a vote.
        threshold: candidates need a score above it.
    """
    labels = found.labels
    boxes = candidates.boxes[:, labels] if candidates.boxes.shape[1] > 1 else candidates.boxes  # (P, D or 1, 4)
    scores = candidates.scores[:, labels]
    votes = (paired_iou(boxes, found.boxes) >= iou) & (scores > threshold) & scores.isfinite()
    weights = torch.where(votes, scores, 0.0)
    total = weights.sum(dim=0)[:, None]
    mean = torch.einsum("pd,pdc->dc", weights, boxes.expand(-1, len(found), -1).nan_to_num()) / total
    return found._replace(boxes=torch.where(total > 0, mean, found.boxes))
