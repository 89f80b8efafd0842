"""Mask branch (Mask R-CNN §3)."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.modeling.layers import PerLevel, RoISpec, conv_relu_stack, init_kaiming, init_normal
from maskrcnn.modeling.roi_heads.box import FlatLinear
from maskrcnn.registry import MASK_HEADS
from maskrcnn.structures import Detections, Instances, RoISamples


class MaskPrediction(Protocol):
    """What the channels of a mask branch mean: how they are learnt and read."""

    per_class: bool  # whether a class has a channel of its own

    def channels(self, num_classes: int) -> int: ...

    def loss(self, logits: Tensor, labels: Tensor, goals: Tensor) -> Tensor:
        """The sum over RoIs and pixels: logits (R, channels, m, m), labels (R,), goals of 0 and 1 (R, m, m)."""

    def probabilities(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(R, m, m), of each row's class."""


class ClassMasks:
    """A mask for each class, by a sigmoid per pixel: classes do not compete (§3, L_mask)."""

    per_class = True

    def channels(self, num_classes: int) -> int:
        return num_classes

    def loss(self, logits: Tensor, labels: Tensor, goals: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(select_class(logits, labels).float(), goals, reduction="sum")

    def probabilities(self, logits: Tensor, labels: Tensor) -> Tensor:
        return select_class(logits, labels).float().sigmoid()


class AgnosticMasks(ClassMasks):
    """One mask, whatever the class (§4.2, "Class-Specific vs. Class-Agnostic Masks")."""

    per_class = False

    def channels(self, num_classes: int) -> int:
        return 1

    def loss(self, logits: Tensor, labels: Tensor, goals: Tensor) -> Tensor:
        return super().loss(logits, torch.zeros_like(labels), goals)

    def probabilities(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().probabilities(logits, torch.zeros_like(labels))


class SoftmaxMasks:
    """Each pixel has one of the classes, as in semantic segmentation: the multinomial loss of Table 2b.

    The paper states neither the channels nor the test. Here a pixel off the object is of one more class, the
    background, which is the last; a mask at test is the probability of the predicted class, cut as with the sigmoid.
    """

    per_class = True

    def channels(self, num_classes: int) -> int:
        return num_classes + 1

    def loss(self, logits: Tensor, labels: Tensor, goals: Tensor) -> Tensor:
        classes = torch.where(goals >= 0.5, labels[:, None, None], logits.shape[1] - 1)
        return F.cross_entropy(logits.float(), classes, reduction="sum")

    def probabilities(self, logits: Tensor, labels: Tensor) -> Tensor:
        return select_class(logits.float().softmax(dim=1), labels)


PREDICTIONS: dict[str, MaskPrediction] = {
    "class": ClassMasks(),
    "agnostic": AgnosticMasks(),
    "softmax": SoftmaxMasks(),
}


class MaskHead(nn.Module):
    """What every mask branch shares: the loss and the choice of channel. A head adds `forward`.

    Args:
        predicts: "class", "agnostic" or "softmax", see `PREDICTIONS`.
        rows_per_class: rows of the layer `predictor` that make up a channel.
    """

    def __init__(self, predicts: str = "class", *, rows_per_class: int = 1) -> None:
        super().__init__()
        if predicts not in PREDICTIONS:
            raise ValueError(f"MASK_HEAD.PREDICTS: {predicts!r} is not one of {', '.join(PREDICTIONS)}")
        self.prediction = PREDICTIONS[predicts]
        self.rows_per_class = {"predictor": rows_per_class} if self.prediction.per_class else {}

    def losses(self, logits: Tensor, samples: list[RoISamples], targets: list[Instances]) -> dict[str, Tensor]:
        """The mean over the foreground RoIs and their pixels; with `ClassMasks` on the channel of the RoI's own class.

        Args:
            logits: (R, channels, m, m) of the foreground RoIs.
        """
        labels = torch.cat([s.labels for s in samples])
        goals = torch.cat([crop_masks(t, s, logits.shape[-1]) for s, t in zip(samples, targets, strict=True)])
        total = self.prediction.loss(logits, labels, goals)
        return {"loss_mask": total / max(goals.numel(), 1)}  # without objects: zero, and every parameter in the graph

    def inference(self, logits: Tensor, detections: list[Detections]) -> Tensor:
        """Probabilities (D, m, m): the k-th mask, k being the class that the box branch predicted (§3.1, Inference)."""
        return self.prediction.probabilities(logits, torch.cat([d.labels for d in detections]))


@MASK_HEADS.register()
class FCNMaskHead(MaskHead):
    """The fully convolutional head of §3 and Fig. 4 right: 3x3 convs, a 2x deconv, a 1x1 predictor.

    RoI features (R, C, 14, 14), or (L, R, C, 14, 14) from all levels -> mask logits (R, K, 28, 28), one for each class.
    Without convolutions it is Fig. 4 left, on the (R, 2048, 7, 7) that res5 gives: logits (R, K, 14, 14).

    Args:
        predicts: "class": a mask per class; "agnostic": one for all; "softmax": classes compete (Table 2b).
    """

    def __init__(
        self,
        roi: RoISpec,
        num_classes: int,
        *,
        num_convs: int = 4,
        conv_dim: int = 256,
        norm: str = "",
        predicts: str = "class",
    ) -> None:
        super().__init__(predicts)
        if num_convs < 0:
            raise ValueError(f"FCNMaskHead.NUM_CONVS: {num_convs} is not at least 0")
        if num_convs == 0 and roi.levels > 1:
            raise ValueError(f"FCNMaskHead.NUM_CONVS: 0; {roi.levels} levels need at least 1, to be fused by")
        self.convs = nn.Sequential()
        if num_convs > 0:
            self.convs.append(PerLevel(lambda: conv_relu_stack(roi.channels, conv_dim, 1, norm), roi.levels))
            self.convs.extend(conv_relu_stack(conv_dim, conv_dim, num_convs - 1, norm))
        self.deconv = nn.ConvTranspose2d(conv_dim if num_convs > 0 else roi.channels, conv_dim, kernel_size=2, stride=2)
        self.predictor = nn.Conv2d(conv_dim, self.prediction.channels(num_classes), kernel_size=1)
        init_kaiming(self.deconv)
        init_normal(self.predictor, std=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return self.predictor(F.relu(self.deconv(self.convs(x)), inplace=True))


@MASK_HEADS.register()
class MLPMaskHead(MaskHead):
    """The fully connected branch of Table 2e: layers of 1024, then all pixels of all masks at once.

    RoI features (R, C, h, w), or (L, R, C, h, w) from all levels -> mask logits (R, K, size, size).

    Args:
        num_fcs: layers before the predictor; Table 2e has 2 and 3.
        size: side of the masks.
        predicts: as for `FCNMaskHead`.
    """

    def __init__(
        self,
        roi: RoISpec,
        num_classes: int,
        *,
        num_fcs: int = 2,
        fc_dim: int = 1024,
        size: int = 28,
        predicts: str = "class",
    ) -> None:
        super().__init__(predicts, rows_per_class=size * size)
        if num_fcs < 1:
            raise ValueError(f"MLPMaskHead.NUM_FCS: {num_fcs} is not at least 1")
        self.shape = (self.prediction.channels(num_classes), size, size)
        first = PerLevel(lambda: FlatLinear(roi.channels * roi.size[0] * roi.size[1], fc_dim), roi.levels)
        self.fcs = nn.Sequential(first, *(FlatLinear(fc_dim, fc_dim) for _ in range(num_fcs - 1)))
        self.predictor = nn.Linear(fc_dim, self.shape[0] * size * size)
        init_normal(self.predictor, std=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return self.predictor(self.fcs(x)).unflatten(1, self.shape)


def select_class(logits: Tensor, labels: Tensor) -> Tensor:
    """(R, K, m, m), (R,) -> (R, m, m): each row's channel of its own class."""
    return logits[torch.arange(len(labels), device=labels.device), labels]


def crop_masks(targets: Instances, samples: RoISamples, size: int) -> Tensor:
    """Training targets (R, m, m) of 0 and 1: the part of each matched object's mask inside its RoI (§3.1, Training)."""
    if targets.masks is None:
        raise ValueError("the mask branch needs masks, but an image's annotations have none")
    return targets.masks.crop(samples.gt_index, samples.boxes, size)
