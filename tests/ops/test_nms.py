import math

import pytest
import torch
import torchvision

from maskrcnn.ops import batched_nms, nms, reference
from maskrcnn.ops.extension import COMPILED
from ops.nms_cases import (
    crowded_boxes,
    implementations,
    integer_boxes,
    namespaces,
    nms_by_hand,
    overlap,
    random_groups,
)


def public(boxes, scores, groups, threshold):
    return nms(boxes, scores, threshold) if groups is None else batched_nms(boxes, scores, groups, threshold)


@pytest.fixture(params=implementations("nms", public, reference.batched_nms))
def suppress(request):
    """A function of boxes, scores, groups or None, threshold."""
    return request.param()


@pytest.mark.parametrize("threshold", [0.0, 0.0005, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_the_definition(suppress, threshold, dtype):
    boxes, scores = crowded_boxes(150)
    boxes, groups = boxes.float().to(dtype), random_groups(150)
    assert suppress(boxes, scores, None, threshold).tolist() == nms_by_hand(boxes, scores, groups * 0, threshold)
    assert suppress(boxes, scores, groups, threshold).tolist() == nms_by_hand(boxes, scores, groups, threshold)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.25, 1 / 3, 0.5, 1.0])
def test_ties_are_decided_as_a_division_decides_them(suppress, threshold):
    """Overlaps such as 1/4 and 1/2 are exact, 1/3 is the float nearest to it; none may be above itself."""
    threshold = torch.tensor(threshold).item()  # float32, which is what float32 boxes are compared with
    boxes, scores = integer_boxes(200)
    division = [[float(torch.tensor(overlap(a, b))) for b in boxes.tolist()] for a in boxes.tolist()]
    kept = []
    for i in sorted(range(200), key=lambda i: -scores[i].item()):
        if not any(division[i][k] > threshold for k in kept):
            kept.append(i)
    assert suppress(boxes, scores, None, threshold).tolist() == kept


@pytest.mark.parametrize("count", [5, 700, 2500])
def test_agrees_with_torchvision(suppress, count):
    boxes, scores = (t.float() for t in crowded_boxes(count, seed=count, extent=800))
    groups = random_groups(count, 20)
    assert torch.equal(suppress(boxes, scores, None, 0.5), torchvision.ops.nms(boxes, scores, 0.5))
    assert torch.equal(suppress(boxes, scores, groups, 0.5), torchvision.ops.batched_nms(boxes, scores, groups, 0.5))


@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("spread", [(1.0, 1.0), (1e-6, 1e4), (1e4, 1e-6)], ids=["square", "tall", "wide"])
@pytest.mark.parametrize("extent", [60.0, 1500.0], ids=["crowded", "sparse"])
def test_nothing_that_overlaps_is_overlooked_in_large_groups(threshold, spread, extent):
    """The search for kept boxes near a box, against torchvision, which compares all pairs."""
    boxes, scores = crowded_boxes(4000, seed=3, extent=extent)
    boxes = (boxes * torch.tensor(spread * 2)).float()
    boxes[::7, 2:] = boxes[::7, :2] + (boxes[::7, 2:] - boxes[::7, :2]) * 20  # sizes far apart
    scores = scores.float()
    assert torch.equal(nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))


@pytest.mark.parametrize("scale", [1e-18, 1e-20, 1e-21, 1e-22, 1e18])
def test_products_that_lose_digits(scale):
    """Areas of few digits, of none, and beyond float32: the answer is that of the same float32 steps for all pairs."""
    boxes, scores = (t.float() for t in crowded_boxes(1500, extent=200))
    boxes = boxes * scale
    order = scores.argsort(descending=True)
    b = boxes[order]
    sides = b[:, 2:] - b[:, :2]
    area = sides[:, 0] * sides[:, 1]
    shared = (torch.minimum(b[:, None, 2:], b[:, 2:]) - torch.maximum(b[:, None, :2], b[:, :2])).clamp(min=0)
    shared = shared[..., 0] * shared[..., 1]
    above = (shared / (area[:, None] + area - shared) > 0.6).tolist()
    kept = []
    for i in range(len(b)):
        if not any(above[i][k] for k in kept):
            kept.append(i)
    assert nms(boxes, scores, 0.6).tolist() == order[kept].tolist()


