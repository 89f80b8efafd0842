"""Each difference between libraries against the other library's formula, written out on its own boxes.

Where x2 and y2 are a box's last pixels, `theirs` are such boxes and `ours` the same ones with 1 added to these two.
"""

import math

import pytest
import torch
import torchvision

from maskrcnn.conventions import DETECTRON2, MASKRCNN_BENCHMARK, MMDET, NAMED, OURS, TORCHVISION, conventions
from maskrcnn.modeling.anchors import AnchorGrid
from maskrcnn.modeling.layers import FeatureSpec, RoISpec
from maskrcnn.modeling.matching import BoxCoder
from maskrcnn.modeling.poolers import RoIPooler
from maskrcnn.modeling.roi_heads import TwoFCBoxHead
from maskrcnn.modeling.rpn import RPN
from maskrcnn.ops import LevelRule, nms, reference
from maskrcnn.structures import ImageBatch, Proposals

CPU = torch.device("cpu")
PIXEL = torch.tensor([0.0, 0, 1, 1])
SPECS = {f"p{k}": FeatureSpec(1, 2**k) for k in (2, 3, 4, 5)}
# What Faster R-CNN's code prints for a stride of 16 and sides of 128, 256, 512: (x1, y1, x2, y2), ratio by ratio.
PUBLISHED_ANCHORS = [
    [(-84, -40, 99, 55), (-176, -88, 191, 103), (-360, -184, 375, 199)],
    [(-56, -56, 71, 71), (-120, -120, 135, 135), (-248, -248, 263, 263)],
    [(-36, -80, 51, 95), (-80, -168, 95, 183), (-168, -344, 183, 359)],
]


def random_boxes(count: int, *, extent: float = 90.0) -> torch.Tensor:
    corner = torch.rand(count, 2) * extent
    return torch.cat([corner, corner + torch.rand(count, 2) * 40], dim=1)


def decoded_inclusively(deltas, reference, weights=(1.0, 1.0, 1.0, 1.0)):
    """The decoder of Detectron and maskrcnn-benchmark, number by number."""
    boxes = []
    for (dx, dy, dw, dh), (x1, y1, x2, y2) in zip(deltas.tolist(), reference.tolist(), strict=True):
        w, h = x2 - x1 + 1, y2 - y1 + 1
        x, y = x1 + 0.5 * w + dx / weights[0] * w, y1 + 0.5 * h + dy / weights[1] * h
        limit = math.log(1000 / 16)
        w, h = w * math.exp(min(dw / weights[2], limit)), h * math.exp(min(dh / weights[3], limit))
        boxes.append([x - 0.5 * w, y - 0.5 * h, x + 0.5 * w - 1, y + 0.5 * h - 1])
    return torch.tensor(boxes).reshape(-1, 4)


def cut_inclusively(boxes, size):
    """All four coordinates cut to the pixels that there are."""
    height, width = size
    limits = (width - 1, height - 1, width - 1, height - 1)
    cut = [[min(max(v, 0), limit) for v, limit in zip(box, limits, strict=True)] for box in boxes.tolist()]
    return torch.tensor(cut).reshape(-1, 4)


def kept_inclusively(boxes, scores, threshold):
    """Greedy suppression with widths x2 - x1 + 1."""

    def iou(a, b):
        width = min(a[2], b[2]) - max(a[0], b[0]) + 1
        height = min(a[3], b[3]) - max(a[1], b[1]) + 1
        shared = max(width, 0) * max(height, 0)
        areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
        return shared / (sum(areas) - shared)

    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if all(iou(boxes[i].tolist(), boxes[j].tolist()) <= threshold for j in kept):
            kept.append(i)
    return kept


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"MODEL\.CONVENTIONS: 'caffe' is not one of ours, torchvision, detectron2"):
        conventions("caffe")


def test_the_anchors_of_maskrcnn_benchmark_are_the_published_ones():
    grid = AnchorGrid(sizes=((128, 256, 512),))
    published = torch.tensor(PUBLISHED_ANCHORS, dtype=torch.float32).transpose(0, 1).reshape(-1, 4)  # size outer here
    assert torch.equal(grid.cell_anchors(0, 16, MASKRCNN_BENCHMARK) - PIXEL, published)
    below = grid.grid(0, (2, 1), (16, 16), MASKRCNN_BENCHMARK, CPU)[9:]
    assert torch.equal(below - PIXEL, published + torch.tensor([0.0, 16, 0, 16]))


def test_anchors_are_rounded_at_the_size_of_a_cell():
    """Stride 4, side 32: 4 / sqrt(.5) = 5.66 -> 6 wide and 3 high, times 8. Stride 64: 90.5 -> 91, 45.5 -> 46."""
    p2 = AnchorGrid().cell_anchors(0, 4, MASKRCNN_BENCHMARK) - PIXEL
    p6 = AnchorGrid().cell_anchors(4, 64, MASKRCNN_BENCHMARK) - PIXEL
    assert p2[0].tolist() == [-22, -10, 25, 13]
    assert p6[0].tolist() == [31.5 - 363.5, 31.5 - 183.5, 31.5 + 363.5, 31.5 + 183.5]


