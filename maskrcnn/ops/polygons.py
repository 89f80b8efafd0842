"""Many polygons to many small grids, or to answers at points, in one call.

Polygons are packed: the vertices of all rings in one (T, 2) tensor, ring k being `points[ring_offsets[k] :
ring_offsets[k + 1]]`, and object g owning the rings `object_offsets[g]` to `object_offsets[g + 1]`. A place is inside
an object if it is inside one of its rings, and inside a ring if a line from it to the left crosses the ring an odd
number of times.

Targets have no gradient; arguments that want one are detached.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maskrcnn.ops import reference
from maskrcnn.ops.extension import COMPILED, devices

DEVICES = devices("crop_polygons")


def crop_polygons(
    points: Tensor, ring_offsets: Tensor, object_offsets: Tensor, index: Tensor, boxes: Tensor, size: int
) -> Tensor:
    """Which cells of a grid over each box have their centre inside an object.

    Args:
        points: float32 or float64 (T, 2), x and y of the vertices.
        ring_offsets: int64 (rings + 1,), into `points`.
        object_offsets: int64 (G + 1,), into the rings.
        index: int64 (R,), the object of each box; on CUDA, where looking at it would wait for the device, a number
            out of range gives an empty grid.
        boxes: float32 or float64 (R, 4), XYXY in the frame of `points`.
        size: cells per side, m.

    Returns:
        bool (R, m, m); all False for a box that has no area or is not finite.

    Raises:
        ValueError: shape, dtype, device, a size that is not positive, an offset or an index out of range.
    """
    points, boxes = _checked(points, ring_offsets, object_offsets, index, boxes, "boxes")
    if boxes.shape != (index.shape[0], 4):
        raise ValueError(f"boxes: shape {tuple(boxes.shape)}; expected ({index.shape[0]}, 4), a box per index")
    if size < 1:
        raise ValueError(f"size: {size}; expected a positive number")
    if boxes.device.type not in DEVICES:
        return reference.crop_polygons(points, ring_offsets, object_offsets, index, boxes, size)
    cells: Tensor = torch.ops.maskrcnn.crop_polygons(points, ring_offsets, object_offsets, index, boxes, size)
    return cells


def points_in_polygons(
    points: Tensor, ring_offsets: Tensor, object_offsets: Tensor, index: Tensor, queries: Tensor
) -> Tensor:
    """Whether points lie in an object.

    Args:
        points, ring_offsets, object_offsets: the polygons, as in `crop_polygons`.
        index: int64 (R,), the object that row r asks about.
        queries: float32 or float64 (R, P, 2), x and y in the frame of `points`.

    Returns:
        bool (R, P).

    Raises:
        ValueError: as `crop_polygons`.
    """
    points, queries = _checked(points, ring_offsets, object_offsets, index, queries, "queries")
    if queries.ndim != 3 or queries.shape[0] != index.shape[0] or queries.shape[2] != 2:
        raise ValueError(f"queries: shape {tuple(queries.shape)}; expected ({index.shape[0]}, P, 2), a row per index")
    if queries.device.type not in DEVICES:
        return reference.points_in_polygons(points, ring_offsets, object_offsets, index, queries)
    inside: Tensor = torch.ops.maskrcnn.points_in_polygons(points, ring_offsets, object_offsets, index, queries)
    return inside


def _checked(
    points: Tensor, ring_offsets: Tensor, object_offsets: Tensor, index: Tensor, places: Tensor, name: str
) -> tuple[Tensor, Tensor]:
    """Points and places without a gradient, in the wider of their dtypes."""
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points: shape {tuple(points.shape)}; expected (T, 2)")
    for argument, lists in (("ring_offsets", ring_offsets), ("object_offsets", object_offsets), ("index", index)):
        if lists.ndim != 1 or lists.dtype != torch.int64:
            raise ValueError(f"{argument}: {lists.dtype} of shape {tuple(lists.shape)}; expected int64, one dimension")
        if lists.device != points.device:
            raise ValueError(f"{argument}: on {lists.device}, but points are on {points.device}")
    for argument, coordinates in (("points", points), (name, places)):
        if coordinates.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{argument}: {coordinates.dtype}; expected float32 or float64")
    if places.device != points.device:
        raise ValueError(f"{name}: on {places.device}, but points are on {points.device}")
    dtype = torch.promote_types(points.dtype, places.dtype)
    return points.detach().to(dtype), places.detach().to(dtype)


def _fake_crop(
    points: Tensor, ring_offsets: Tensor, object_offsets: Tensor, index: Tensor, boxes: Tensor, size: int
) -> Tensor:
    return boxes.new_empty(index.shape[0], size, size, dtype=torch.bool)


def _fake_points(
    points: Tensor, ring_offsets: Tensor, object_offsets: Tensor, index: Tensor, queries: Tensor
) -> Tensor:
    return queries.new_empty(queries.shape[:2], dtype=torch.bool)


if COMPILED:  # an operator that does not exist takes no fake
    torch.library.register_fake("maskrcnn::crop_polygons", _fake_crop)
    torch.library.register_fake("maskrcnn::points_in_polygons", _fake_points)
