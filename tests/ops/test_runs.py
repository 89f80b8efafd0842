import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from maskrcnn.ops import cover_cells, sample_runs
from maskrcnn.ops import runs as runs_module
from maskrcnn.ops.extension import COMPILED
from maskrcnn.ops.runs import runs_of_counts
from ops.cuda_on_cpu import operators
from ops.implementations import IMPLEMENTATIONS, dispatched, served_by, with_threads

SIZE = (23, 31)
compiled_only = pytest.mark.skipif(not COMPILED, reason="the operators are not compiled")


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request):
    return request.param


@pytest.fixture
def cover(implementation, monkeypatch):
    return served_by(implementation, cover_cells, runs_module, monkeypatch)


@pytest.fixture
def sample(implementation, monkeypatch):
    return served_by(implementation, sample_runs, runs_module, monkeypatch)


def runs_of(bitmaps):
    """Column by column, pixel by pixel."""
    runs, offsets = [], [0]
    for bitmap in bitmaps.tolist():
        for x in range(len(bitmap[0])):
            column = [0, *(row[x] for row in bitmap), 0]
            changes = [y for y in range(len(column) - 1) if column[y] != column[y + 1]]
            runs += [(x, a, b) for a, b in zip(changes[::2], changes[1::2], strict=True)]
        offsets.append(len(runs))
    return torch.tensor(runs, dtype=torch.int32).reshape(-1, 3), torch.tensor(offsets)


def overlap(start, stop, cells, pixels):
    """The part of each cell between start and stop that each pixel covers: (cells, pixels)."""
    edges = torch.linspace(start, stop, cells + 1, dtype=torch.float64)
    p = torch.arange(pixels, dtype=torch.float64)
    lengths = torch.minimum(edges[1:, None], p + 1) - torch.maximum(edges[:-1, None], p)
    return lengths.clamp(min=0) * cells / (stop - start)


def cover_by_overlaps(bitmaps, index, boxes, size):
    """Exact, with a dense bitmap of every object."""
    return torch.stack(
        [
            overlap(y1, y2, size[0], SIZE[0]) @ bitmaps[g].double() @ overlap(x1, x2, size[1], SIZE[1]).T
            for g, (x1, y1, x2, y2) in zip(index.tolist(), boxes.tolist(), strict=True)
        ]
    )


@pytest.fixture
def bitmaps():
    torch.manual_seed(0)
    smooth = F.interpolate(torch.rand(6, 1, 5, 5), size=SIZE, mode="bicubic")[:, 0] > 0.5
    noise = torch.rand(2, *SIZE) > 0.5
    return torch.cat([smooth, noise, torch.zeros(1, *SIZE), torch.ones(1, *SIZE)]).bool()


@pytest.mark.parametrize("implementation", ["compiled", "reference"], indirect=True)
def test_runs_of_counts(implementation, monkeypatch, bitmaps):
    convert = served_by(implementation, runs_of_counts, runs_module, monkeypatch)
    counts = [counts_of(bitmap) for bitmap in bitmaps]
    runs, offsets = convert(np.concatenate(counts), np.array([len(c) for c in counts]), SIZE)
    expected, expected_offsets = runs_of(bitmaps)
    assert torch.equal(runs, expected) and runs.dtype == torch.int32
    assert torch.equal(offsets, expected_offsets)
    empty = np.array([2, 3, 0, 1]), np.array([4])  # a run of none between two
    assert convert(*empty, (2, 3))[0].tolist() == [[1, 0, 2], [2, 0, 1], [2, 1, 2]]
    assert convert(np.array([0]), np.array([1]), (0, 7))[1].tolist() == [0, 0]
    for wrong in ([2, 3], [2, 5], [7, -1], [2**62, 2**62, 2**62, 2**62]):
        with pytest.raises(ValueError, match="^mask"):
            convert(np.array(wrong), np.array([len(wrong)]), (2, 3))


def counts_of(bitmap):
    """Pixel by pixel down the columns."""
    runs = [(value, len([*group])) for value, group in itertools.groupby(bitmap.T.flatten().tolist())]
    return ([0] if runs[0][0] else []) + [length for _, length in runs]


@pytest.mark.parametrize("size", [(7, 7), (28, 28), (5, 9)])
def test_coverage_is_exact(cover, bitmaps, size):
    index = torch.randint(len(bitmaps), (40,))
    corner = torch.rand(40, 2) * 30 - 5
    boxes = torch.cat([corner, corner + 0.2 + torch.rand(40, 2) * 40], dim=1)
    covered = cover(*runs_of(bitmaps), index, boxes, size)
    torch.testing.assert_close(covered, cover_by_overlaps(bitmaps, index, boxes, size), atol=1e-10, rtol=0)