@pytest.mark.parametrize("exact", [OURS, DETECTRON2, MMDET])
def test_the_anchors_of_the_others_are_exact_around_the_corner_of_a_cell(exact):
    """Square root of 2 times 16, and its half."""
    expected = [-16 * math.sqrt(2), -8 * math.sqrt(2), 16 * math.sqrt(2), 8 * math.sqrt(2)]
    assert AnchorGrid().cell_anchors(0, 4, exact)[0].tolist() == pytest.approx(expected)


def test_the_code_of_inclusive_boxes_is_the_plain_one():
    coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    # A box of 20 x 40 pixels seen from one of 10 x 20: centres (30, 40) and (25, 50).
    theirs, anchor = torch.tensor([[20.0, 20, 39, 59]]), torch.tensor([[20.0, 40, 29, 59]])
    deltas = coder.encode(theirs + PIXEL, anchor + PIXEL)
    torch.testing.assert_close(deltas, torch.tensor([[5.0, -5, 5 * math.log(2), 5 * math.log(2)]]))
    torch.testing.assert_close(decoded_inclusively(deltas, anchor, coder.weights), theirs)
    torch.manual_seed(0)
    reference_boxes, deltas = random_boxes(50), torch.randn(50, 4) * torch.tensor([3.0, 3, 12, 12])  # some clamped
    torch.testing.assert_close(
        coder.decode(deltas, reference_boxes + PIXEL) - PIXEL,
        decoded_inclusively(deltas, reference_boxes, coder.weights),
        rtol=1e-5,
        atol=1e-3,
    )


@pytest.mark.parametrize("named", NAMED.values(), ids=NAMED)
def test_decoding_undoes_encoding(named):
    torch.manual_seed(0)
    coder, boxes, anchors = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)), random_boxes(40) + PIXEL, random_boxes(40) + PIXEL
    back = coder.decode(coder.encode(boxes, anchors), anchors, symmetric=named.symmetric_clip)
    torch.testing.assert_close(back, boxes, rtol=1e-5, atol=1e-3)


def test_suppression_of_inclusive_boxes_is_the_plain_one():
    """Two boxes of 2 x 1 pixels that share one have an IoU of 1/3, not 0 as their coordinates alone would have."""
    theirs, scores = torch.tensor([[3.0, 5, 4, 5], [4, 5, 5, 5]]), torch.tensor([0.9, 0.8])
    assert nms(theirs + PIXEL, scores, 0.3).tolist() == [0] == kept_inclusively(theirs, scores, 0.3)
    torch.manual_seed(0)
    theirs, scores = random_boxes(150, extent=30.0).round(), torch.rand(150)
    kept = kept_inclusively(theirs, scores, 0.5)
    assert nms(theirs + PIXEL, scores, 0.5).tolist() == kept
    assert 1 < len(kept) < 150 and nms(theirs, scores, 0.5).tolist() != kept


@pytest.mark.parametrize("named", [MASKRCNN_BENCHMARK, MMDET], ids=["inclusive", "symmetric"])
def test_scores_and_boxes_of_the_box_head(named):
    torch.manual_seed(0)
    size = (60, 80)
    head = TwoFCBoxHead(RoISpec(1, (7, 7)), 1, fc_dim=4)
    theirs, deltas = random_boxes(30) - 20, torch.randn(30, 4) * 8
    deltas[0] = torch.tensor([0.0, 0, -50, 50])
    proposals = [Proposals(theirs + PIXEL, torch.ones(30), size)]
    (found,) = head.score((torch.zeros(30, 2), deltas[:, None]), proposals, named)
    if named is MASKRCNN_BENCHMARK:
        expected = cut_inclusively(decoded_inclusively(deltas, theirs, head.coder.weights), size) + PIXEL
        assert (expected[:, 2:] - expected[:, :2]).min() >= 0
    else:
        limit = 5 * math.log(1000 / 16)
        limited = deltas.clamp(torch.tensor([-1e9, -1e9, -limit, -limit]), torch.tensor([1e9, 1e9, limit, limit]))
        w, h = (proposals[0].boxes[:, 2:] - proposals[0].boxes[:, :2]).unbind(1)
        x, y = ((proposals[0].boxes[:, 2:] + proposals[0].boxes[:, :2]) / 2).unbind(1)
        dx, dy, dw, dh = limited.unbind(1)
        x, y = x + dx / 10 * w, y + dy / 10 * h
        w, h = w * (dw / 5).exp(), h * (dh / 5).exp()
        expected = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=1)
        expected = expected.clamp(min=0).minimum(torch.tensor([80.0, 60, 80, 60]))
    torch.testing.assert_close(found.boxes[:, 0], expected, rtol=1e-5, atol=1e-3)


def test_how_small_a_decoded_box_may_become():
    reference_boxes, deltas = torch.tensor([[0.0, 0, 100, 100]]), torch.tensor([[0.0, 0, -10, -10]])
    for symmetric, side in ((True, 100 * 16 / 1000), (False, 100 * math.exp(-10))):
        box = BoxCoder().decode(deltas, reference_boxes, symmetric=symmetric)[0]
        assert (box[2:] - box[:2]).tolist() == pytest.approx([side, side], rel=1e-2)


