import math

import pytest
import torch

from maskrcnn.ops import nms, reference, soft_nms
from maskrcnn.ops.extension import COMPILED
from ops.nms_cases import crowded_boxes, implementations, integer_boxes, namespaces, overlap, random_groups


def public(boxes, scores, groups, threshold, gaussian, sigma, min_score):
    method = "gaussian" if gaussian else "linear"
    return soft_nms(boxes, scores, groups, threshold, method=method, sigma=sigma, min_score=min_score)


@pytest.fixture(params=implementations("soft_nms", public, reference.soft_nms))
def soften(request):
    """A function of the operator's arguments."""
    return request.param()


def soft_nms_by_hand(boxes, scores, groups, threshold, gaussian, sigma, min_score):
    """Bodla et al. 2017, Fig. 2, group by group, in Python numbers."""
    final = {}
    for group in set(groups.tolist()):
        left = {i: s for i, s in enumerate(scores.tolist()) if groups[i] == group and math.isfinite(s)}
        left = {i: s for i, s in left.items() if boxes[i].isfinite().all()}
        while left:
            m = max(left, key=lambda i: (left[i], -i))
            final[m] = left.pop(m)
            for i in left:
                iou = overlap(boxes[i].tolist(), boxes[m].tolist())
                left[i] *= math.exp(-(iou**2) / sigma) if gaussian else 1 - iou if iou > threshold else 1.0
    order = sorted((i for i in final if final[i] > min_score), key=lambda i: (-final[i], i))
    return order, [final[i] for i in order]


