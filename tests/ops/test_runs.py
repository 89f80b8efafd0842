import math

import pytest
import torch
import torch.nn.functional as F

from maskrcnn.ops.runs import cover_cells, sample_runs

SIZE = (23, 31)


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


@pytest.mark.parametrize("size", [(7, 7), (28, 28), (5, 9)])
def test_coverage_is_exact(bitmaps, size):
    index = torch.randint(len(bitmaps), (40,))
    corner = torch.rand(40, 2) * 30 - 5
    boxes = torch.cat([corner, corner + 0.2 + torch.rand(40, 2) * 40], dim=1)
    covered = cover_cells(*runs_of(bitmaps), index, boxes, size)
    torch.testing.assert_close(covered, cover_by_overlaps(bitmaps, index, boxes, size), atol=1e-10, rtol=0)


def test_swapped_sides_mirror_the_grid(bitmaps):
    index, box = torch.arange(10), torch.tensor([[3.3, 2.2, 20.1, 18.8]]).expand(10, 4)
    covered = cover_cells(*runs_of(bitmaps), index, box, (6, 6))
    torch.testing.assert_close(cover_cells(*runs_of(bitmaps), index, box[:, [2, 1, 0, 3]], (6, 6)), covered.flip(2))
    torch.testing.assert_close(cover_cells(*runs_of(bitmaps), index, box[:, [0, 3, 2, 1]], (6, 6)), covered.flip(1))


@pytest.mark.parametrize(
    "box",
    [(5, 5, 5, 9), (5, 5, 5, 5), (40, 40, 50, 50), (-9, -9, 0, 0), (0, 0, math.inf, 5), (math.nan, 0, 5, 5)],
    ids=["no width", "a point", "beyond the end", "before the start", "infinite", "nan"],
)
def test_boxes_with_nothing_in_them(bitmaps, box):
    boxes = torch.tensor([box, (0, 0, 9, 9)], dtype=torch.float32)
    covered = cover_cells(*runs_of(bitmaps), torch.tensor([9, 9]), boxes, (3, 3))
    assert (covered[0] == 0).all()
    torch.testing.assert_close(covered[1], torch.ones_like(covered[1]))


def test_samples_are_grid_sample(bitmaps):
    index = torch.randint(len(bitmaps), (12,))
    points = torch.rand(12, 50, 2) * torch.tensor([37.0, 29.0]) - 3  # beyond the image on every side
    grid = points / torch.tensor([31.0, 23.0]) * 2 - 1
    expected = F.grid_sample(bitmaps[index][:, None].float(), grid[:, None], align_corners=False)[:, 0, 0]
    torch.testing.assert_close(sample_runs(*runs_of(bitmaps), index, points, SIZE), expected, atol=1e-4, rtol=0)


def test_samples_far_away_are_zero(bitmaps):
    points = torch.tensor([[[1e30, 5], [-1e30, 5], [5, math.inf], [math.nan, 5], [5, 5]]])
    sampled = sample_runs(*runs_of(bitmaps), torch.tensor([9]), points, SIZE)
    assert sampled.tolist() == [[0, 0, 0, 0, 1]]


def test_nothing():
    none = torch.zeros(0, dtype=torch.int64)
    empty = runs_of(torch.zeros(0, *SIZE))
    assert cover_cells(*empty, none, torch.zeros(0, 4), (28, 28)).shape == (0, 28, 28)
    assert sample_runs(*empty, none, torch.zeros(0, 5, 2), SIZE).shape == (0, 5)
    blank = runs_of(torch.zeros(1, *SIZE))
    assert (cover_cells(*blank, torch.tensor([0]), torch.tensor([[0.0, 0, 9, 9]]), (4, 4)) == 0).all()
    assert (sample_runs(*blank, torch.tensor([0]), torch.rand(1, 5, 2), SIZE) == 0).all()