def test_of_equal_scores_the_earlier_wins(suppress):
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10.1], [50, 50, 60, 60], [0, 0, 10, 10.2]])
    assert suppress(boxes, torch.tensor([0.5, 0.5, 0.9, 0.5]), None, 0.5).tolist() == [2, 0]
    assert suppress(boxes, torch.tensor([-0.0, 0.0, -1.0, 0.0]), None, 0.5).tolist() == [0, 2]


def test_an_overlap_equal_to_the_threshold_suppresses_nothing(suppress):
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])  # IoU 1/2
    scores = torch.tensor([0.9, 0.8])
    assert suppress(boxes, scores, None, 0.5).tolist() == [0, 1]
    assert suppress(boxes, scores, None, 0.499).tolist() == [0]


def test_what_a_suppressed_box_overlaps_stays(suppress):
    chain = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])
    assert suppress(chain, torch.tensor([0.9, 0.8, 0.7]), None, 0.3).tolist() == [0, 2]


def test_degenerate_boxes(suppress):
    nan, inf = math.nan, math.inf
    boxes = torch.tensor(
        [[nan, 0, 10, 10], [0, 0, inf, 10], [0, 0, 10, 10], [5, 5, 5, 5], [5, 5, 5, 5], [9, 9, 1, 1], [0, 0, 9.9, 10]]
    )
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, nan])
    # Non-finite boxes and scores go; boxes without area overlap nothing, not even each other.
    assert suppress(boxes, scores, None, 0.5).tolist() == [2, 3, 4, 5]
    assert suppress(boxes, scores, torch.zeros(7, dtype=torch.int64), 0.0).tolist() == [2, 3, 4, 5]


