"""Bitmaps -> polygons along the edges of their pixels."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt


def outlines(bitmap: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.int32]]:
    """The polygons of a bitmap, from which COCO's rasteriser makes the very same bitmap again.

    COCO's polygons know no holes. Here the outline walks into each hole and back on one line: what even-odd filling
    crosses twice is outside, and the line has no area.

    Args:
        bitmap: bool (H, W).

    Returns:
        For each part int32 (n, 2), x and y of its corners; pixel (i, j) covers [j, j+1) x [i, i+1).
    """
    doubled = bitmap.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    rings, tree = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    # OpenCV names the object's outermost pixels. In twice the size these are two for each pixel: the even one is at
    # the pixel's own corner, the odd one at the next pixel's, also around holes.
    corners = [_without_repeats((ring[:, 0].astype(np.int32) + 1) // 2) for ring in rings]
    parts = {i: corners[i] for i in range(len(rings)) if tree[0, i, 3] < 0}
    for i, ring in enumerate(corners):
        if (parent := tree[0, i, 3]) >= 0:
            parts[parent] = _joined(parts[parent], ring)
    return list(parts.values())


def _without_repeats(ring: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    changes: npt.NDArray[np.bool_] = (ring != np.roll(ring, 1, axis=0)).any(axis=1)
    return ring[changes]


def _joined(ring: npt.NDArray[np.int32], hole: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """One ring that leaves for the hole where it comes nearest to the hole's first corner, and returns there."""
    gate = int(np.abs(ring - hole[0]).sum(axis=1).argmin())
    return np.concatenate([ring[: gate + 1], hole, hole[:1], ring[gate:]])