def test_swapped_sides_mirror_the_grid(cover, bitmaps):
    index, box = torch.arange(10), torch.tensor([[3.3, 2.2, 20.1, 18.8]]).expand(10, 4)
    covered = cover(*runs_of(bitmaps), index, box, (6, 6))
    torch.testing.assert_close(cover(*runs_of(bitmaps), index, box[:, [2, 1, 0, 3]], (6, 6)), covered.flip(2))
    torch.testing.assert_close(cover(*runs_of(bitmaps), index, box[:, [0, 3, 2, 1]], (6, 6)), covered.flip(1))


@pytest.mark.parametrize(
    "box",
    [(5, 5, 5, 9), (5, 5, 5, 5), (40, 40, 50, 50), (-9, -9, 0, 0), (0, 0, math.inf, 5), (math.nan, 0, 5, 5)]
    + [(-3e38, 0, 3e38, 5), (1e30, 1e30, 2e30, 2e30)],
    ids=["no width", "a point", "beyond the end", "before the start", "infinite", "nan", "too wide", "far away"],
)
def test_boxes_with_nothing_in_them(cover, bitmaps, box):
    boxes = torch.tensor([box, (0, 0, 9, 9)], dtype=torch.float32)
    covered = cover(*runs_of(bitmaps), torch.tensor([9, 9]), boxes, (3, 3))
    assert (covered[0] == 0).all()
    torch.testing.assert_close(covered[1], torch.ones_like(covered[1]))


def test_samples_are_grid_sample(sample, bitmaps):
    index = torch.randint(len(bitmaps), (12,))
    points = torch.rand(12, 50, 2) * torch.tensor([37.0, 29.0]) - 3  # beyond the image on every side
    grid = points / torch.tensor([31.0, 23.0]) * 2 - 1
    expected = F.grid_sample(bitmaps[index][:, None].float(), grid[:, None], align_corners=False)[:, 0, 0]
    torch.testing.assert_close(sample(*runs_of(bitmaps), index, points, SIZE), expected, atol=1e-4, rtol=0)


def test_samples_far_away_are_zero(sample, bitmaps):
    points = torch.tensor([[[1e30, 5], [-1e30, 5], [5, math.inf], [math.nan, 5], [5, 5]]])
    sampled = sample(*runs_of(bitmaps), torch.tensor([9]), points, SIZE)
    assert sampled.tolist() == [[0, 0, 0, 0, 1]]


def test_nothing(cover, sample):
    none = torch.zeros(0, dtype=torch.int64)
    empty = runs_of(torch.zeros(0, *SIZE))
    assert cover(*empty, none, torch.zeros(0, 4), (28, 28)).shape == (0, 28, 28)
    assert sample(*empty, none, torch.zeros(0, 5, 2), SIZE).shape == (0, 5)
    blank = runs_of(torch.zeros(1, *SIZE))
    assert (cover(*blank, torch.tensor([0]), torch.tensor([[0.0, 0, 9, 9]]), (4, 4)) == 0).all()
    assert (sample(*blank, torch.tensor([0]), torch.rand(1, 5, 2), SIZE) == 0).all()


def test_huge_and_tiny_boxes(cover):
    boxes = [[-1e30, -1e30, 1e30, 1e30], [5, 5, 5 + 1e-12, 5 + 1e-12], [0, 3, 5e-324, 9]]
    index, boxes = torch.zeros(3, dtype=torch.int64), torch.tensor(boxes, dtype=torch.float64)
    covered = cover(*runs_of(torch.ones(1, *SIZE)), index, boxes, (2, 2))
    assert covered[0].max() < 1e-20
    torch.testing.assert_close(covered[1], torch.ones(2, 2, dtype=torch.float64))
    assert covered.isfinite().all()


def test_none_has_a_gradient(cover, sample, bitmaps):
    index = torch.tensor([1])
    boxes = torch.tensor([[3.3, 2.2, 20.1, 18.8]], requires_grad=True)
    points = torch.rand(1, 5, 2, requires_grad=True)
    assert not cover(*runs_of(bitmaps), index, boxes, (6, 6)).requires_grad
    assert not sample(*runs_of(bitmaps), index, points, SIZE).requires_grad


def test_samples_in_float64(sample, bitmaps):
    index = torch.randint(len(bitmaps), (12,))
    points = torch.rand(12, 50, 2, dtype=torch.float64) * torch.tensor([37.0, 29.0]) - 3
    grid = points / torch.tensor([31.0, 23.0]) * 2 - 1
    expected = F.grid_sample(bitmaps[index][:, None].double(), grid[:, None], align_corners=False)[:, 0, 0]
    torch.testing.assert_close(sample(*runs_of(bitmaps), index, points, SIZE), expected.float(), atol=1e-6, rtol=0)


def test_the_number_of_threads_changes_nothing(bitmaps):
    index = torch.randint(len(bitmaps), (50,))
    boxes = torch.rand(50, 4) * 10 + torch.tensor([0, 0, 10, 10])
    points = torch.rand(50, 30, 2) * 20
    for work in (
        lambda: cover_cells(*runs_of(bitmaps), index, boxes, (28, 28)),
        lambda: sample_runs(*runs_of(bitmaps), index, points, SIZE),
    ):
        first, *others = with_threads(work)
        assert first.any() and all(torch.equal(first, other) for other in others)


