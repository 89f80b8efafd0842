import math

import pytest
import torch

from maskrcnn.ops import (
    area,
    clip_batch,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    paired_iou,
    pairwise_ioa,
    pairwise_iou,
)


def random_boxes(count, generator, extent=100.0):
    corners = torch.rand(count, 2, 2, generator=generator) * extent
    return torch.cat([corners.min(dim=1).values, corners.max(dim=1).values + 0.5], dim=1)


def covered_cells(box, side):
    """The unit cells of a side x side board that an integer box covers."""
    x1, y1, x2, y2 = (int(v) for v in box)
    return {(i, j) for i in range(max(y1, 0), min(y2, side)) for j in range(max(x1, 0), min(x2, side))}


def test_areas_by_hand():
    boxes = torch.tensor([[[0.0, 0, 4, 2.5], [1, 1, 1, 5]], [[3, 3, 1, 5], [5, 5, 1, 1]]])
    torch.testing.assert_close(area(boxes), torch.tensor([[10.0, 0], [0, 0]]))


def test_overlaps_agree_with_counted_cells(side=12):
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(0, side + 1, (40, 4), generator=generator).float()
    a, b = corners[:15], corners[15:]  # inverted and empty boxes too: they cover no cell
    cells_a, cells_b = ([covered_cells(box, side) for box in boxes] for boxes in (a, b))
    iou = [[len(s & t) / len(s | t) if s | t else 0.0 for t in cells_b] for s in cells_a]
    ioa = [[len(s & t) / len(s) if s else 0.0 for t in cells_b] for s in cells_a]
    torch.testing.assert_close(pairwise_iou(a, b), torch.tensor(iou))
    torch.testing.assert_close(pairwise_ioa(a, b), torch.tensor(ioa))


@pytest.mark.parametrize("pairwise", [pairwise_iou, pairwise_ioa])
def test_pairs_with_nothing(pairwise):
    boxes = torch.zeros(3, 4)
    assert pairwise(boxes, boxes[:0]).shape == (3, 0)
    assert pairwise(boxes[:0], boxes).shape == (0, 3)
    assert pairwise(boxes, boxes).eq(0).all()  # no area: zero, not NaN


def test_clip_by_hand():
    boxes = torch.tensor([[-5.0, -1, 3, 30], [4, 5, 6, 7], [50, -9, 60, -2]])
    expected = torch.tensor([[0.0, 0, 3, 20], [4, 5, 6, 7], [10, 0, 10, 0]])
    torch.testing.assert_close(clip_boxes(boxes, (20, 10)), expected)
    torch.testing.assert_close(clip_boxes(boxes[:, None], (20, 10)), expected[:, None])
    assert clip_boxes(boxes[:0], (20, 10)).shape == (0, 4)


def test_each_image_clips_its_own_boxes():
    boxes, sizes = torch.rand(2, 5, 4) * 60 - 20, [(20, 10), (9, 30)]
    expected = torch.stack([clip_boxes(b, size) for b, size in zip(boxes, sizes, strict=True)])
    assert torch.equal(clip_batch(boxes, sizes), expected)
    assert clip_batch(boxes[:0], []).shape == (0, 5, 4)


def test_paired_overlaps_are_the_diagonal():
    a, b = (random_boxes(7, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    torch.testing.assert_close(paired_iou(a, b), pairwise_iou(a, b).diagonal())


def test_deltas_by_hand():
    """A box of 20 x 40 about (30, 40), seen from one of 10 x 20 about (25, 50)."""
    box, anchor = torch.tensor([[20.0, 20, 40, 60]]), torch.tensor([[20.0, 40, 30, 60]])
    expected = torch.tensor([[10 * 0.5, 10 * -0.5, 5 * math.log(2), 5 * math.log(2)]])
    weights = (10.0, 10.0, 5.0, 5.0)
    torch.testing.assert_close(encode_boxes(box, anchor, weights), expected)
    torch.testing.assert_close(decode_boxes(expected, anchor, weights), box)


def test_decode_undoes_encode():
    generator = torch.Generator().manual_seed(1)
    boxes, anchors = random_boxes(50, generator), random_boxes(50, generator)
    weights = (10.0, 8.0, 5.0, 4.0)
    deltas = encode_boxes(boxes, anchors, weights)
    torch.testing.assert_close(decode_boxes(deltas, anchors, weights, clip=10.0), boxes, atol=1e-3, rtol=1e-5)
    classwise = deltas[:, None].expand(-1, 3, -1)
    torch.testing.assert_close(
        decode_boxes(classwise, anchors[:, None], weights, clip=10.0)[:, 2], boxes, atol=1e-3, rtol=1e-5
    )


def test_growth_is_limited():
    deltas = torch.tensor([[0.0, 0, 100, -100]])
    box = decode_boxes(deltas, torch.tensor([[0.0, 0, 16, 16]]), (1.0, 1.0, 1.0, 1.0))
    torch.testing.assert_close(box, torch.tensor([[8 - 500.0, 8, 8 + 500, 8]]))


def test_half_deltas_are_decoded_in_float32():
    anchors = torch.tensor([[1000.0, 1000, 1064, 1064]])
    deltas = torch.full((1, 4), 0.125, dtype=torch.bfloat16)
    box = decode_boxes(deltas, anchors, (1.0, 1.0, 1.0, 1.0))
    assert box.dtype == torch.float32
    torch.testing.assert_close(box, decode_boxes(deltas.float(), anchors, (1.0, 1.0, 1.0, 1.0)))


def test_no_boxes():
    nothing = torch.zeros(0, 4)
    assert encode_boxes(nothing, nothing, (1.0, 1.0, 1.0, 1.0)).shape == (0, 4)
    assert decode_boxes(torch.zeros(0, 5, 4), nothing[:, None], (1.0, 1.0, 1.0, 1.0)).shape == (0, 5, 4)
    assert area(nothing).shape == (0,)


def test_gradients():
    generator = torch.Generator().manual_seed(2)
    anchors = random_boxes(4, generator).double()
    deltas = (torch.randn(4, 4, generator=generator, dtype=torch.float64) * 0.3).requires_grad_()
    assert torch.autograd.gradcheck(lambda d: decode_boxes(d, anchors, (2.0, 2.0, 1.0, 1.0)), deltas)
    boxes = random_boxes(4, generator).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda b: encode_boxes(b, anchors, (2.0, 2.0, 1.0, 1.0)), boxes)
