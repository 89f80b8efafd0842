"""Box branch: class and box of each RoI (Fast R-CNN §2, as Mask R-CNN Fig. 4 draws it)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.modeling.layers import PerLevel, RoISpec, conv_relu_stack, init_normal, init_xavier
from maskrcnn.modeling.matching import BoxCoder
from maskrcnn.modeling.roi_heads.roi_heads import split_rows
from maskrcnn.ops.boxes import clip_boxes
from maskrcnn.registry import BOX_HEADS
from maskrcnn.structures import Candidates, Instances, Proposals, RoISamples

FAST_RCNN_CODER = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))


class BoxHead(nn.Module):
    """What every box branch shares: the predictor, the losses, the scores. A head adds `forward`, ending in `predict`.

    Args:
        in_dim: length of the vector that the head makes of a RoI.
        smooth_l1_beta: where the box loss turns from quadratic to linear; 0 is L1.
    """

    rows_per_class = {"logits": 1, "deltas": 4}  # of these layers' outputs: see Model.class_rows

    def __init__(self, in_dim: int, num_classes: int, *, coder: BoxCoder, smooth_l1_beta: float) -> None:
        super().__init__()
        self.num_classes, self.coder, self.smooth_l1_beta = num_classes, coder, smooth_l1_beta
        self.logits = nn.Linear(in_dim, num_classes + 1)
        self.deltas = nn.Linear(in_dim, 4 * num_classes)
        init_normal(self.logits, std=0.01)
        init_normal(self.deltas, std=0.001)

    def predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(R, in_dim) -> logits (R, K+1), background last, and deltas (R, K, 4), both float32."""
        return self.logits(x).float(), self.deltas(x).float().unflatten(1, (self.num_classes, 4))

    def losses(
        self, output: tuple[Tensor, Tensor], samples: list[RoISamples], targets: list[Instances]
    ) -> dict[str, Tensor]:
        """Cross-entropy over all RoIs, and smooth L1 on the deltas of the true class of the foreground ones.

        Both are divided by the number of all sampled RoIs (Fast R-CNN Eq. 1-3).
        """
        logits, deltas = output
        labels = torch.cat([s.labels for s in samples])
        boxes = torch.cat([s.boxes for s in samples])
        goals = torch.cat([t.boxes[s.gt_index] if len(t) else s.boxes for s, t in zip(samples, targets, strict=True)])
        count = max(len(labels), 1)
        foreground = (labels < self.num_classes).nonzero()[:, 0]
        predicted = deltas[foreground, labels[foreground]]
        goal = self.coder.encode(goals[foreground], boxes[foreground])
        return {
            "loss_cls": F.cross_entropy(logits, labels, reduction="sum") / count,
            "loss_box": F.smooth_l1_loss(predicted, goal, beta=self.smooth_l1_beta, reduction="sum") / count,
        }

    def score(self, output: tuple[Tensor, Tensor], proposals: list[Proposals]) -> list[Candidates]:
        """Probabilities of the K classes, and a box for each, cut to the image."""
        logits, deltas = output
        scores = split_rows(logits.softmax(dim=1)[:, :-1], proposals)
        reference = torch.cat([p.boxes for p in proposals])
        boxes = split_rows(self.coder.decode(deltas, reference[:, None].expand_as(deltas)), proposals)
        return [
            Candidates(boxes=clip_boxes(b, p.size), scores=s, size=p.size)
            for b, s, p in zip(boxes, scores, proposals, strict=True)
        ]


@BOX_HEADS.register(CODER=BoxCoder)
class TwoFCBoxHead(BoxHead):
    """Two fully connected layers on the pooled features (FPN §4.2).

    RoI features (R, C, 7, 7), or (L, R, C, 7, 7) from all levels -> logits (R, K+1), deltas (R, K, 4).
    """

    def __init__(
        self,
        roi: RoISpec,
        num_classes: int,
        *,
        fc_dim: int = 1024,
        coder: BoxCoder = FAST_RCNN_CODER,
        smooth_l1_beta: float = 1.0,
    ) -> None:
        super().__init__(fc_dim, num_classes, coder=coder, smooth_l1_beta=smooth_l1_beta)
        self.fc1 = PerLevel(lambda: FlatLinear(roi.channels * roi.size[0] * roi.size[1], fc_dim), roi.levels)
        self.fc2 = FlatLinear(fc_dim, fc_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.predict(self.fc2(self.fc1(x)))


@BOX_HEADS.register(CODER=BoxCoder)
class ConvFCBoxHead(BoxHead):
    """3x3 convolutions, then fully connected layers (Wu & He 2018, §4.2: "4conv1fc", with GN).

    RoI features (R, C, 7, 7), or (L, R, C, 7, 7) from all levels -> logits (R, K+1), deltas (R, K, 4).

    Args:
        norm: of the convolutions; Wu & He have GN, torchvision's `_v2` models BN.
    """

    def __init__(
        self,
        roi: RoISpec,
        num_classes: int,
        *,
        num_convs: int = 4,
        conv_dim: int = 256,
        num_fcs: int = 1,
        fc_dim: int = 1024,
        norm: str = "",
        coder: BoxCoder = FAST_RCNN_CODER,
        smooth_l1_beta: float = 1.0,
    ) -> None:
        super().__init__(fc_dim, num_classes, coder=coder, smooth_l1_beta=smooth_l1_beta)
        for name, count in (("NUM_CONVS", num_convs), ("NUM_FCS", num_fcs)):
            if count < 1:
                raise ValueError(f"ConvFCBoxHead.{name}: {count} is not at least 1")
        first = PerLevel(lambda: conv_relu_stack(roi.channels, conv_dim, 1, norm), roi.levels)
        self.convs = nn.Sequential(first, *conv_relu_stack(conv_dim, conv_dim, num_convs - 1, norm))
        flat = FlatLinear(conv_dim * roi.size[0] * roi.size[1], fc_dim)
        self.fcs = nn.Sequential(flat, *(FlatLinear(fc_dim, fc_dim) for _ in range(num_fcs - 1)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.predict(self.fcs(self.convs(x)))


@BOX_HEADS.register(CODER=BoxCoder)
class PooledBoxHead(BoxHead):
    """The average of the features that a stage of the trunk has made of a RoI (Mask R-CNN Fig. 4 left, behind res5).

    RoI features (R, C, h, w) -> logits (R, K+1), deltas (R, K, 4).
    """

    def __init__(
        self, roi: RoISpec, num_classes: int, *, coder: BoxCoder = FAST_RCNN_CODER, smooth_l1_beta: float = 1.0
    ) -> None:
        super().__init__(roi.channels, num_classes, coder=coder, smooth_l1_beta=smooth_l1_beta)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.predict(x.mean(dim=(2, 3)))


class FlatLinear(nn.Linear):
    """(R, ...) flattened in the order channel, row, column -> (R, out) through a linear layer and a ReLU."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        init_xavier(self)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x.flatten(start_dim=1)), inplace=True)
