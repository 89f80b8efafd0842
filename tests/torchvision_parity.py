"""One model in torchvision and here: the same detections from the same images, the same training step."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from maskrcnn.checkpoint.importers import recognise
from maskrcnn.modeling.matching import POSITIVE
from maskrcnn.structures import Detections, Instances, RoISamples, Sample

LOSSES = {
    "loss_objectness": "loss_rpn_cls",
    "loss_rpn_box_reg": "loss_rpn_box",
    "loss_classifier": "loss_cls",
    "loss_box_reg": "loss_box",
    "loss_mask": "loss_mask",
    "loss_keypoint": "loss_keypoint",
}
TIED = 1e-6  # scores that may change places


def same_detections(ours: nn.Module, peer: nn.Module, image: Tensor) -> tuple[Detections, Tensor]:
    """What both find in an image, which torchvision's float resize brings to the size that `peer.transform` says.

    Args:
        image: uint8 (3, H, W).

    Returns:
        Our detections, and the proposals that torchvision pooled for its box head (P, 4).

    Raises:
        AssertionError: they differ; or there are fewer than 20.
    """
    peer_masks, masks, pooled = [], [], []
    roi_heads = peer.roi_heads
    hooks = [roi_heads.register_forward_pre_hook(lambda module, args: pooled.append(args[1][0]))]
    if roi_heads.mask_predictor is not None:
        hooks.append(roi_heads.mask_predictor.register_forward_hook(lambda m, args, out: peer_masks.append(out)))
        hooks.append(ours.roi_heads.mask_head.register_forward_hook(lambda m, args, out: masks.append(out)))
    with torch.inference_mode():
        resized, _ = peer.transform.resize(image / 255)
        (got,) = ours([Sample(resized * 255, 0, tuple(image.shape[1:]))])
        (expected,) = peer([image / 255])
    for hook in hooks:
        hook.remove()
    assert len(got) == len(expected["boxes"]) >= 20, (len(got), len(expected["boxes"]))
    order = aligned(got, expected)
    close = {"rtol": 0, "atol": 1e-3}
    torch.testing.assert_close(got.boxes[order], expected["boxes"], **close)
    torch.testing.assert_close(got.scores[order], expected["scores"], rtol=0, atol=1e-5)
    if masks:
        rows = torch.arange(len(got))
        mine, theirs = masks[0][order][rows, got.labels[order]], peer_masks[0][rows, expected["labels"]]
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)
        torch.testing.assert_close(got.masks[order], theirs.sigmoid(), rtol=0, atol=1e-4)
    if got.keypoints is not None:
        keypoints = got.keypoints[order]
        torch.testing.assert_close(keypoints[..., 2], expected["keypoints_scores"], rtol=0, atol=1e-4)
        torch.testing.assert_close(keypoints[..., :2], expected["keypoints"][..., :2], **close)
    return got, pooled[0]


def aligned(got: Detections, expected: dict[str, Tensor]) -> Tensor:
    """Which of ours is each of theirs: in the same order, but for scores that are closer than `TIED`."""
    apart = (got.boxes[None] - expected["boxes"][:, None]).abs().amax(dim=2)
    apart = apart.masked_fill(got.labels[None] + 1 != expected["labels"][:, None], torch.inf)
    order = apart.argmin(dim=1)
    assert torch.equal(order.sort().values, torch.arange(len(got))), "a detection has no partner of its class"
    moved = (expected["scores"][order] - expected["scores"]).abs()
    assert (moved <= TIED).all(), "the order differs"
    return order


@dataclass(frozen=True)
class SoftMasks:
    """Masks (G, H, W) that are cropped as torchvision does it: training targets by its RoIAlign, not binarised."""

    bitmaps: Tensor

    def crop(self, index: Tensor, boxes: Tensor, size: int) -> Tensor:
        rois = torch.cat([index[:, None].to(boxes.dtype), boxes], dim=1)
        return roi_align(self.bitmaps[:, None].to(boxes.dtype), rois, (size, size), 1.0)[:, 0].float()

    def to(self, device: torch.device, *, non_blocking: bool = False) -> SoftMasks:
        return self


def random_objects(size: tuple[int, int], count: int, num_classes: int, seed: int) -> Instances:
    """Objects with boxes of 0.1 to 0.5 of the image, ellipses in them as masks, keypoints in and around them."""
    torch.manual_seed(seed)
    frame = torch.tensor([size[1], size[0]])
    corner = torch.rand(count, 2) * 0.5 * frame
    boxes = torch.cat([corner, corner + (0.1 + 0.4 * torch.rand(count, 2)) * frame], dim=1)
    centre, radius = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    away = (torch.stack([x, y], dim=-1) - centre[:, None, None]) / radius[:, None, None]
    points = boxes[:, None, :2] + torch.rand(count, 17, 2) * (boxes[:, None, 2:] - boxes[:, None, :2]) * 1.2
    keypoints = torch.cat([points, torch.randint(0, 3, (count, 17, 1))], dim=2)
    labels = torch.randint(0, num_classes, (count,))
    return Instances(boxes, labels, size, SoftMasks((away**2).sum(dim=-1) <= 1), keypoints)


def same_training_step(ours: nn.Module, peer: nn.Module, images: Sequence[Tensor], objects: Sequence[Instances]) -> int:
    """Compare each loss and each parameter's gradient, in double precision, on a batch whose sampled anchors and RoIs
    are those that torchvision drew, and whose mask targets are its own.

    In single precision, a rounding error in front of a ReLU turns a cell on or off.

    Args:
        images: uint8, of the sizes that `peer.transform` leaves alone.

    Returns:
        How many gradients were compared: of all trained parameters.
    """
    ours, peer = copy.deepcopy(ours).double().train(), copy.deepcopy(peer).double().train()
    drawn = record_samples(peer)
    targets = [
        {
            "boxes": o.boxes.double(),
            "labels": o.labels + 1,
            "masks": o.masks.bitmaps.to(torch.uint8),
            "keypoints": o.keypoints,
        }
        for o in objects
    ]
    theirs = peer([image.double() / 255 for image in images], targets)
    give_samples(ours, drawn, [o.size for o in objects])
    batch = [Sample(image, i, o.size, o) for i, (image, o) in enumerate(zip(images, objects, strict=True))]
    mine = ours(batch)
    assert {LOSSES[name] for name in theirs} == set(mine)
    for name, loss in theirs.items():
        assert loss > 0.01, f"{name} is {loss}, which tells nothing"
        difference = (mine[LOSSES[name]] - loss).abs().item()
        assert difference <= 1e-5, f"{name} differs by {difference}"
    sum(theirs.values()).backward()
    sum(mine.values()).backward()
    grads = {name: p.grad for name, p in peer.named_parameters() if p.grad is not None}
    expected = recognise({**peer.state_dict(), **grads}).tensors  # under our names
    trained = {name: p.grad for name, p in ours.named_parameters() if p.requires_grad}
    assert len(trained) == len(grads) == sum(p.requires_grad for p in peer.parameters())
    for name, grad in trained.items():
        difference, largest = (grad - expected[name]).abs().max(), expected[name].abs().max()
        assert difference <= max(1e-4 * largest, 1e-7), f"{name}: {difference} of {largest}"
    return len(trained)


def record_samples(peer: nn.Module) -> SimpleNamespace:
    """Where torchvision's model will note, in its next training step, its images, sampled anchors and RoIs."""
    drawn = SimpleNamespace()
    sample_anchors, sample_rois = peer.rpn.fg_bg_sampler, peer.roi_heads.select_training_samples

    def anchors(labels: list[Tensor]) -> Any:
        drawn.anchors = sample_anchors(labels)
        return drawn.anchors

    def rois(proposals: list[Tensor], targets: list[dict[str, Tensor]]) -> Any:
        drawn.rois = sample_rois(proposals, targets)
        return drawn.rois

    peer.rpn.fg_bg_sampler, peer.roi_heads.select_training_samples = anchors, rois
    peer.backbone.register_forward_pre_hook(lambda module, args: setattr(drawn, "images", args[0].detach()))
    return drawn


