import math

import numpy as np
import pycocotools.mask
import pytest
import torch
import torch.nn.functional as F

from maskrcnn.ops.paste import masks_to_rle, paste_masks

SIZE = (37, 53)


def paste_by_grid_sample(masks, boxes, size):
    """The probabilities at the pixel centres: (D, H, W)."""
    y = torch.arange(size[0], dtype=torch.float64) + 0.5
    x = torch.arange(size[1], dtype=torch.float64) + 0.5
    x1, y1, x2, y2 = boxes.double()[:, :, None].unbind(1)
    u, v = (x - x1) / (x2 - x1) * 2 - 1, (y - y1) / (y2 - y1) * 2 - 1
    shape = (len(boxes), *size)
    grid = torch.stack([u[:, None, :].expand(shape), v[:, :, None].expand(shape)], dim=-1)
    return F.grid_sample(masks[:, None].double(), grid, align_corners=False)[:, 0]


def random_detections(count=40, m=9):
    masks = F.interpolate(torch.rand(count, 1, 4, 4), size=(m, m), mode="bilinear")[:, 0]
    corner = torch.rand(count, 2) * torch.tensor([60.0, 45.0]) - 10  # some reach over the border
    return masks, torch.cat([corner, corner + 0.5 + torch.rand(count, 2) ** 3 * 60], dim=1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("threshold", [0.5, 0.1])
@pytest.mark.parametrize("memory_budget", [1, 50_000, 2**28])
def test_paste_is_grid_sample(threshold, memory_budget):
    masks, boxes = random_detections()
    soft = paste_by_grid_sample(masks, boxes, SIZE)
    pasted = paste_masks(masks, boxes, SIZE, threshold=threshold, memory_budget=memory_budget)
    clear = (soft - threshold).abs() > 1e-5
    assert torch.equal(pasted[clear], (soft >= threshold)[clear])
    assert clear.double().mean() > 0.999
    assert pasted.flatten(1).any(dim=1).sum() > 10  # the others are too small to reach a pixel centre, or outside


@pytest.mark.parametrize("memory_budget", [1, 50_000, 2**28])
def test_rle_is_what_pycocotools_makes_of_the_pasted_masks(memory_budget):
    masks, boxes = random_detections()
    boxes[3] = torch.tensor([-20.0, -20.0, 80.0, 80.0])
    masks[3] = 1  # the whole image
    boxes[5] = torch.tensor([-5.0, 10.0, 80.0, 20.0])  # runs that end in the last column
    boxes[7] = torch.tensor([10.0, -30.0, 20.0, 80.0])  # runs that go on from one column to the next
    masks[5] = masks[7] = 1
    boxes[9, 2:] = boxes[9, :2]
    pasted = paste_masks(masks, boxes, SIZE)
    rles = masks_to_rle(masks, boxes, SIZE, memory_budget=memory_budget)
    assert pasted[3].all()
    for rle, bitmap in zip(rles, pasted, strict=True):
        encoded = pycocotools.mask.encode(np.asfortranarray(bitmap.numpy().astype(np.uint8)))
        assert rle == {"size": [*SIZE], "counts": encoded["counts"].decode()}


def test_by_hand():
    """Four cells of a 4 x 4 box, each one pixel large, and the same box moved by half a pixel."""
    mask = torch.tensor([[[0.9, 0.2, 0.2, 0.2]] + [[0.2] * 4] * 3])
    boxes = torch.tensor([[1.0, 1.0, 5.0, 5.0]])
    pasted = paste_masks(mask, boxes, (6, 6))
    assert pasted.nonzero().tolist() == [[0, 1, 1]]
    halfway = boxes + torch.tensor([0.5, 0.0, 0.5, 0.0])  # pixel 1: 0.9 / 2; pixel 2: (0.9 + 0.2) / 2
    assert paste_masks(mask, halfway, (6, 6)).nonzero().tolist() == [[0, 1, 2]]
    assert paste_masks(mask, halfway, (6, 6), threshold=0.4).nonzero().tolist() == [[0, 1, 1], [0, 1, 2]]


@pytest.mark.parametrize(
    "box",
    [
        (5, 5, 5, 9),
        (5, 5, 5, 5),
        (9, 9, 2, 2),
        (99, 99, 120, 120),
        (-50, 3, -10, 9),
        (0, 0, math.inf, 9),
        (math.nan, 0, 9, 9),
    ],
    ids=["no width", "a point", "inverted", "beyond the end", "before the start", "infinite", "nan"],
)
def test_boxes_without_a_pixel(box):
    boxes = torch.tensor([(0.0, 0.0, 10.0, 10.0), box])
    pasted = paste_masks(torch.ones(2, 7, 7), boxes, SIZE)
    assert pasted[0].sum() == 100
    assert not pasted[1].any()
    rles = masks_to_rle(torch.ones(2, 7, 7), boxes, SIZE)
    assert [int(pycocotools.mask.area(rle)) for rle in rles] == [100, 0]


def test_no_detections():
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), SIZE).shape == (0, *SIZE)
    assert masks_to_rle(torch.zeros(0, 28, 28), torch.zeros(0, 4), SIZE) == []


def test_half_precision_masks():
    masks, boxes = random_detections()
    assert torch.equal(paste_masks(masks.bfloat16(), boxes, SIZE), paste_masks(masks.bfloat16().float(), boxes, SIZE))
