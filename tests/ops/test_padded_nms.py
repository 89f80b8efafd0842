import math

import pytest
import torch

from maskrcnn.ops import padded_nms, reference
from maskrcnn.ops.extension import COMPILED
from ops.nms_cases import crowded_boxes, implementations, namespaces, nms_by_hand, random_groups


@pytest.fixture(params=implementations("padded_nms", padded_nms, reference.padded_nms))
def suppress(request):
    return request.param()


def batch(images=3, count=80, dtype=torch.float32):
    pairs = [crowded_boxes(count, seed=image) for image in range(images)]
    return tuple(torch.stack(x).to(dtype) for x in zip(*pairs, strict=True))


def by_hand(boxes, scores, groups, threshold, max_keep):
    rows = [nms_by_hand(b, s, g, threshold)[:max_keep] for b, s, g in zip(boxes, scores, groups, strict=True)]
    return [row + [-1] * (max_keep - len(row)) for row in rows], [len(row) for row in rows]


@pytest.mark.parametrize("max_keep", [1, 7, 80, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_the_definition(suppress, max_keep, dtype):
    boxes, scores = batch(dtype=dtype)
    shared, own = random_groups(80), random_groups(240).reshape(3, 80)
    for groups in (shared, own):
        kept, counts = suppress(boxes, scores, groups, 0.4, max_keep)
        expected = by_hand(boxes, scores, groups.expand(3, 80), 0.4, max_keep)
        assert kept.dtype == counts.dtype == torch.int64
        assert (kept.tolist(), counts.tolist()) == expected


def test_more_candidates_than_a_kernel_takes_at_once(suppress):
    boxes, scores = (t.float() for t in crowded_boxes(2200, extent=500))
    groups = random_groups(2200, 3)
    kept, counts = suppress(boxes[None], scores[None], groups, 0.5, 2200)
    expected = reference.batched_nms(boxes, scores, groups, 0.5)
    assert torch.equal(kept[0, : len(expected)], expected) and counts.tolist() == [len(expected)]


def test_rows_left_out_and_boxes_that_are_not_finite(suppress):
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 29, 29]]).repeat(4, 1, 1)
    scores = torch.tensor([0.9, 0.8, -math.inf]).repeat(4, 1)
    scores[1, 0] = boxes[2, 0, 3] = math.nan
    scores[3] = math.nan
    kept, counts = suppress(boxes, scores, torch.zeros(3, dtype=torch.int64), 0.5, 3)
    assert kept.tolist() == [[0, 2, -1], [1, 2, -1], [1, 2, -1], [-1, -1, -1]]
    assert counts.tolist() == [2, 2, 2, 0]


@pytest.mark.parametrize(("images", "count", "max_keep"), [(0, 5, 3), (2, 0, 3), (2, 5, 0), (0, 0, 0)])
def test_nothing(suppress, images, count, max_keep):
    groups = torch.zeros(count, dtype=torch.int64)
    kept, counts = suppress(torch.zeros(images, count, 4), torch.zeros(images, count), groups, 0.5, max_keep)
    assert kept.shape == (images, max_keep) and kept.eq(-1).all()
    assert counts.shape == (images,) and counts.eq(0).all()


def test_half_types_strides_and_gradients_do_not_matter():
    boxes, scores = batch()
    boxes, groups = boxes.round(), random_groups(80)
    expected = padded_nms(boxes, scores.half().float(), groups, 0.4, 50)
    turned = boxes.transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    for arguments in ((boxes.bfloat16(), scores.half()), (turned, scores.half())):
        ours = padded_nms(*arguments, groups, 0.4, 50)
        assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_the_number_of_threads_does_not_matter():
    boxes, scores = batch(3, 1500)
    groups = random_groups(1500, 3) // 2
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            results.append(padded_nms(boxes, scores, groups, 0.7, 500)[0])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], other) for other in results[1:])


BAD = [
    ("boxes", {"boxes": torch.zeros(3, 4)}),
    ("boxes", {"boxes": torch.zeros(2, 3, 4, dtype=torch.int32)}),
    ("scores", {"scores": torch.zeros(3, 2)}),
    ("groups", {"groups": torch.zeros(3)}),
    ("groups", {"groups": torch.zeros(2, dtype=torch.int64)}),
    ("groups", {"groups": torch.zeros(3, 2, dtype=torch.int64)}),
    ("groups", {"groups": torch.zeros((), dtype=torch.int64)}),
    ("iou_threshold", {"iou_threshold": -0.1}),
    ("max_keep", {"max_keep": -1}),
]
GOOD = {
    "boxes": torch.zeros(2, 3, 4),
    "scores": torch.zeros(2, 3),
    "groups": torch.zeros(3, dtype=torch.int64),
    "iou_threshold": 0.5,
    "max_keep": 2,
}


@pytest.mark.parametrize(
    ("argument", "changes"), [*BAD, ("groups", {"groups": torch.zeros(3, dtype=torch.int64, device="meta")})]
)
def test_errors_name_the_argument(argument, changes):
    with pytest.raises(ValueError, match=f"^{argument}: "):
        padded_nms(**(GOOD | changes))


@pytest.mark.parametrize(("argument", "changes"), BAD)
def test_the_operators_check_for_themselves(argument, changes):
    for operators in namespaces():
        with pytest.raises(ValueError, match=f"^{argument}: "):
            operators.padded_nms(*(GOOD | changes).values())


@pytest.mark.skipif(not COMPILED, reason="the operators are not compiled")
def test_opcheck():
    boxes, scores = batch(2, 20)
    for groups, keep in ((random_groups(20), 5), (random_groups(40).reshape(2, 20), 0)):
        torch.library.opcheck(torch.ops.maskrcnn.padded_nms.default, (boxes, scores, groups, 0.5, keep))
    torch.library.opcheck(torch.ops.maskrcnn.padded_nms.default, (boxes[:0], scores[:0], random_groups(20), 0.5, 5))


@pytest.mark.skipif(not COMPILED, reason="the operators are not compiled")
@pytest.mark.parametrize("dynamic", [True, False])
def test_in_a_compiled_graph_with_a_gradient(dynamic):
    def best_boxes(boxes, scores, groups):
        kept, counts = padded_nms(boxes, scores, groups, 0.5, 10)
        valid = torch.arange(10) < counts[:, None]
        chosen = boxes.gather(1, kept.clamp(min=0)[..., None].expand(-1, -1, 4))
        return chosen.where(valid[..., None], 0.0)

    compiled = torch.compile(best_boxes, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for count in (30, 50):
        boxes, scores = batch(2, count)
        boxes.requires_grad_()
        groups = random_groups(count)
        ours, expected = compiled(boxes, scores, groups), best_boxes(boxes, scores, groups)
        torch.testing.assert_close(ours, expected)
        gradients = [torch.autograd.grad(x.square().sum(), boxes)[0] for x in (ours, expected)]
        torch.testing.assert_close(*gradients)
