"""What every second stage shares: the order of inference, the choice of detections, the choice of training RoIs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn.conventions import Conventions
from maskrcnn.modeling.matching import POSITIVE, Matcher, Sampler
from maskrcnn.ops.boxes import pairwise_iou
from maskrcnn.ops.nms import batched_nms
from maskrcnn.structures import Candidates, Detections, Instances, Proposals, RoISamples


class RoIHeads(nn.Module):
    """The second stage. A subclass gives `losses`, `score`, `on_boxes` and `finish`.

    Args:
        detections_per_image: at most so many are kept.
        conventions: how boxes are read, cut to the image, and how small they may be.
        matcher, sampler: how proposals become RoI samples (`sample`).
        score_thresh_test: candidates need a score above it.
        nms_thresh_test: of two candidates of a class with more overlap the worse one goes.
    """

    def __init__(
        self,
        num_classes: int,
        detections_per_image: int,
        conventions: Conventions,
        *,
        matcher: Matcher,
        sampler: Sampler,
        score_thresh_test: float,
        nms_thresh_test: float,
    ) -> None:
        super().__init__()
        self.num_classes, self.detections_per_image, self.conventions = num_classes, detections_per_image, conventions
        self.matcher, self.sampler = matcher, sampler
        self.score_thresh_test, self.nms_thresh_test = score_thresh_test, nms_thresh_test

    @property
    def heads(self) -> list[nn.Module]:
        """The parts that work on pooled features."""
        raise NotImplementedError

    def losses(
        self, features: dict[str, Tensor], proposals: list[Proposals], targets: list[Instances]
    ) -> dict[str, Tensor]:
        raise NotImplementedError

    def score(self, features: dict[str, Tensor], proposals: list[Proposals]) -> list[Candidates]:
        """Class scores and class-wise boxes of the proposals."""
        raise NotImplementedError

    def on_boxes(self, features: dict[str, Tensor], detections: list[Detections]) -> dict[str, Tensor]:
        """What is predicted on the detected boxes only (§3.1), as maps that fill them, rows of all images together.

        "masks": probabilities (D, m, m); "keypoints": logits (D, 17, m, m). Maps can be averaged over several views of
        an image (`engine/views.py`), points can not.
        """
        raise NotImplementedError

    def finish(self, outputs: dict[str, Tensor], detections: list[Detections]) -> list[Detections]:
        """Detections with these outputs written in; of keypoints the points that their maps show."""
        raise NotImplementedError

    def inference(self, features: dict[str, Tensor], proposals: list[Proposals]) -> list[Detections]:
        """Mask R-CNN §3.1, Inference."""
        detections = self.select(self.score(features, proposals))
        return self.finish(self.on_boxes(features, detections), detections)

    def select(self, candidates: list[Candidates]) -> list[Detections]:
        """Threshold, suppression within each class, and the best `detections_per_image`, by score."""
        boxes, scores = torch.cat([c.boxes for c in candidates]), torch.cat([c.scores for c in candidates])
        owner = torch.cat([torch.full_like(c.scores[:, 0], i, dtype=torch.int64) for i, c in enumerate(candidates)])
        row, label = ((scores > self.score_thresh_test) & scores.isfinite()).nonzero().unbind(dim=1)
        scores, image = scores[row, label], owner[row]
        per_class = boxes.shape[1] > 1
        boxes = boxes[row, label if per_class else 0]
        large = ((boxes[:, 2:] - boxes[:, :2]) > self.conventions.min_detection_size).all(dim=1)
        boxes, scores, label, image = boxes[large], scores[large], label[large], image[large]
        kept = batched_nms(boxes, scores, image * self.num_classes + label, self.nms_thresh_test)
        kept = kept[image[kept].argsort(stable=True)]  # image by image, within it by score
        counts = torch.bincount(image[kept], minlength=len(candidates)).tolist()
        best = [part[: self.detections_per_image] for part in kept.split(counts)]
        return [
            Detections(boxes=boxes[k], scores=scores[k], labels=label[k], size=c.size)
            for k, c in zip(best, candidates, strict=True)
        ]

    @torch.no_grad()
    def sample(self, proposals: list[Proposals], targets: list[Instances]) -> list[RoISamples]:
        """RoIs to train on (Fast R-CNN §2.3), chosen from the proposals and the objects' own boxes.

        The objects' boxes are appended so that training has positives before the first stage finds any.
        """
        return [self.sample_one(p, t) for p, t in zip(proposals, targets, strict=True)]

    def sample_one(self, proposals: Proposals, targets: Instances) -> RoISamples:
        boxes = torch.cat([proposals.boxes.detach(), targets.boxes])
        matches, matched = self.matcher(pairwise_iou(targets.boxes, boxes))
        index, valid = self.sampler(matched)
        index = index[valid]
        labels = torch.full_like(index, self.num_classes)
        gt_index = torch.full_like(index, -1)
        if len(targets):
            positive = matched[index] == POSITIVE
            gt_index = torch.where(positive, matches[index], gt_index)
            labels = torch.where(positive, targets.labels[matches[index]], labels)
        return RoISamples(
            boxes=boxes[index], labels=labels, gt_index=gt_index, size=targets.size, num_classes=self.num_classes
        )


def split_rows(values: Tensor, parts: list[Any]) -> list[Tensor]:
    """Rows of all images together -> one tensor per image, as many rows as each part has."""
    return list(values.split([len(part) for part in parts]))
