import math

import pytest
import torch

from maskrcnn.ops.polygons import crop_polygons, points_in_polygons

SQUARE = [(2.0, 2.0), (8.0, 2.0), (8.0, 8.0), (2.0, 8.0)]


def pack(objects):
    rings = [ring for rings in objects for ring in rings]
    offsets = torch.tensor([0, *(len(ring) for ring in rings)]).cumsum(0)
    owners = torch.tensor([0, *(len(rings) for rings in objects)]).cumsum(0)
    points = torch.tensor([p for ring in rings for p in ring], dtype=torch.float64).reshape(-1, 2)
    return points, offsets, owners


def is_inside(rings, x, y):
    """Point in polygon as in the textbook: count the edges crossed on the way to the left, ring by ring."""
    for ring in rings:
        crossings = 0
        for (xa, ya), (xb, yb) in zip(ring, ring[1:] + ring[:1], strict=True):
            if (ya <= y < yb) or (yb <= y < ya):
                crossings += xa + (y - ya) / (yb - ya) * (xb - xa) <= x
        if crossings % 2:
            return True
    return False


def crop_by_loops(objects, index, boxes, m):
    cells = torch.zeros(len(index), m, m, dtype=torch.bool)
    for r, (g, (x1, y1, x2, y2)) in enumerate(zip(index, boxes, strict=True)):
        for i in range(m):
            for j in range(m):
                x, y = x1 + (j + 0.5) / m * (x2 - x1), y1 + (i + 0.5) / m * (y2 - y1)
                cells[r, i, j] = is_inside(objects[g], x, y)
    return cells


def random_objects(count=6):
    """Self-crossing rings too: their vertices are in no order."""
    uniform = torch.distributions.Uniform(0.0, 20.0)
    sizes = torch.randint(3, 12, (count, 3)).tolist()
    return [
        [[tuple(p) for p in uniform.sample((n, 2)).double().tolist()] for n in rings[: 1 + g % 3]]
        for g, rings in enumerate(sizes)
    ]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_crop_is_point_in_polygon_at_the_cell_centres():
    objects = random_objects()
    index = torch.randint(len(objects), (20,))
    corner = torch.rand(20, 2, dtype=torch.float64) * 12 - 2
    boxes = torch.cat([corner, corner + 0.1 + torch.rand(20, 2, dtype=torch.float64) * 15], dim=1)
    expected = crop_by_loops(objects, index.tolist(), boxes.tolist(), 7)
    assert torch.equal(crop_polygons(*pack(objects), index, boxes, 7), expected)
    assert 0.1 < expected.double().mean() < 0.9


@pytest.mark.parametrize("memory_budget", [1, 2**20])
def test_points_in_polygons(memory_budget):
    objects = random_objects()
    index = torch.randint(len(objects), (9,))
    queries = torch.rand(9, 13, 2, dtype=torch.float64) * 24 - 2
    inside = points_in_polygons(*pack(objects), index, queries, memory_budget=memory_budget)
    expected = [[is_inside(objects[g], *q) for q in row] for g, row in zip(index.tolist(), queries.tolist())]  # noqa: B905
    assert inside.tolist() == expected


def test_float32_coordinates_of_a_large_image():
    angles = torch.arange(60) / 60 * 2 * math.pi
    ring = torch.stack([700 + 300 * angles.cos(), 600 + 200 * angles.sin()], dim=1)
    box = torch.tensor([[390.5, 395.25, 1010.0, 805.0]])
    cells = crop_polygons(ring, torch.tensor([0, 60]), torch.tensor([0, 1]), torch.tensor([0]), box, 28)
    expected = crop_by_loops([[[tuple(p) for p in ring.tolist()]]], [0], box.tolist(), 28)
    assert torch.equal(cells, expected)


def test_by_hand():
    inner = [(4.0, 4.0), (6.0, 4.0), (6.0, 6.0), (4.0, 6.0)]
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]], dtype=torch.float64)
    rows = torch.arange(10)
    square = ((rows[:, None] >= 2) & (rows[:, None] < 8) & (rows >= 2) & (rows < 8))[None]
    index = torch.tensor([0])
    assert torch.equal(crop_polygons(*pack([[SQUARE]]), index, box, 10), square)
    # The parts of an object are joined, so a part within another changes nothing ...
    assert torch.equal(crop_polygons(*pack([[SQUARE, inner]]), index, box, 10), square)
    # ... and a hole is a ring that goes in and out of the inner square.
    keyhole = [*SQUARE, SQUARE[0], *inner, inner[0]]
    hole = square.clone()
    hole[:, 4:6, 4:6] = False
    assert torch.equal(crop_polygons(*pack([[keyhole]]), index, box, 10), hole)


def test_neighbours_share_no_cell_and_leave_none_out():
    """The common edges run exactly through cell centres."""
    left = [(0.0, 0.0), (4.5, 0.0), (4.5, 10.0), (0.0, 10.0)]
    above = [(4.5, 0.0), (10.0, 0.0), (10.0, 5.5), (4.5, 5.5)]
    below = [(4.5, 5.5), (10.0, 5.5), (10.0, 10.0), (4.5, 10.0)]
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).expand(3, 4)
    cells = crop_polygons(*pack([[left], [above], [below]]), torch.arange(3), boxes, 10)
    assert (cells.sum(dim=0) == 1).all()


@pytest.mark.parametrize(
    "box",
    [
        (5, 5, 5, 8),
        (5, 5, 5, 5),
        (8, 8, 2, 2),
        (20, 20, 30, 30),
        (-9, -9, 0, 0),
        (0, 0, math.inf, 5),
        (math.nan, 0, 5, 5),
    ],
    ids=["no width", "a point", "inverted", "right of it", "left of it", "infinite", "nan"],
)
def test_boxes_with_nothing_in_them(box):
    boxes = torch.tensor([box, (0, 0, 10, 10)], dtype=torch.float64)
    cells = crop_polygons(*pack([[SQUARE]]), torch.tensor([0, 0]), boxes, 5)
    assert not cells[0].any()
    assert cells[1].sum() == 9


def test_nothing_at_all():
    none = torch.zeros(0, dtype=torch.int64)
    assert crop_polygons(*pack([]), none, torch.zeros(0, 4), 28).shape == (0, 28, 28)
    assert crop_polygons(*pack([[SQUARE]]), none, torch.zeros(0, 4), 28).shape == (0, 28, 28)
    assert not crop_polygons(*pack([[]]), torch.tensor([0]), torch.tensor([[0.0, 0, 9, 9]]), 3).any()  # no ring
    assert points_in_polygons(*pack([[SQUARE]]), none, torch.zeros(0, 5, 2)).shape == (0, 5)
    assert points_in_polygons(*pack([[SQUARE]]), torch.tensor([0]), torch.zeros(1, 0, 2)).shape == (1, 0)


def test_expand_ranges():
    owner, element = expand_ranges(torch.tensor([5, 0, 7]), torch.tensor([2, 0, 3]))
    assert owner.tolist() == [0, 0, 2, 2, 2]
    assert element.tolist() == [5, 6, 7, 8, 9]
