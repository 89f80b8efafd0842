import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import box_iou, nms

from maskrcnn.modeling.anchors import AnchorGrid
from maskrcnn.modeling.layers import FeatureSpec
from maskrcnn.modeling.matching import Sampler
from maskrcnn.modeling.rpn import RPN
from maskrcnn.structures import ImageBatch, Instances

SPECS = {"p2": FeatureSpec(8, 4), "p3": FeatureSpec(8, 8)}
SIZE = (32, 48)


def make_rpn(**options) -> RPN:
    torch.manual_seed(0)
    return RPN(SPECS, in_features=("p2", "p3"), anchors=AnchorGrid(sizes=((8,), (16,))), **options)


def make_inputs(images: int = 2):
    features = {n: torch.randn(images, 8, SIZE[0] // s.stride, SIZE[1] // s.stride) for n, s in SPECS.items()}
    return features, ImageBatch(torch.zeros(images, 3, *SIZE), [SIZE] * images)


def objects(*boxes) -> Instances:
    return Instances(torch.tensor(boxes).float().reshape(-1, 4), torch.zeros(len(boxes), dtype=torch.int64), SIZE)


def test_the_loss_is_the_mean_over_all_sampled_anchors():
    """With a sampler that takes every anchor, against the sums of Faster R-CNN Eq. 1 written out anchor by anchor."""
    rpn = make_rpn(sampler=Sampler(batch_size_per_image=10**6, positive_fraction=1.0))
    features, images = make_inputs(1)
    target = objects([3, 3, 12, 12], [20, 8, 40, 28])
    _, losses = rpn.losses(features, images, [target])

    logits, deltas = (torch.cat(x, dim=1)[0] for x in rpn(features))
    anchors = torch.cat(rpn.anchors_of(features, images))
    iou = box_iou(target.boxes, anchors)
    classification, regression, count = 0.0, 0.0, 0
    for a in range(len(anchors)):
        best = iou[:, a].max()
        is_best = any(iou[g, a] == iou[g].max() for g in range(2))
        if best >= 0.7 or is_best:
            goal = target.boxes[iou[:, a].argmax()]
            (w, h), (gw, gh) = (anchors[a, 2:] - anchors[a, :2]).tolist(), (goal[2:] - goal[:2]).tolist()
            shift = ((goal[:2] + goal[2:]) / 2 - (anchors[a, :2] + anchors[a, 2:]) / 2).tolist()
            t = [shift[0] / w, shift[1] / h, math.log(gw / w), math.log(gh / h)]
            for d in (deltas[a] - torch.tensor(t)).abs().tolist():
                regression += 0.5 * d * d * 9 if d < 1 / 9 else d - 0.5 / 9
            classification += F.softplus(-logits[a]).item()
            count += 1
        elif best < 0.3:
            classification += F.softplus(logits[a]).item()
            count += 1
    assert losses["loss_rpn_cls"].item() == pytest.approx(classification / count, rel=1e-4)
    assert losses["loss_rpn_box"].item() == pytest.approx(regression / count, rel=1e-4)


def propose_plainly(rpn, features, images, pre_nms, post_nms):
    """Image by image and level by level, with torchvision's suppression: boxes and scores of each image."""
    logits, deltas = rpn(features)
    proposals = []
    for image, (height, width) in enumerate(images.sizes):
        boxes, scores = [], []
        for level, anchors in enumerate(rpn.anchors_of(features, images)):
            order = logits[level][image].argsort(descending=True)[:pre_nms]
            decoded = rpn.coder.decode(deltas[level][image, order], anchors[order])
            x1, y1, x2, y2 = decoded.unbind(dim=1)
            decoded = torch.stack(
                [x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)], dim=1
            )
            level_scores = logits[level][image, order].sigmoid()
            keep = ((decoded[:, 2:] - decoded[:, :2]) > 0).all(1) & level_scores.isfinite()
            decoded, level_scores = decoded[keep], level_scores[keep]
            keep = nms(decoded, level_scores, rpn.nms_thresh)
            boxes.append(decoded[keep])
            scores.append(level_scores[keep])
        best = torch.cat(scores).argsort(descending=True)[:post_nms]
        proposals.append((torch.cat(boxes)[best], torch.cat(scores)[best]))
    return proposals


@pytest.mark.parametrize("post_nms", [15, 500], ids=["more than asked for", "fewer than asked for"])
def test_proposals_equal_a_plain_loop(post_nms):
    """Of images of different sizes; one has features that are not finite."""
    rpn = make_rpn(pre_nms_topk_test=20, post_nms_topk_test=post_nms, detach=False)
    for layer in (rpn.objectness, rpn.deltas):
        torch.nn.init.normal_(layer.weight, std=0.3)
    features, images = make_inputs(3)
    images = ImageBatch(images.tensor, [SIZE, (20, 48), (32, 25)])
    features["p3"][2, :, 1, 2] = math.nan

    got = rpn.inference(features, images)
    expected = propose_plainly(rpn, features, images, 20, post_nms)
    counts = [len(boxes) for boxes, _ in expected]
    assert [len(p) for p in got] == counts and [p.size for p in got] == images.sizes
    assert counts == [15] * 3 if post_nms == 15 else len(set(counts)) > 1
    for ours, (boxes, scores) in zip(got, expected, strict=True):
        torch.testing.assert_close(ours.boxes, boxes)
        torch.testing.assert_close(ours.scores, scores)


@pytest.mark.parametrize("detach", [True, False])
def test_gradients_of_the_proposals_are_those_of_a_plain_loop(detach):
    rpn = make_rpn(pre_nms_topk_test=20, post_nms_topk_test=15, detach=detach)
    for layer in (rpn.objectness, rpn.deltas):
        torch.nn.init.normal_(layer.weight, std=0.1)
    features, images = make_inputs(2)
    images = ImageBatch(images.tensor, [SIZE, (20, 40)])
    got = [(p.boxes, p.scores) for p in rpn.inference(features, images)]
    assert all(t.requires_grad != detach for pair in got for t in pair)
    if detach:
        return

    def gradients(pairs):
        loss = sum((k + 1) * (boxes.square().sum() + scores.sum()) for k, (boxes, scores) in enumerate(pairs))
        return torch.autograd.grad(loss, [*rpn.parameters()])

    expected = gradients(propose_plainly(rpn, features, images, 20, 15))
    for ours, other in zip(gradients(got), expected, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-3)


def test_images_without_objects_reach_every_parameter():
    rpn = make_rpn()
    features, images = make_inputs()
    _, losses = rpn.losses(features, images, [objects(), objects()])
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in rpn.parameters())
    assert losses["loss_rpn_box"] == 0


