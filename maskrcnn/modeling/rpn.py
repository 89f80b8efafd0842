"""Region proposal network (Faster R-CNN §3.1), over the levels of a feature pyramid (FPN §4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.conventions import OURS, Conventions
from maskrcnn.modeling.anchors import AnchorGrid
from maskrcnn.modeling.layers import ConvReLU, FeatureSpec, conv_relu_stack, init_normal, pick_levels
from maskrcnn.modeling.matching import POSITIVE, BoxCoder, Matcher, Sampler
from maskrcnn.ops.boxes import clip_batch, pairwise_iou
from maskrcnn.ops.nms import padded_nms
from maskrcnn.registry import PROPOSALS
from maskrcnn.structures import ImageBatch, Instances, Proposals

FPN_LEVELS = ("p2", "p3", "p4", "p5", "p6")


@PROPOSALS.register(ANCHORS=AnchorGrid, MATCHER=Matcher, SAMPLER=Sampler, CODER=BoxCoder)
class RPN(nn.Module):
    """Objectness and box offsets for every anchor, from one small network shared by all levels.

    Args:
        specs: the levels that there are; those in `in_features` need the same channels.
        num_convs: 3x3 convolutions before the two predictors; the paper has one.
        pre_nms_topk_train, pre_nms_topk_test: the best anchors of each level that go into the suppression.
        post_nms_topk_train, post_nms_topk_test: proposals per image.
        smooth_l1_beta: where the box loss turns from quadratic to linear (Faster R-CNN's sigma = 3 is 1/9).
        detach: proposals carry no gradient; MNC wants one (MNC Eq. 5).
    """

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        conventions: Conventions = OURS,
        *,
        in_features: Sequence[str] = FPN_LEVELS,
        num_convs: int = 1,
        anchors: AnchorGrid = AnchorGrid(),
        matcher: Matcher = Matcher(positive=0.7, negative=0.3, best_for_each_object=True),
        sampler: Sampler = Sampler(batch_size_per_image=256, positive_fraction=0.5),
        coder: BoxCoder = BoxCoder(),
        pre_nms_topk_train: int = 2000,
        pre_nms_topk_test: int = 1000,
        post_nms_topk_train: int = 1000,
        post_nms_topk_test: int = 1000,
        nms_thresh: float = 0.7,
        smooth_l1_beta: float = 1 / 9,
        detach: bool = True,
    ) -> None:
        super().__init__()
        levels = pick_levels(specs, in_features, "RPN")
        if len(anchors.sizes) != len(levels):
            raise ValueError(f"RPN: {len(anchors.sizes)} levels in ANCHORS.SIZES, {len(levels)} in IN_FEATURES")
        if num_convs < 1:
            raise ValueError(f"RPN.NUM_CONVS: {num_convs} is not at least 1")
        self.conventions = conventions
        self.strides = {name: spec.stride for name, spec in levels.items()}
        self.anchors, self.matcher, self.sampler, self.coder = anchors, matcher, sampler, coder
        self.topk_train = (pre_nms_topk_train, post_nms_topk_train)
        self.topk_test = (pre_nms_topk_test, post_nms_topk_test)
        self.nms_thresh, self.smooth_l1_beta, self.detach = nms_thresh, smooth_l1_beta, detach
        channels = next(iter(levels.values())).channels
        self.conv = ConvReLU(channels, channels)
        self.more_convs = conv_relu_stack(channels, channels, num_convs - 1)
        self.objectness = nn.Conv2d(channels, anchors.per_cell, kernel_size=1)
        self.deltas = nn.Conv2d(channels, 4 * anchors.per_cell, kernel_size=1)
        for layer in (self.conv, *self.more_convs, self.objectness, self.deltas):
            init_normal(layer, std=0.01)

    def forward(self, features: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Features -> by level, objectness logits (N, H * W * A) and deltas (N, H * W * A, 4), float32."""
        logits, deltas = [], []
        for name in self.strides:
            x = self.more_convs(self.conv(features[name]))
            logits.append(self.objectness(x).permute(0, 2, 3, 1).flatten(1).float())
            deltas.append(self.deltas(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4).float())
        return logits, deltas

    def losses(
        self, features: dict[str, Tensor], images: ImageBatch, targets: list[Instances]
    ) -> tuple[list[Proposals], dict[str, Tensor]]:
        """Proposals for the second stage, and the losses of Faster R-CNN Eq. 1."""
        logits, deltas = self(features)
        anchors = self.anchors_of(features, images)
        proposals = self.propose(logits, deltas, anchors, images, self.topk_train)
        losses = self.loss(torch.cat(logits, dim=1), torch.cat(deltas, dim=1), torch.cat(anchors), targets)
        return proposals, losses

    def inference(self, features: dict[str, Tensor], images: ImageBatch) -> list[Proposals]:
        logits, deltas = self(features)
        return self.propose(logits, deltas, self.anchors_of(features, images), images, self.topk_test)

    def anchors_of(self, features: dict[str, Tensor], images: ImageBatch) -> list[Tensor]:
        """By level, anchors (H * W * A, 4)."""
        padded = images.tensor.shape[-2:]
        grids = []
        for level, (name, stride) in enumerate(self.strides.items()):
            height, width = features[name].shape[-2:]
            spacing = (stride, stride)
            if self.conventions.anchor_stride_from_grid:
                spacing = (padded[0] // height, padded[1] // width)
            grids.append(self.anchors.grid(level, (height, width), spacing, self.conventions, features[name].device))
        return grids

    def loss(self, logits: Tensor, deltas: Tensor, anchors: Tensor, targets: list[Instances]) -> dict[str, Tensor]:
        """Eq. 1 with both sums divided by the number of sampled anchors.

        Args:
            logits: (N, anchors of all levels).
            deltas: (N, anchors, 4).
            anchors: (anchors, 4).
        """
        objectness_loss, box_loss, count = logits.sum() * 0, deltas.sum() * 0, logits.new_zeros(())
        for image, target in enumerate(targets):
            with torch.no_grad():
                matches, labels = self.matcher(pairwise_iou(target.boxes, anchors))
                sampled, valid = self.sampler(labels)
                positive = (labels[sampled] == POSITIVE) & valid
                goal = deltas.new_zeros((len(sampled), 4))
                if len(target):
                    goal = self.coder.encode(target.boxes[matches[sampled]], anchors[sampled])
            cross_entropy = F.binary_cross_entropy_with_logits(
                logits[image, sampled], positive.to(logits.dtype), reduction="none"
            )
            distance = F.smooth_l1_loss(deltas[image, sampled], goal, beta=self.smooth_l1_beta, reduction="none").sum(
                dim=1
            )
            objectness_loss = objectness_loss + cross_entropy.where(valid, 0.0).sum()
            box_loss = box_loss + distance.where(positive, 0.0).sum()
            count = count + valid.sum()
        count = count.clamp(min=1)
        return {"loss_rpn_cls": objectness_loss / count, "loss_rpn_box": box_loss / count}

    def propose(
        self,
        logits: list[Tensor],
        deltas: list[Tensor],
        anchors: list[Tensor],
        images: ImageBatch,
        topk: tuple[int, int],
    ) -> list[Proposals]:
        """The best boxes of each level after suppression within the level, then the best of all levels, by score."""
        pre_nms, post_nms = topk
        if self.detach:
            logits, deltas = [x.detach() for x in logits], [x.detach() for x in deltas]
        best_logits, boxes, levels = [], [], []
        for level, (level_logits, level_deltas, level_anchors) in enumerate(zip(logits, deltas, anchors, strict=True)):
            top, index = level_logits.topk(min(pre_nms, level_logits.shape[1]), dim=1)
            chosen = level_deltas.gather(1, index[..., None].expand(-1, -1, 4))
            best_logits.append(top)
            boxes.append(self.coder.decode(chosen, level_anchors[index]))
            levels.append(torch.full_like(index[0], level))
        all_logits, all_boxes, all_levels = torch.cat(best_logits, 1), torch.cat(boxes, 1), torch.cat(levels)
        all_boxes = clip_batch(all_boxes, images.sizes)
        with torch.no_grad():
            sides = all_boxes[..., 2:] - all_boxes[..., :2]
            large = (sides > self.conventions.min_proposal_size).all(dim=2) & all_logits.isfinite()
            scores = all_logits.where(large, torch.nan)  # which suppression leaves out
            most = min(post_nms, scores.shape[1])
            kept, counts = padded_nms(all_boxes, scores, all_levels, self.nms_thresh, most)
            kept = kept.clamp(min=0)
        best_boxes, best = all_boxes.gather(1, kept[..., None].expand(-1, -1, 4)), all_logits.gather(1, kept).sigmoid()
        return [
            Proposals(boxes=boxes[:count], scores=scores[:count], size=size)
            for boxes, scores, count, size in zip(best_boxes, best, counts.tolist(), images.sizes, strict=True)
        ]