def give_samples(ours: nn.Module, drawn: SimpleNamespace, sizes: Sequence[tuple[int, int]]) -> None:
    """Let our model train on these images, sampled anchors and RoIs in its next step."""
    images = iter(zip(*drawn.anchors, strict=True))

    def anchors(labels: Tensor) -> tuple[Tensor, Tensor]:
        positive, negative = next(images)
        index = torch.cat([positive.nonzero()[:, 0], negative.nonzero()[:, 0]])
        count = int(positive.sum())
        assert (labels[index[:count]] == POSITIVE).all() and (labels[index[count:]] != POSITIVE).all()
        return index, torch.ones_like(index, dtype=torch.bool)

    def rois(proposals: Any, targets: Any) -> list[RoISamples]:
        samples = []
        for boxes, matches, labels, size in zip(*drawn.rois[:3], sizes, strict=True):
            foreground = labels > 0
            ours_are = torch.where(foreground, labels - 1, ours.roi_heads.num_classes)
            index = torch.where(foreground, matches, -1)
            samples.append(RoISamples(boxes, ours_are, index, size, ours.roi_heads.num_classes))
        return samples

    def same_images(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        torch.testing.assert_close(args[0].double(), drawn.images, rtol=0, atol=1e-5)  # which are in single precision
        return (drawn.images,)

    ours.proposals.sampler, ours.roi_heads.sample = anchors, rois
    ours.backbone.register_forward_pre_hook(same_images)
