"""Mask branch (Mask R-CNN §3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.modeling.layers import PerLevel, RoISpec, conv_relu_stack, init_kaiming, init_normal
from maskrcnn.registry import MASK_HEADS
from maskrcnn.structures import Detections, Instances, RoISamples


class MaskHead(nn.Module):
    """What every mask branch shares: the loss and the choice of channel. A head adds `forward`."""

    def losses(self, logits: Tensor, samples: list[RoISamples], targets: list[Instances]) -> dict[str, Tensor]:
        """Binary cross-entropy on the channel of each RoI's own class, so that classes do not compete (§3, L_mask).

        Args:
            logits: (R, K, m, m) of the foreground RoIs.
        """
        labels = torch.cat([s.labels for s in samples])
        goals = torch.cat([crop_masks(t, s, logits.shape[-1]) for s, t in zip(samples, targets, strict=True)])
        chosen = select_class(logits, labels).float()
        total = F.binary_cross_entropy_with_logits(chosen, goals, reduction="sum")
        return {"loss_mask": total / max(goals.numel(), 1)}  # without objects: zero, and every parameter in the graph

    def inference(self, logits: Tensor, detections: list[Detections]) -> Tensor:
        """Probabilities (D, m, m): the k-th mask, k being the class that the box branch predicted (§3.1, Inference)."""
        return select_class(logits, torch.cat([d.labels for d in detections])).float().sigmoid()


@MASK_HEADS.register()
class FCNMaskHead(MaskHead):
    """The fully convolutional head of §3 and Fig. 4 right: 3x3 convs, a 2x deconv, a 1x1 predictor, one mask per class.

    RoI features (R, C, 14, 14), or (L, R, C, 14, 14) from all levels -> mask logits (R, K, 28, 28).

    Without convolutions it is Fig. 4 left, on the (R, 2048, 7, 7) that res5 gives: logits (R, K, 14, 14).
    """

    rows_per_class = {"predictor": 1}

    def __init__(
        self, roi: RoISpec, num_classes: int, *, num_convs: int = 4, conv_dim: int = 256, norm: str = ""
    ) -> None:
        super().__init__()
        if num_convs < (roi.levels > 1):
            raise ValueError(f"FCNMaskHead.NUM_CONVS: {num_convs}; {roi.levels} levels need at least 1, to be fused by")
        self.convs = nn.Sequential()
        if num_convs > 0:
            self.convs.append(PerLevel(lambda: conv_relu_stack(roi.channels, conv_dim, 1, norm), roi.levels))
            self.convs.extend(conv_relu_stack(conv_dim, conv_dim, num_convs - 1, norm))
        self.deconv = nn.ConvTranspose2d(conv_dim if num_convs > 0 else roi.channels, conv_dim, kernel_size=2, stride=2)
        self.predictor = nn.Conv2d(conv_dim, num_classes, kernel_size=1)
        init_kaiming(self.deconv)
        init_normal(self.predictor, std=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return self.predictor(F.relu(self.deconv(self.convs(x)), inplace=True))


def select_class(logits: Tensor, labels: Tensor) -> Tensor:
    """(R, K, m, m), (R,) -> (R, m, m): each row's channel of its own class."""
    return logits[torch.arange(len(labels), device=labels.device), labels]


def crop_masks(targets: Instances, samples: RoISamples, size: int) -> Tensor:
    """Training targets (R, m, m) of 0 and 1: the part of each matched object's mask inside its RoI (§3.1, Training)."""
    if targets.masks is None:
        raise ValueError("the mask branch needs masks, but an image's annotations have none")
    return targets.masks.crop(samples.gt_index, samples.boxes, size)
