import pytest
import torch
import torchvision

from maskrcnn.ops import batched_nms, nms, reference
from maskrcnn.ops.extension import COMPILED

IMPLEMENTATIONS = {"operator": (nms, batched_nms), "reference": (reference.nms, reference.batched_nms)}


@pytest.fixture(params=list(IMPLEMENTATIONS))
def implementation(request):
    return IMPLEMENTATIONS[request.param]


def overlap(a, b):
    """IoU of two boxes from their corners, in Python numbers."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if width * height > 0 else 0.0


def nms_by_hand(boxes, scores, groups, threshold):
    """The definition: go through the boxes by falling score, keep what no kept box of the group overlaps too much."""
    boxes, scores, groups = boxes.tolist(), scores.tolist(), groups.tolist()
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if not any(groups[i] == groups[k] and overlap(boxes[i], boxes[k]) > threshold for k in kept):
            kept.append(i)
    return kept


def crowded_boxes(count, seed=0, extent=100.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator, dtype=torch.float64) * extent
    size = 5 + torch.rand(count, 2, generator=generator, dtype=torch.float64) * extent / 2
    scores = torch.randperm(count, generator=generator).double() / max(count, 1)  # all different
    return torch.cat([corner, corner + size], dim=1), scores


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_agrees_with_the_definition(implementation, threshold):
    plain, grouped = implementation
    boxes, scores = crowded_boxes(150)
    groups = torch.randint(-2, 3, (150,), generator=torch.Generator().manual_seed(1))
    assert plain(boxes, scores, threshold).tolist() == nms_by_hand(boxes, scores, torch.zeros(150), threshold)
    assert grouped(boxes, scores, groups, threshold).tolist() == nms_by_hand(boxes, scores, groups, threshold)


@pytest.mark.parametrize("count", [5, 700, 5000])
def test_agrees_with_torchvision(implementation, count):
    plain, grouped = implementation
    boxes, scores = (t.float() for t in crowded_boxes(count, seed=count, extent=800))
    groups = torch.randint(0, 20, (count,), generator=torch.Generator().manual_seed(1))
    assert torch.equal(plain(boxes, scores, 0.5), torchvision.ops.nms(boxes, scores, 0.5))
    assert torch.equal(grouped(boxes, scores, groups, 0.5), torchvision.ops.batched_nms(boxes, scores, groups, 0.5))


def test_of_equal_scores_the_earlier_wins(implementation):
    plain, _ = implementation
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10.1], [50, 50, 60, 60], [0, 0, 10, 10.2]])
    assert plain(boxes, torch.tensor([0.5, 0.5, 0.9, 0.5]), 0.5).tolist() == [2, 0]


def test_an_overlap_equal_to_the_threshold_suppresses_nothing(implementation):
    plain, _ = implementation
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])  # IoU 1/2
    scores = torch.tensor([0.9, 0.8])
    assert plain(boxes, scores, 0.5).tolist() == [0, 1]
    assert plain(boxes, scores, 0.499).tolist() == [0]


def test_what_a_suppressed_box_overlaps_stays(implementation):
    plain, _ = implementation
    chain = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])
    assert plain(chain, torch.tensor([0.9, 0.8, 0.7]), 0.3).tolist() == [0, 2]


def test_degenerate_boxes(implementation):
    plain, _ = implementation
    nan, inf = float("nan"), float("inf")
    boxes = torch.tensor(
        [[nan, 0, 10, 10], [0, 0, inf, 10], [0, 0, 10, 10], [5, 5, 5, 5], [5, 5, 5, 5], [9, 9, 1, 1], [0, 0, 9.9, 10]]
    )
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, nan])
    # Non-finite boxes and scores go; boxes without area overlap nothing, not even each other.
    assert plain(boxes, scores, 0.5).tolist() == [2, 3, 4, 5]


def test_infinite_scores_keep_their_place(implementation):
    plain, _ = implementation
    boxes = torch.tensor([[0.0, 0, 1, 1], [2, 0, 3, 1], [4, 0, 5, 1]])
    assert plain(boxes, torch.tensor([-torch.inf, 0.0, torch.inf]), 0.5).tolist() == [2, 1, 0]


def test_nothing_and_one(implementation):
    plain, grouped = implementation
    boxes, scores = torch.zeros(0, 4), torch.zeros(0)
    for kept in (plain(boxes, scores, 0.5), grouped(boxes, scores, torch.zeros(0, dtype=torch.int64), 0.5)):
        assert kept.shape == (0,) and kept.dtype == torch.int64
    assert plain(torch.ones(1, 4), torch.ones(1), 0.5).tolist() == [0]


def test_half_types_strides_and_gradients_do_not_matter():
    boxes, scores = (t.float() for t in crowded_boxes(60))
    boxes, scores = boxes.round(), scores.bfloat16()  # integers below 256 survive bfloat16
    expected = nms(boxes, scores.float(), 0.4)
    wide = torch.stack([boxes, boxes + 1], dim=-1)[..., 0]
    assert not wide.is_contiguous()
    assert torch.equal(nms(wide.requires_grad_(), scores.float().requires_grad_(), 0.4), expected)
    assert torch.equal(nms(boxes.bfloat16(), scores, 0.4), expected)


def test_tens_of_thousands_of_boxes():
    boxes, scores = (t.float() for t in crowded_boxes(30_000, extent=3000))
    kept = nms(boxes, scores, 0.5)
    assert scores[kept].diff().lt(0).all()
    assert nms(boxes[kept], scores[kept], 0.5).tolist() == list(range(len(kept)))  # what is kept suppresses nothing


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("boxes", {"boxes": torch.zeros(3, 5)}),
        ("boxes", {"boxes": torch.zeros(3, 4, dtype=torch.int64)}),
        ("scores", {"scores": torch.zeros(2)}),
        ("scores", {"scores": torch.zeros(3, device="meta")}),
        ("groups", {"groups": torch.zeros(3)}),
        ("groups", {"groups": torch.zeros(2, dtype=torch.int64)}),
        ("iou_threshold", {"iou_threshold": 1.5}),
    ],
)
def test_errors_name_the_argument(argument, changes):
    good = {
        "boxes": torch.zeros(3, 4),
        "scores": torch.zeros(3),
        "groups": torch.zeros(3, dtype=torch.int64),
        "iou_threshold": 0.5,
    }
    with pytest.raises(ValueError, match=f"^{argument}: "):
        batched_nms(**(good | changes))


@pytest.mark.skipif(not COMPILED, reason="the operators are not compiled")
def test_opcheck():
    boxes, scores = crowded_boxes(20)
    groups = torch.arange(20) % 3
    for arguments in (
        (boxes.float(), scores.float(), groups, 0.5),
        (boxes, scores, groups[:0], 0.5),
        (boxes[:0], scores[:0], groups[:0], 0.5),
    ):
        torch.library.opcheck(torch.ops.maskrcnn.nms.default, arguments)


@pytest.mark.skipif(not COMPILED, reason="the operators are not compiled")
def test_in_a_compiled_graph():
    boxes, scores = (t.float() for t in crowded_boxes(40))
    best = torch.compile(lambda b, s: b[nms(b, s, 0.5)], backend="aot_eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(best(boxes, scores), boxes[nms(boxes, scores, 0.5)])
