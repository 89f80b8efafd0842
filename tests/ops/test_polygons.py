import math

import pytest
import torch

from maskrcnn.ops import crop_polygons, points_in_polygons, reference
from maskrcnn.ops import polygons as polygons_module
from maskrcnn.ops.extension import COMPILED
from ops.cuda_on_cpu import operators
from ops.implementations import IMPLEMENTATIONS, dispatched, served_by, with_threads

SQUARE = [(2.0, 2.0), (8.0, 2.0), (8.0, 8.0), (2.0, 8.0)]
compiled_only = pytest.mark.skipif(not COMPILED, reason="the operators are not compiled")


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request):
    return request.param


@pytest.fixture
def crop(implementation, monkeypatch):
    return served_by(implementation, crop_polygons, polygons_module, monkeypatch)


@pytest.fixture
def ask(implementation, monkeypatch):
    return served_by(implementation, points_in_polygons, polygons_module, monkeypatch)


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


def test_crop_is_point_in_polygon_at_the_cell_centres(crop):
    objects = random_objects()
    index = torch.randint(len(objects), (20,))
    corner = torch.rand(20, 2, dtype=torch.float64) * 12 - 2
    boxes = torch.cat([corner, corner + 0.1 + torch.rand(20, 2, dtype=torch.float64) * 15], dim=1)
    expected = crop_by_loops(objects, index.tolist(), boxes.tolist(), 7)
    assert torch.equal(crop(*pack(objects), index, boxes, 7), expected)
    assert 0.1 < expected.double().mean() < 0.9


def test_points_in_polygons(ask):
    objects = random_objects()
    index = torch.randint(len(objects), (9,))
    queries = torch.rand(9, 13, 2, dtype=torch.float64) * 24 - 2
    inside = ask(*pack(objects), index, queries)
    expected = [[is_inside(objects[g], *q) for q in row] for g, row in zip(index.tolist(), queries.tolist())]  # noqa: B905
    assert inside.tolist() == expected


def test_float32_coordinates_of_a_large_image(crop):
    angles = torch.arange(60) / 60 * 2 * math.pi
    ring = torch.stack([700 + 300 * angles.cos(), 600 + 200 * angles.sin()], dim=1)
    box = torch.tensor([[390.5, 395.25, 1010.0, 805.0]])
    cells = crop(ring, torch.tensor([0, 60]), torch.tensor([0, 1]), torch.tensor([0]), box, 28)
    expected = crop_by_loops([[[tuple(p) for p in ring.tolist()]]], [0], box.tolist(), 28)
    assert torch.equal(cells, expected)


def test_by_hand(crop):
    inner = [(4.0, 4.0), (6.0, 4.0), (6.0, 6.0), (4.0, 6.0)]
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]], dtype=torch.float64)
    rows = torch.arange(10)
    square = ((rows[:, None] >= 2) & (rows[:, None] < 8) & (rows >= 2) & (rows < 8))[None]
    index = torch.tensor([0])
    assert torch.equal(crop(*pack([[SQUARE]]), index, box, 10), square)
    # The parts of an object are joined, so a part within another changes nothing ...
    assert torch.equal(crop(*pack([[SQUARE, inner]]), index, box, 10), square)
    # ... and a hole is a ring that goes in and out of the inner square.
    keyhole = [*SQUARE, SQUARE[0], *inner, inner[0]]
    hole = square.clone()
    hole[:, 4:6, 4:6] = False
    assert torch.equal(crop(*pack([[keyhole]]), index, box, 10), hole)


def test_neighbours_share_no_cell_and_leave_none_out(crop):
    """The common edges run exactly through cell centres."""
    left = [(0.0, 0.0), (4.5, 0.0), (4.5, 10.0), (0.0, 10.0)]
    above = [(4.5, 0.0), (10.0, 0.0), (10.0, 5.5), (4.5, 5.5)]
    below = [(4.5, 5.5), (10.0, 5.5), (10.0, 10.0), (4.5, 10.0)]
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).expand(3, 4)
    cells = crop(*pack([[left], [above], [below]]), torch.arange(3), boxes, 10)
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
        (-1.5e308, 0, 1.5e308, 5),
        (1e300, 1e300, 2e300, 2e300),
    ],
    ids=["no width", "a point", "inverted", "right of it", "left of it", "infinite", "nan", "too wide", "far away"],
)
def test_boxes_with_nothing_in_them(crop, box):
    boxes = torch.tensor([box, (0, 0, 10, 10)], dtype=torch.float64)
    cells = crop(*pack([[SQUARE]]), torch.tensor([0, 0]), boxes, 5)
    assert not cells[0].any()
    assert cells[1].sum() == 9