def assert_same(ours, expected, dtype):
    assert ours[0].dtype == torch.int64 and ours[1].dtype == dtype
    assert ours[0].tolist() == expected[0]
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(ours[1], torch.tensor(expected[1], dtype=dtype), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("gaussian", [False, True], ids=["linear", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("min_score", [0.0, 0.04, 0.51])
def test_agrees_with_the_paper(soften, gaussian, dtype, min_score):
    boxes, scores = (t.to(dtype) for t in crowded_boxes(60))
    for groups in (random_groups(60), torch.zeros(60, dtype=torch.int64)):
        arguments = (boxes, scores, groups, 0.3, gaussian, 0.5, min_score)
        assert_same(soften(*arguments), soft_nms_by_hand(*arguments), dtype)


def test_equal_scores_and_equal_boxes(soften):
    """Overlaps at the threshold exactly, and equal boxes, whose scores the linear method takes to zero."""
    boxes, scores = integer_boxes(60, extent=8)
    boxes, scores = boxes.double(), scores.double()
    arguments = (boxes, scores, random_groups(60, 2), 0.5, False, 0.5, 0.0)
    ours = soften(*arguments)
    assert_same(ours, soft_nms_by_hand(*arguments), torch.float64)
    assert 0 < len(ours[0]) < 60


def test_by_hand(soften):
    """IoU 1/2 of the first two; the third stands alone and overtakes the second."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [20, 20, 30, 30]])
    scores, groups = torch.tensor([0.9, 0.8, 0.5]), torch.zeros(3, dtype=torch.int64)
    kept, rescored = soften(boxes, scores, groups, 0.4, False, 0.5, 0.001)
    assert kept.tolist() == [0, 2, 1]
    torch.testing.assert_close(rescored, torch.tensor([0.9, 0.5, 0.4]))
    kept, rescored = soften(boxes, scores, groups, 0.5, False, 0.5, 0.001)  # not above the threshold
    assert kept.tolist() == [0, 1, 2]
    kept, rescored = soften(boxes, scores, groups, 0.5, True, 0.25, 0.001)
    torch.testing.assert_close(rescored, torch.tensor([0.9, 0.5, 0.8 * math.exp(-1)]))


def test_degenerate_boxes(soften):
    nan, inf = math.nan, math.inf
    boxes = torch.tensor(
        [[nan, 0, 9, 9], [0, 0, inf, 9], [0, 0, 9, 9], [5, 5, 5, 5], [5, 5, 5, 5], [9, 9, 1, 1], [0, 0, 9, 9]]
    )
    boxes = torch.cat([boxes, torch.tensor([[0.0, 0, 9, 9], [-1e30, -1e30, 1e30, 1e30], [0, 0, 9, 8]])])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, nan, inf, 0.3, -0.5])
    for gaussian in (False, True):
        kept, rescored = soften(boxes, scores, torch.zeros(10, dtype=torch.int64), 0.5, gaussian, 0.5, 0.0)
        assert kept.tolist() == [2, 3, 4, 5, 8]
        torch.testing.assert_close(rescored, scores[kept])


def test_nothing(soften):
    groups = torch.zeros(0, dtype=torch.int64)
    kept, rescored = soften(torch.zeros(0, 4), torch.zeros(0), groups, 0.5, True, 0.5, 0.0)
    assert kept.shape == rescored.shape == (0,) and kept.dtype == torch.int64
    kept, rescored = soften(torch.ones(2, 4), torch.zeros(2), torch.zeros(2, dtype=torch.int64), 0.5, True, 0.5, 0.0)
    assert kept.shape == rescored.shape == (0,)  # a score must be above the least one


def test_an_overlap_that_leaves_nothing_is_plain_suppression():
    """A narrow Gaussian takes every overlapped score to zero, as NMS with the threshold zero does."""
    boxes, scores = crowded_boxes(300, extent=400)
    scores = scores + 0.1
    kept, rescored = soft_nms(boxes, scores, random_groups(300, 1), 0.5, method="gaussian", sigma=1e-12)
    plain = nms(boxes, scores, 0.0)
    heavy = torch.isin(kept, plain)
    assert torch.equal(kept[heavy], plain) and torch.equal(rescored[heavy], scores[plain])


def test_half_types_count_as_float32_and_mixed_precision_as_float64():
    boxes, scores = (t.float() for t in crowded_boxes(50))
    boxes, scores, groups = boxes.round(), scores.half(), random_groups(50)
    expected = soft_nms(boxes, scores.float(), groups, 0.3)
    ours = soft_nms(boxes.bfloat16().requires_grad_(), scores, groups, 0.3)
    assert ours[1].dtype == torch.float32 and not ours[1].requires_grad
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))
    assert soft_nms(boxes, scores.double(), groups, 0.3)[1].dtype == torch.float64


def test_the_number_of_threads_does_not_matter():
    boxes, scores = (t.float() for t in crowded_boxes(800, extent=300))
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(soft_nms(boxes, scores, random_groups(800), 0.3, method="gaussian"))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


GOOD = {
    "boxes": torch.zeros(3, 4),
    "scores": torch.zeros(3),
    "groups": torch.zeros(3, dtype=torch.int64),
    "iou_threshold": 0.5,
}
BAD = [
    ("boxes", {"boxes": torch.zeros(3, 5)}),
    ("scores", {"scores": torch.zeros(2)}),
    ("groups", {"groups": torch.zeros(3)}),
    ("iou_threshold", {"iou_threshold": 1.5}),
    ("sigma", {"sigma": 0.0}),
    ("min_score", {"min_score": -1.0}),
]


@pytest.mark.parametrize(("argument", "changes"), [*BAD, ("method", {"method": "cubic"})])
def test_errors_name_the_argument(argument, changes):
    with pytest.raises(ValueError, match=f"^{argument}: "):
        soft_nms(**(GOOD | changes))


@pytest.mark.parametrize(("argument", "changes"), [*BAD, ("scores", {"scores": torch.zeros(3).double()})])
def test_the_operators_check_for_themselves(argument, changes):
    arguments = GOOD | {"gaussian": True, "sigma": 0.5, "min_score": 0.0} | changes
    for operators in namespaces():
        with pytest.raises(ValueError, match=f"^{argument}: "):
            operators.soft_nms(*arguments.values())


@pytest.mark.skipif(not COMPILED, reason="the operators are not compiled")
def test_opcheck():
    boxes, scores = crowded_boxes(20)
    for arguments in ((boxes, scores, random_groups(20)), (boxes[:0], scores[:0], random_groups(0))):
        torch.library.opcheck(torch.ops.maskrcnn.soft_nms.default, (*arguments, 0.5, True, 0.5, 0.01))


@pytest.mark.skipif(not COMPILED, reason="the operators are not compiled")
def test_in_a_compiled_graph():
    boxes, scores = (t.float() for t in crowded_boxes(40))

    def best(boxes, scores, groups):
        kept, rescored = soft_nms(boxes, scores, groups, 0.5)
        return boxes[kept] * rescored[:, None]

    compiled = torch.compile(best, backend="aot_eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(boxes, scores, random_groups(40)), best(boxes, scores, random_groups(40)))