def test_attached_proposals_carry_a_gradient():
    rpn = make_rpn(detach=False)
    features, images = make_inputs()
    proposals, _ = rpn.losses(features, images, [objects(), objects()])
    proposals[0].boxes.sum().backward()
    assert rpn.deltas.weight.grad.abs().sum() > 0


def test_sizes_and_levels_must_agree():
    with pytest.raises(ValueError, match="5 levels in ANCHORS.SIZES, 2 in IN_FEATURES"):
        RPN(SPECS, in_features=("p2", "p3"))


def test_more_convolutions_follow_the_first():
    rpn = make_rpn(num_convs=3)
    features, images = make_inputs(1)
    logits, _ = rpn(features)
    x = features["p3"]
    for conv in (rpn.conv, *rpn.more_convs):
        x = F.conv2d(x, conv.weight, conv.bias, padding=1).clamp(min=0)
    x = F.conv2d(x, rpn.objectness.weight, rpn.objectness.bias)
    torch.testing.assert_close(logits[1], x.permute(0, 2, 3, 1).flatten(1))
    assert rpn.more_convs[1].weight.std() < 0.02  # N(0, 0.01), as the first one
    _, losses = rpn.losses(features, images, [objects()])
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in rpn.parameters()) and len(list(rpn.parameters())) == 10


def test_it_needs_a_convolution():
    with pytest.raises(ValueError, match="RPN.NUM_CONVS: 0 is not at least 1"):
        make_rpn(num_convs=0)