def test_nothing_at_all(crop, ask):
    none = torch.zeros(0, dtype=torch.int64)
    assert crop(*pack([]), none, torch.zeros(0, 4), 28).shape == (0, 28, 28)
    assert crop(*pack([[SQUARE]]), none, torch.zeros(0, 4), 28).shape == (0, 28, 28)
    assert not crop(*pack([[]]), torch.tensor([0]), torch.tensor([[0.0, 0, 9, 9]]), 3).any()  # no ring
    assert ask(*pack([[SQUARE]]), none, torch.zeros(0, 5, 2)).shape == (0, 5)
    assert ask(*pack([[SQUARE]]), torch.tensor([0]), torch.zeros(1, 0, 2)).shape == (1, 0)


@pytest.mark.parametrize("memory_budget", [1, 2**20])
def test_the_reference_stays_within_any_budget(memory_budget):
    objects = random_objects()
    index = torch.randint(len(objects), (9,))
    queries = torch.rand(9, 13, 2, dtype=torch.float64) * 24 - 2
    arguments = (*pack(objects), index, queries)
    expected = reference.points_in_polygons(*arguments)
    assert torch.equal(reference.points_in_polygons(*arguments, memory_budget=memory_budget), expected)


def test_many_cells_and_rings_of_every_kind(crop):
    """A grid finer than the polygon's edges, a ring of one point, of two, and a vertex that repeats."""
    rings = [[(3.0, 3.0)], [(1.0, 1.0), (9.0, 9.0)], [*SQUARE, SQUARE[-1]], [(0.0, 9.0), (9.5, 9.0), (4.0, 9.9)]]
    box = torch.tensor([[0.3, 0.2, 9.9, 9.8]], dtype=torch.float64)
    expected = crop_by_loops([rings], [0], box.tolist(), 67)
    assert torch.equal(crop(*pack([rings]), torch.tensor([0]), box, 67), expected)


def test_a_huge_box_has_the_object_within_one_cell(crop):
    boxes = torch.tensor([[-1e30, -1e30, 1e30, 1e30], [-1e4, -1e4, 1e4, 1e4]])
    cells = crop(*pack([[SQUARE]]), torch.tensor([0, 0]), boxes, 4)
    assert not cells.any()  # no centre is within


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_vertices_that_are_no_place_give_some_answer(crop, ask, value):
    points, rings, objects = pack([[SQUARE]])
    for row, axis in ((0, 0), (1, 1), (2, 0)):
        points[row, axis] = value
    box = torch.tensor([[0.0, 0, 10, 10]], dtype=torch.float64)
    assert crop(points, rings, objects, torch.tensor([0]), box, 5).shape == (1, 5, 5)
    queries = torch.tensor([[[5.0, 5], [value, 5], [5, value], [value, value]]], dtype=torch.float64)
    assert not ask(*pack([[SQUARE]]), torch.tensor([0]), queries)[0, 1 if math.isnan(value) else 2 :].any()
    assert ask(points, rings, objects, torch.tensor([0]), queries).shape == (1, 4)


def test_types_mix_and_none_has_a_gradient(crop, ask):
    points, rings, objects = pack([[SQUARE]])
    index, box = torch.tensor([0]), torch.tensor([[0.0, 0, 10, 10]], requires_grad=True)
    queries = torch.tensor([[[5.0, 5], [1, 1]]], requires_grad=True)
    for dtype in (torch.float32, torch.float64):
        cells = crop(points.to(dtype).requires_grad_(), rings, objects, index, box, 5)
        assert cells.sum() == 9 and not cells.requires_grad
        assert ask(points.to(dtype), rings, objects, index, queries).tolist() == [[True, False]]


def test_the_number_of_threads_changes_nothing():
    objects = random_objects()
    index = torch.randint(len(objects), (50,))
    boxes = torch.rand(50, 4, dtype=torch.float64) * 10 + torch.tensor([0, 0, 10, 10])
    queries = torch.rand(50, 30, 2, dtype=torch.float64) * 20
    for work in (
        lambda: crop_polygons(*pack(objects), index, boxes, 28),
        lambda: points_in_polygons(*pack(objects), index, queries),
    ):
        first, *others = with_threads(work)
        assert first.any() and all(torch.equal(first, other) for other in others)


