"""Polygons to small grids, or to answers at points, in plain PyTorch.

A place is inside an object if it is inside one of its rings, and inside a ring if a line from it to the left crosses
the ring an odd number of times.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maskrcnn.ops.ranges import check_packed, expand_ranges

MEMORY_BUDGET = 256 * 2**20  # bytes of the largest temporary


def crop_polygons(
    points: Tensor, ring_offsets: Tensor, object_offsets: Tensor, index: Tensor, boxes: Tensor, size: int
) -> Tensor:
    """Which cells of a grid have their centre inside an object; arguments and result as in `ops.crop_polygons`."""
    num_rois = len(boxes)
    corner, extent = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    valid = (extent > 0).all(dim=1) & extent.isfinite().all(dim=1)
    ring_roi, edge_ring, start, end = _edges_of(points, ring_offsets, object_offsets, index, valid)

    # Grid coordinates: cell (i, j) covers [j, j + 1) x [i, i + 1).
    roi = ring_roi[edge_ring]
    scale = size / extent[roi]
    (xa, ya), (xb, yb) = (((p - corner[roi]) * scale).unbind(1) for p in (start, end))

    # An edge crosses the rows whose centre is in [min y, max y): half open, so that a vertex on a row counts once.
    first, last = (_cell_from(y, size) for y in (torch.minimum(ya, yb), torch.maximum(ya, yb)))
    edge, row = expand_ranges(first, last - first)
    x = xa[edge] + (row + 0.5 - ya[edge]) * ((xb - xa) / (yb - ya))[edge]
    column = _cell_from(x, size)  # the first that has the crossing on the left of its centre

    counts = torch.bincount(
        (edge_ring[edge] * size + row) * (size + 1) + column, minlength=len(ring_roi) * size * (size + 1)
    )
    inside_ring = counts.view(-1, size, size + 1)[..., :size].cumsum(dim=-1) % 2
    rings = torch.zeros(num_rois, size, size, dtype=torch.int64, device=boxes.device)
    return rings.index_add_(0, ring_roi, inside_ring) > 0


def points_in_polygons(
    points: Tensor,
    ring_offsets: Tensor,
    object_offsets: Tensor,
    index: Tensor,
    queries: Tensor,
    *,
    memory_budget: int = MEMORY_BUDGET,
) -> Tensor:
    """Whether points lie in an object; arguments and result as in `ops.points_in_polygons`.

    memory_budget: bytes of the largest temporary.
    """
    num_rows, num_queries = queries.shape[:2]
    every = torch.ones(num_rows, dtype=torch.bool, device=queries.device)
    ring_row, edge_ring, start, end = _edges_of(points, ring_offsets, object_offsets, index, every)
    crossings = torch.zeros(len(ring_row), num_queries, dtype=torch.int32, device=queries.device)
    step = max(1, memory_budget // (16 * max(num_queries, 1)))
    for ring, a, b in zip(*(torch.split(t, step) for t in (edge_ring, start, end)), strict=True):
        (xa, ya), (xb, yb) = (p[:, :, None].unbind(1) for p in (a, b))
        x, y = queries[ring_row[ring]].unbind(-1)
        crosses = ((ya <= y) != (yb <= y)) & (xa + (y - ya) * ((xb - xa) / (yb - ya)) <= x)
        crossings.index_add_(0, ring, crosses.int())
    rings = torch.zeros(num_rows, num_queries, dtype=torch.int32, device=queries.device)
    return rings.index_add_(0, ring_row, crossings % 2) > 0


def _cell_from(place: Tensor, size: int) -> Tensor:
    """int64: the first of `size` cells whose centre is at a place or behind it; 0 for NaN."""
    return (place - 0.5).ceil().nan_to_num(0.0).clamp(0, size).long()


def _edges_of(
    points: Tensor, ring_offsets: Tensor, object_offsets: Tensor, index: Tensor, wanted: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The edges of the object of each wanted row, one after the other.

    Returns:
        ring_row (K,), the row of each of the K rings met; edge_ring (E,), 0..K-1; start and end (E, 2) of each edge.
    """
    check_packed(
        index, ring_offsets=(ring_offsets, len(points)), object_offsets=(object_offsets, len(ring_offsets) - 1)
    )
    first_ring = object_offsets[index]
    ring_row, ring = expand_ranges(first_ring, (object_offsets[index + 1] - first_ring) * wanted)
    first_vertex, num_vertices = ring_offsets[ring], (ring_offsets[1:] - ring_offsets[:-1])[ring]
    edge_ring, vertex = expand_ranges(first_vertex, num_vertices)
    following = vertex + 1
    following -= (following == ring_offsets[ring + 1][edge_ring]) * num_vertices[edge_ring]  # the ring closes
    return ring_row, edge_ring, points[vertex], points[following]
