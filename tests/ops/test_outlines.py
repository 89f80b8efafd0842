"""Outlines, filled again by COCO's own rasteriser."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from maskrcnn.ops.outlines import outlines


def filled(rings: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    encoded = coco_mask.frPyObjects([ring.astype(float).flatten().tolist() for ring in rings], *size)
    return coco_mask.decode(coco_mask.merge(encoded)).astype(bool)


def test_a_rectangle() -> None:
    bitmap = np.zeros((6, 9), bool)
    bitmap[1:4, 2:7] = True
    (ring,) = outlines(bitmap)
    assert {tuple(corner) for corner in ring.tolist()} == {(2, 1), (7, 1), (7, 4), (2, 4)} and len(ring) == 4


@pytest.mark.parametrize("density", [0.1, 0.3, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("size", [(1, 1), (1, 12), (9, 1), (12, 17), (40, 33)])
def test_the_rasteriser_gives_the_bitmap_back(size: tuple[int, int], density: float) -> None:
    """Single pixels, diagonal neighbours, holes, islands in holes, several holes in a part."""
    rng = np.random.default_rng(round(100 * density))
    for _ in range(10):
        bitmap = rng.random(size) < density
        if bitmap.any():
            np.testing.assert_array_equal(filled(outlines(bitmap), size), bitmap)


def test_holes_stay_inside_their_part() -> None:
    y, x = np.mgrid[:60, :80]
    disc = (x - 40) ** 2 + (y - 30) ** 2 < 28**2
    holes = ((x - 30) ** 2 + (y - 30) ** 2 < 25) | ((x - 52) ** 2 + (y - 24) ** 2 < 49)
    rings = outlines(disc & ~holes)
    assert len(rings) == 1
    np.testing.assert_array_equal(filled(rings, disc.shape), disc & ~holes)


def test_nothing() -> None:
    assert outlines(np.zeros((5, 5), bool)) == [] and outlines(np.zeros((0, 0), bool)) == []