@compiled_only
def test_no_loop_over_rois():
    polygons, boxes = pack([[SQUARE]]), torch.tensor([[0.0, 0, 9, 9]], dtype=torch.float64)

    def count(rois):
        index = torch.zeros(rois, dtype=torch.int64)
        return dispatched(lambda: crop_polygons(*polygons, index, boxes.expand(rois, 4), 7))

    assert count(1) == count(500) < 10


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("points", {"points": torch.zeros(4, 3)}),
        ("points", {"points": torch.zeros(4, 2, dtype=torch.float16)}),
        ("ring_offsets", {"ring_offsets": torch.zeros(2)}),
        ("ring_offsets", {"ring_offsets": torch.tensor([0, 5])}),
        ("ring_offsets", {"ring_offsets": torch.tensor([3, 2])}),
        ("ring_offsets", {"ring_offsets": torch.tensor([-1, 4])}),
        ("object_offsets", {"object_offsets": torch.tensor([0, 2])}),
        ("object_offsets", {"object_offsets": torch.zeros(2, 1, dtype=torch.int64)}),
        ("index", {"index": torch.tensor([0, 1])}),
        ("index", {"index": torch.tensor([-1, 0])}),
        ("index", {"index": torch.tensor([0, 0], dtype=torch.int32)}),
        ("boxes", {"boxes": torch.zeros(3, 4)}),
        ("boxes", {"boxes": torch.zeros(2, 4, dtype=torch.float16)}),
        ("boxes", {"boxes": torch.zeros(2, 4, device="meta")}),
        ("size", {"size": 0}),
    ],
)
@pytest.mark.parametrize("implementation", ["compiled", "reference"], indirect=True)
def test_errors_name_the_argument(crop, argument, changes):
    points, ring_offsets, object_offsets = pack([[SQUARE]])
    good = {"points": points.float(), "ring_offsets": ring_offsets, "object_offsets": object_offsets}
    good |= {"index": torch.tensor([0, 0]), "boxes": torch.tensor([[0.0, 0, 9, 9]]).expand(2, 4), "size": 3}
    assert crop(**good).any()
    wrong = good | changes
    with pytest.raises(ValueError, match=f"^{argument}: "):
        crop(**wrong)
    if COMPILED and wrong["boxes"].device.type == "cpu":  # whoever calls the operator itself
        with pytest.raises(ValueError, match=f"^{argument}: |^boxes: dtype"):
            torch.ops.maskrcnn.crop_polygons(*wrong.values())


@compiled_only
@pytest.mark.parametrize("index", [-1, 1, 2**62])
def test_on_cuda_an_object_that_is_not_there_is_empty(index):
    """Looking at the index would wait for the device."""
    points, rings, objects = pack([[SQUARE]])
    box = torch.tensor([[0.0, 0, 9, 9]], dtype=torch.float64).expand(2, 4)
    both = torch.tensor([index, 0])
    cells = operators().crop_polygons(points, rings, objects, both, box, 3)
    assert cells.flatten(1).any(dim=1).tolist() == [False, True]
    queries = torch.full((2, 1, 2), 5.0, dtype=torch.float64)
    assert operators().points_in_polygons(points, rings, objects, both, queries).tolist() == [[False], [True]]
    for wrong in ([0, 9], [-3, 4], [3, 1]):  # nor may offsets read beyond the points
        cells = operators().crop_polygons(points, torch.tensor(wrong), objects, torch.tensor([0, 0]), box, 3)
        assert not cells.any()


@compiled_only
def test_opcheck():
    polygons, index = pack(random_objects()), torch.tensor([0, 3, 1])
    boxes = torch.tensor([[0.0, 0, 9, 9]], dtype=torch.float64).repeat(3, 1)
    queries = torch.rand(3, 4, 2, dtype=torch.float64)
    for rows in (3, 0):
        torch.library.opcheck(torch.ops.maskrcnn.crop_polygons.default, (*polygons, index[:rows], boxes[:rows], 5))
        torch.library.opcheck(torch.ops.maskrcnn.points_in_polygons.default, (*polygons, index[:rows], queries[:rows]))


@compiled_only
def test_in_a_compiled_training_step():
    polygons, index = pack(random_objects()), torch.tensor([0, 3, 1, 1])
    boxes = torch.rand(4, 4, dtype=torch.float64) * 8 + torch.tensor([0, 0, 9, 9])

    def work(index, boxes):
        queries = boxes[:, None, :2] + torch.linspace(0, 9, 5)[:, None]
        return crop_polygons(*polygons, index, boxes, 7).float(), points_in_polygons(*polygons, index, queries)

    compiled = torch.compile(work, backend="aot_eager", fullgraph=True, dynamic=True)
    for rows in (4, 3):
        for ours, expected in zip(compiled(index[:rows], boxes[:rows]), work(index[:rows], boxes[:rows]), strict=True):
            assert torch.equal(ours, expected)
