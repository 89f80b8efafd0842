"""Keypoint branch (Mask R-CNN §5): a heat map for each keypoint, in which one cell is right."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.modeling.layers import PerLevel, RoISpec, conv_relu_stack, init_kaiming
from maskrcnn.ops.keypoints import decode_keypoints
from maskrcnn.registry import KEYPOINT_HEADS
from maskrcnn.structures import Detections, Instances, RoISamples
from maskrcnn.structures.instances import NUM_KEYPOINTS

IGNORED = -1  # the cell of a keypoint that nothing is learnt from


class KeypointHead(nn.Module):
    """What every keypoint branch shares: the RoIs it learns from, the loss, the points. A head adds `forward`.

    Args:
        score: of a keypoint, the "logit" at its place (Detectron, torchvision) or its "probability" (Detectron2).
    """

    def __init__(self, *, score: Literal["logit", "probability"]) -> None:
        super().__init__()
        if score not in ("logit", "probability"):
            raise ValueError(f"KEYPOINT_HEAD.SCORE: {score!r} is neither 'logit' nor 'probability'")
        self.score = score

    def samples(self, samples: list[RoISamples], targets: list[Instances]) -> list[RoISamples]:
        """The foreground RoIs with at least one visible keypoint inside; the others have no part in the loss."""
        foreground = [s.foreground() for s in samples]
        return [
            s[(keypoint_cells(t, s, size=1) != IGNORED).any(dim=1)] for s, t in zip(foreground, targets, strict=True)
        ]

    def losses(self, logits: Tensor, samples: list[RoISamples], targets: list[Instances]) -> dict[str, Tensor]:
        """Cross-entropy over the cells of each visible keypoint's map, so that its cells compete (§5).

        The sum is divided by the number of visible keypoints of the whole batch, as Detectron does it.

        Args:
            logits: (R, 17, m, m) of `samples`.
        """
        size = logits.shape[-1]
        cells = torch.cat([keypoint_cells(t, s, size) for s, t in zip(samples, targets, strict=True)]).flatten()
        total = F.cross_entropy(
            logits.float().reshape(-1, size * size), cells, ignore_index=IGNORED, reduction="sum"
        )  # without keypoints: zero, and every parameter in the graph
        return {"loss_keypoint": total / (cells != IGNORED).sum().clamp(min=1)}

    def inference(self, logits: Tensor, detections: list[Detections]) -> Tensor:
        """x, y and score (D, 17, 3) of each detection's keypoints, in the frame of its box."""
        return decode_keypoints(logits, torch.cat([d.boxes for d in detections]), score=self.score)


@KEYPOINT_HEADS.register()
class FCNKeypointHead(KeypointHead):
    """The head of §5: 3x3 convs of 512, a deconv to one map per keypoint, and a bilinear upsampling by two.

    RoI features (R, C, 14, 14), or (L, R, C, 14, 14) from all levels -> logits (R, 17, 56, 56). The kernel of the
    deconv, 4x4 of stride 2, which the paper does not state, is Detectron's.
    """

    def __init__(
        self,
        roi: RoISpec,
        num_classes: int,
        *,
        num_convs: int = 8,
        conv_dim: int = 512,
        norm: str = "",
        score: Literal["logit", "probability"] = "logit",
    ) -> None:
        super().__init__(score=score)
        if num_convs < 1:
            raise ValueError(f"FCNKeypointHead.NUM_CONVS: {num_convs} is not at least 1")
        first = PerLevel(lambda: conv_relu_stack(roi.channels, conv_dim, 1, norm), roi.levels)
        self.convs = nn.Sequential(first, *conv_relu_stack(conv_dim, conv_dim, num_convs - 1, norm))
        self.deconv = nn.ConvTranspose2d(conv_dim, NUM_KEYPOINTS, kernel_size=4, stride=2, padding=1)
        init_kaiming(self.deconv)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.deconv(self.convs(x))
        return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)


def keypoint_cells(targets: Instances, samples: RoISamples, size: int) -> Tensor:
    """Training targets int64 (R, 17): the cell, row by row, of each matched object's keypoints in a size x size map.

    A keypoint that is not labelled, or outside the RoI, is `IGNORED`; the RoI's right and lower edges belong to it.

    Raises:
        ValueError: the image's objects have no keypoints.
    """
    if targets.keypoints is None:
        raise ValueError("the keypoint branch needs keypoints, but an image's annotations have none")
    points, visibility = targets.keypoints[samples.gt_index].split((2, 1), dim=2)
    corner, sides = samples.boxes[:, None, :2], samples.boxes[:, None, 2:] - samples.boxes[:, None, :2]
    inside = (points >= corner) & (points <= samples.boxes[:, None, 2:]) & (sides > 0)
    cell = ((points - corner) * (size / sides)).floor().clamp(0, size - 1)
    valid = inside.all(dim=2) & (visibility[..., 0] > 0)
    return torch.where(valid, cell[..., 1] * size + cell[..., 0], IGNORED).long()