def test_proposals_with_inclusive_boxes_are_those_of_the_formulas():
    """Anchors, decoding, cutting and suppression of one level together, from the same logits and deltas."""
    torch.manual_seed(0)
    size, stride = (60, 70), 16
    rpn = RPN(
        {"p4": FeatureSpec(4, stride)},
        MASKRCNN_BENCHMARK,
        in_features=["p4"],
        anchors=AnchorGrid(sizes=((128, 256, 512),)),
        nms_thresh=0.7,
    )
    logits, deltas = torch.randn(1, 4 * 5 * 9), torch.randn(1, 4 * 5 * 9, 4)
    images = ImageBatch(torch.zeros(1, 3, 64, 80), [size])
    anchors = rpn.anchors_of({"p4": torch.zeros(1, 4, 4, 5)}, images)
    (found,) = rpn.propose([logits], [deltas], anchors, images, (1000, 1000))

    published = torch.tensor(PUBLISHED_ANCHORS).transpose(0, 1).reshape(-1, 4)
    theirs = torch.stack(
        [a + stride * torch.tensor([j, i, j, i]) for i in range(4) for j in range(5) for a in published]
    )
    boxes = cut_inclusively(decoded_inclusively(deltas[0], theirs), size)
    kept = kept_inclusively(boxes, logits[0], 0.7)
    torch.testing.assert_close(found.boxes - PIXEL, boxes[kept], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(found.scores, logits[0, kept].sigmoid())


def level_maps() -> dict[str, torch.Tensor]:
    """Maps that hold their own stride tell which of them was read."""
    return {name: torch.full((1, 1, 1024 // s.stride, 1024 // s.stride), float(s.stride)) for name, s in SPECS.items()}


@pytest.mark.parametrize("method", ["RoIAlign", "RoIPool"])
def test_the_level_of_inclusive_boxes_counts_both_ends(method):
    """A box from 0 to 111 is 112 pixels wide, and belongs to p3; so is one from 0 to 223, and to p4."""
    last = torch.tensor([110.0, 111, 222, 223, 446, 447, 0])
    theirs = torch.stack([torch.zeros(7), torch.zeros(7), last, last], dim=1)
    pooler = RoIPooler(SPECS, MASKRCNN_BENCHMARK, size=1, method=method)
    assert pooler(level_maps(), [theirs + PIXEL])[:, 0].flatten().tolist() == [4, 8, 8, 16, 16, 32, 4]


def test_mmdets_level_rule_is_ours_with_a_quarter_of_its_epsilon():
    side = torch.cat([torch.logspace(0, 3.3, 4000, dtype=torch.float64), torch.tensor([112.0, 224, 448, 56])])
    side = torch.cat([side, *(boundary * (1 + torch.linspace(-3e-6, 3e-6, 301).double()) for boundary in (112, 224))])
    boxes = torch.stack([torch.zeros_like(side), torch.zeros_like(side), side, side], dim=1)
    theirs = (side / 56 + 1e-6).log2().floor().clamp(0, 3).long()
    rule = LevelRule(epsilon=MMDET.level_epsilon)
    ours = reference.assign_levels(
        boxes, 4, canonical_level=4, canonical_size=224, epsilon=rule.epsilon, finest=2, extent=rule.extent
    )
    assert torch.equal(ours, theirs)
    detectron2 = (4 + (side / 224 + 1e-8).log2()).floor().clamp(2, 5).long() - 2
    assert not torch.equal(detectron2, theirs)  # the boundaries tell them apart


def test_inclusive_boxes_are_pooled_between_their_first_and_last_pixel():
    torch.manual_seed(0)
    features, theirs = torch.randn(1, 1, 16, 20), random_boxes(20)
    pooler = RoIPooler({"p3": FeatureSpec(1, 8)}, MASKRCNN_BENCHMARK, in_features=["p3"], size=3)
    expected = torchvision.ops.roi_align(features, [theirs], 3, 1 / 8, sampling_ratio=2, aligned=False)
    ours = theirs + PIXEL
    torch.testing.assert_close(pooler({"p3": features}, [ours]), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(ours, theirs + PIXEL) and pooler({"p3": features}, [ours[:0]]).shape == (0, 1, 3, 3)
    aligned = torchvision.ops.roi_align(features, [theirs], 3, 1 / 8, sampling_ratio=2, aligned=True)
    for exact in (DETECTRON2, MMDET):
        plain = RoIPooler({"p3": FeatureSpec(1, 8)}, exact, in_features=["p3"], size=3)
        torch.testing.assert_close(plain({"p3": features}, [theirs]), aligned, rtol=1e-4, atol=1e-5)


def test_what_is_dropped_for_its_size():
    limits = {name: (named.min_proposal_size, named.min_detection_size) for name, named in NAMED.items()}
    assert limits.pop("torchvision") == (1e-3, 1e-2) and set(limits.values()) == {(0.0, 0.0)}
    assert TORCHVISION.round_anchors and not MASKRCNN_BENCHMARK.round_anchors
