"""Who is responsible for which object: matching by IoU, balanced sampling, and the code of box offsets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrcnn.ops.boxes import decode_boxes, encode_boxes

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


@dataclass(frozen=True)
class Matcher:
    """Labels boxes by their best IoU with any object (Faster R-CNN §3.1.2, Fast R-CNN §2.3).

    Args:
        positive: a box with at least this IoU is positive.
        negative: a box below this IoU is negative; between the two it is ignored.
        best_for_each_object: the boxes with the highest IoU with an object are positive whatever it is, ties included.
    """

    positive: float = 0.5
    negative: float = 0.5
    best_for_each_object: bool = False

    def __call__(self, iou: Tensor) -> tuple[Tensor, Tensor]:
        """IoU (G, B) -> the object of each box, int64 (B,), and POSITIVE, NEGATIVE or IGNORED, int8 (B,).

        Without objects every box is negative, and its object is 0.
        """
        if iou.numel() == 0:
            none = torch.zeros(iou.shape[1], dtype=torch.int64, device=iou.device)
            return none, none.to(torch.int8)
        best, matches = iou.max(dim=0)
        labels = torch.full_like(matches, IGNORED, dtype=torch.int8)
        labels.masked_fill_(best < self.negative, NEGATIVE)
        labels.masked_fill_(best >= self.positive, POSITIVE)
        if self.best_for_each_object:
            highest = iou.amax(dim=1, keepdim=True)
            # An object that no box touches would otherwise make every box its best one.
            labels.masked_fill_(((iou == highest) & (highest > 0)).any(dim=0), POSITIVE)
        return matches, labels


@dataclass(frozen=True)
class Sampler:
    """A random minibatch with at most a given share of positives, filled up with negatives (Fast R-CNN §2.3)."""

    batch_size_per_image: int = 512
    positive_fraction: float = 0.25

    def __call__(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (B,) as from `Matcher` -> (indices (S,), valid (S,)), of fixed size so that no device has to be asked.

        The rows that are not valid stand for positives or negatives that do not exist.
        """
        max_positive = min(int(self.batch_size_per_image * self.positive_fraction), len(labels))
        max_negative = min(self.batch_size_per_image, len(labels))
        keys = torch.rand(len(labels), device=labels.device)
        positive_keys, positives = keys.where(labels == POSITIVE, -1.0).topk(max_positive)
        negative_keys, negatives = keys.where(labels == NEGATIVE, -1.0).topk(max_negative)
        is_positive = positive_keys >= 0
        rank = torch.arange(max_negative, device=labels.device)
        is_negative = (negative_keys >= 0) & (rank < self.batch_size_per_image - is_positive.sum())
        return torch.cat([positives, negatives]), torch.cat([is_positive, is_negative])


@dataclass(frozen=True)
class BoxCoder:
    """Boxes as offsets from reference boxes (R-CNN appendix C).

    Args:
        weights: factors of dx, dy, dw, dh, which bring the targets to about unit variance.
        clip: dw and dh are cut off above this before the exponential.
    """

    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    clip: float = math.log(1000 / 16)

    def encode(self, boxes: Tensor, reference: Tensor) -> Tensor:
        """(B, 4), (B, 4) -> deltas (B, 4)."""
        return encode_boxes(boxes, reference, self.weights)

    def decode(self, deltas: Tensor, reference: Tensor, *, symmetric: bool = False) -> Tensor:
        """Deltas (..., 4) and reference boxes (..., 4) -> boxes (..., 4) float32.

        Args:
            symmetric: dw and dh are cut off below -`clip` too (`Conventions.symmetric_clip`).
        """
        return decode_boxes(deltas, reference, self.weights, self.clip, symmetric=symmetric)