def test_huge_boxes(suppress):
    boxes = torch.tensor([[-1e30, -1e30, 1e30, 1e30], [-1e30, -1e30, 1e30, 1e30], [0, 0, 9, 9], [0, 0, 9, 9]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    assert suppress(boxes, scores, None, 0.5).tolist() == [0, 1, 2]  # an area beyond float32 has no overlap
    assert suppress(boxes.double(), scores, None, 0.5).tolist() == [0, 2]


def test_infinite_scores_keep_their_place(suppress):
    boxes = torch.tensor([[0.0, 0, 1, 1], [2, 0, 3, 1], [math.nan, 0, 5, 1], [6, 0, 7, 1]])
    assert suppress(boxes, torch.tensor([-torch.inf, 0.0, 1.0, torch.inf]), None, 0.5).tolist() == [3, 1, 0]


def test_nothing_and_one(suppress):
    boxes, scores = torch.zeros(0, 4), torch.zeros(0)
    for groups in (None, torch.zeros(0, dtype=torch.int64)):
        kept = suppress(boxes, scores, groups, 0.5)
        assert kept.shape == (0,) and kept.dtype == torch.int64
    assert suppress(torch.ones(1, 4), torch.ones(1), None, 0.5).tolist() == [0]
    assert suppress(torch.ones(1, 4), torch.ones(1) * math.nan, None, 0.5).tolist() == []


def test_groups_of_any_value_and_scores_of_either_precision(suppress):
    boxes, scores = crowded_boxes(90)
    small = random_groups(90, 3)
    large = torch.tensor([-(2**63), 7, 2**63 - 1])[small + 1]
    expected = nms_by_hand(boxes, scores, small, 0.3)
    assert suppress(boxes, scores, large, 0.3).tolist() == expected
    close = 1 + scores * 1e-9  # all equal in float32
    assert suppress(boxes, close, large, 0.3).tolist() == expected
    assert suppress(boxes, close.float(), large, 0.3).tolist() == nms_by_hand(boxes, scores * 0, small, 0.3)


def test_half_types_strides_and_gradients_do_not_matter():
    boxes, scores = (t.float() for t in crowded_boxes(60))
    boxes, scores = boxes.round(), scores.bfloat16()  # integers below 256 survive bfloat16
    expected = nms(boxes, scores.float(), 0.4)
    wide = torch.stack([boxes, boxes + 1], dim=-1)[..., 0]
    assert not wide.is_contiguous()
    assert torch.equal(nms(wide.requires_grad_(), scores.float().requires_grad_(), 0.4), expected)
    assert torch.equal(nms(boxes.bfloat16(), scores, 0.4), expected)
    assert torch.equal(nms(boxes.half(), scores, 0.4), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nms(boxes, scores, 0.4), expected)


def test_the_number_of_threads_does_not_matter():
    boxes, scores = (t.float() for t in crowded_boxes(3000, extent=900))
    groups = random_groups(3000, 3) // 2  # one large group and a small one
    threads, kept = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            kept.append((nms(boxes, scores, 0.5), batched_nms(boxes, scores, groups, 0.5)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in kept[1:] for a, b in zip(kept[0], other, strict=True))


def test_tens_of_thousands_of_boxes():
    boxes, scores = (t.float() for t in crowded_boxes(30_000, extent=3000))
    kept = nms(boxes, scores, 0.5)
    assert scores[kept].diff().lt(0).all()
    assert nms(boxes[kept], scores[kept], 0.5).tolist() == list(range(len(kept)))  # what is kept suppresses nothing
    gone = torch.ones(30_000, dtype=torch.bool)
    gone[kept] = False
    for i in gone.nonzero()[::500, 0]:  # and what is gone has a better one that is kept
        better = kept[scores[kept] > scores[i]]
        assert torchvision.ops.box_iou(boxes[i, None], boxes[better]).max() > 0.5


BAD = [
    ("boxes", {"boxes": torch.zeros(3, 5)}),
    ("boxes", {"boxes": torch.zeros(3, 4, dtype=torch.int64)}),
    ("scores", {"scores": torch.zeros(2)}),
    ("scores", {"scores": torch.zeros(3, dtype=torch.int64)}),
    ("groups", {"groups": torch.zeros(3)}),
    ("groups", {"groups": torch.zeros(2, dtype=torch.int64)}),
    ("iou_threshold", {"iou_threshold": 1.5}),
    ("iou_threshold", {"iou_threshold": math.nan}),
]
GOOD = {
    "boxes": torch.zeros(3, 4),
    "scores": torch.zeros(3),
    "groups": torch.zeros(3, dtype=torch.int64),
    "iou_threshold": 0.5,
}


@pytest.mark.parametrize(("argument", "changes"), [*BAD, ("scores", {"scores": torch.zeros(3, device="meta")})])
def test_errors_name_the_argument(argument, changes):
    with pytest.raises(ValueError, match=f"^{argument}: "):
        batched_nms(**(GOOD | changes))


@pytest.mark.parametrize(("argument", "changes"), BAD)
def test_the_operators_check_for_themselves(argument, changes):
    for operators in namespaces():
        with pytest.raises(ValueError, match=f"^{argument}: "):
            operators.nms(*(GOOD | changes).values())


@pytest.mark.skipif(not COMPILED, reason="the operators are not compiled")
def test_opcheck():
    boxes, scores = crowded_boxes(20)
    groups = random_groups(20)
    for arguments in (
        (boxes.float(), scores.float(), groups, 0.5),
        (boxes, scores, None, 0.5),
        (boxes[:0], scores[:0], groups[:0], 0.5),
    ):
        torch.library.opcheck(torch.ops.maskrcnn.nms.default, arguments)


@pytest.mark.skipif(not COMPILED, reason="the operators are not compiled")
@pytest.mark.parametrize("dynamic", [True, False])
def test_in_a_compiled_graph(dynamic):
    boxes, scores = (t.float() for t in crowded_boxes(40))
    best = torch.compile(lambda b, s: b[nms(b, s, 0.5)], backend="aot_eager", fullgraph=True, dynamic=dynamic)
    torch.testing.assert_close(best(boxes, scores), boxes[nms(boxes, scores, 0.5)])