@compiled_only
def test_no_loop_over_rois(bitmaps):
    packed, boxes = runs_of(bitmaps), torch.tensor([[0.0, 0, 9, 9]])

    def count(rois):
        index = torch.ones(rois, dtype=torch.int64)
        return dispatched(lambda: cover_cells(*packed, index, boxes.expand(rois, 4), (7, 7)))

    assert count(1) == count(500) < 10


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("runs", {"runs": torch.zeros(4, 2, dtype=torch.int32)}),
        ("runs", {"runs": torch.zeros(4, 3)}),
        ("offsets", {"offsets": torch.zeros(2)}),
        ("offsets", {"offsets": torch.tensor([0, 2, 9])}),
        ("offsets", {"offsets": torch.tensor([0, 3, 2])}),
        ("index", {"index": torch.tensor([0, 2])}),
        ("index", {"index": torch.tensor([-1, 0])}),
        ("boxes", {"boxes": torch.zeros(3, 4)}),
        ("boxes", {"boxes": torch.zeros(2, 4, dtype=torch.float16)}),
        ("boxes", {"boxes": torch.zeros(2, 4, device="meta")}),
        ("size", {"size": (0, 4)}),
    ],
)
@pytest.mark.parametrize("implementation", ["compiled", "reference"], indirect=True)
def test_errors_name_the_argument(cover, argument, changes):
    runs = torch.tensor([[0, 0, 5], [1, 0, 5], [2, 0, 5], [0, 2, 9]], dtype=torch.int32)
    good = {"runs": runs, "offsets": torch.tensor([0, 3, 4]), "index": torch.tensor([0, 1])}
    good |= {"boxes": torch.tensor([[0.0, 0, 9, 9]]).expand(2, 4), "size": (3, 3)}
    assert cover(**good).any()
    wrong = good | changes
    with pytest.raises(ValueError, match=f"^{argument}: "):
        cover(**wrong)
    if COMPILED and wrong["boxes"].device.type == "cpu":  # whoever calls the operator itself
        *arguments, boxes, size = wrong.values()
        with pytest.raises(ValueError, match=f"^{argument}: "):
            torch.ops.maskrcnn.cover_cells(*arguments, boxes if boxes.dtype == torch.float16 else boxes.double(), *size)


@compiled_only
@pytest.mark.parametrize("index", [-1, 10, 2**62])
def test_on_cuda_an_object_that_is_not_there_is_empty(bitmaps, index):
    """Looking at the index would wait for the device."""
    boxes = torch.tensor([[0.0, 0, 9, 9]], dtype=torch.float64).expand(2, 4)
    both = torch.tensor([index, 9])
    covered = operators().cover_cells(*runs_of(bitmaps), both, boxes, 3, 3)
    assert covered.flatten(1).any(dim=1).tolist() == [False, True]
    points = torch.full((2, 1, 2), 5.0)
    assert operators().sample_runs(*runs_of(bitmaps), both, points, *SIZE).tolist() == [[0], [1]]
    runs, offsets = runs_of(bitmaps)
    assert not operators().cover_cells(runs, offsets + len(runs), both, boxes, 3, 3).any()  # nor beyond the runs


@compiled_only
def test_opcheck(bitmaps):
    packed, index = runs_of(bitmaps), torch.tensor([0, 3, 1])
    boxes = torch.tensor([[0.0, 0, 9, 9]], dtype=torch.float64).repeat(3, 1)
    points = torch.rand(3, 4, 2)
    counts = torch.tensor([2, 3, 1, 0, 6])
    torch.library.opcheck(torch.ops.maskrcnn.runs_of_counts.default, (counts, torch.tensor([3, 2]), 2, 3))
    for rows in (3, 0):
        torch.library.opcheck(torch.ops.maskrcnn.cover_cells.default, (*packed, index[:rows], boxes[:rows], 5, 4))
        torch.library.opcheck(torch.ops.maskrcnn.sample_runs.default, (*packed, index[:rows], points[:rows], *SIZE))


@compiled_only
def test_in_a_compiled_training_step(bitmaps):
    packed, index = runs_of(bitmaps), torch.tensor([0, 3, 1, 1])
    boxes = torch.rand(4, 4) * 8 + torch.tensor([0, 0, 9, 9])

    def work(index, boxes):
        points = boxes[:, None, :2] + torch.linspace(0, 9, 5)[:, None]
        return (cover_cells(*packed, index, boxes, (7, 7)) >= 0.5).float(), sample_runs(*packed, index, points, SIZE)

    compiled = torch.compile(work, backend="aot_eager", fullgraph=True, dynamic=True)
    for rows in (4, 3):
        for ours, expected in zip(compiled(index[:rows], boxes[:rows]), work(index[:rows], boxes[:rows]), strict=True):
            torch.testing.assert_close(ours, expected)
