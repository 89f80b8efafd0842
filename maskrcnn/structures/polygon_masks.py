"""Ground-truth masks as polygons, packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pycocotools.mask
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from maskrcnn.ops.polygons import crop_polygons, points_in_polygons
from maskrcnn.ops.ranges import expand_ranges
from maskrcnn.structures.rle import RLE


@dataclass(frozen=True, slots=True, eq=False)
class PolygonMasks:
    """G objects, each the union of its rings (COCO's parts). See `Masks` for the methods.

    points float32 (T, 2), x and y of all vertices; ring_offsets int64 (rings + 1,) into them; object_offsets int64
    (G + 1,) into the rings.
    """

    points: Tensor
    ring_offsets: Tensor
    object_offsets: Tensor

    @classmethod
    def from_polygons(cls, objects: Sequence[Sequence[ArrayLike]]) -> PolygonMasks:
        """From COCO's form, x1, y1, x2, y2, ... for each ring of each object.

        Raises:
            ValueError: a ring has fewer than three points, or an odd number of values.
        """
        rings = [np.asarray(ring, dtype=np.float32).reshape(-1) for parts in objects for ring in parts]
        num_rings = [len(parts) for parts in objects]
        for i, ring in enumerate(rings):
            if len(ring) < 6 or len(ring) % 2:
                owner = int(np.searchsorted(np.cumsum(num_rings), i, side="right"))
                raise ValueError(f"mask {owner}: a polygon of {len(ring)} values; it needs x, y of at least 3 points")
        points = np.concatenate([np.zeros(0, dtype=np.float32), *rings]).reshape(-1, 2)
        return cls(
            points=torch.from_numpy(points),
            ring_offsets=_offsets(torch.tensor([len(ring) // 2 for ring in rings], dtype=torch.int64)),
            object_offsets=_offsets(torch.tensor(num_rings, dtype=torch.int64)),
        )

    def __len__(self) -> int:
        return len(self.object_offsets) - 1

    def __getitem__(self, index: int | slice | Tensor) -> PolygonMasks:
        objects = torch.arange(len(self), device=self.points.device)[index].reshape(-1)
        num_rings, num_points = self.object_offsets.diff(), self.ring_offsets.diff()
        _, rings = expand_ranges(self.object_offsets[objects], num_rings[objects])
        _, vertices = expand_ranges(self.ring_offsets[rings], num_points[rings])
        return PolygonMasks(self.points[vertices], _offsets(num_points[rings]), _offsets(num_rings[objects]))

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> PolygonMasks:
        packed = (self.points, self.ring_offsets, self.object_offsets)
        return PolygonMasks(*(t.to(device, non_blocking=non_blocking) for t in packed))

    def hflip(self, width: float) -> PolygonMasks:
        x, y = self.points.unbind(1)
        return replace(self, points=torch.stack([width - x, y], dim=1))

    def resize(self, scale_y: float, scale_x: float) -> PolygonMasks:
        return replace(self, points=self.points * self.points.new_tensor([scale_x, scale_y]))

    def crop(self, index: Tensor, boxes: Tensor, size: int) -> Tensor:
        """Cells whose centre is inside the object."""
        return crop_polygons(self.points, self.ring_offsets, self.object_offsets, index, boxes, size).float()

    def sample(self, index: Tensor, points: Tensor) -> Tensor:
        return points_in_polygons(self.points, self.ring_offsets, self.object_offsets, index, points).float()

    def to_rle(self, size: tuple[int, int]) -> list[RLE]:
        """By COCO's own rasteriser, as its evaluation sees polygons."""
        rings = [ring.flatten().tolist() for ring in torch.split(self.points.cpu(), self.ring_offsets.diff().tolist())]
        stops = self.object_offsets.tolist()
        return [_rasterise(rings[a:b], size) for a, b in pairwise(stops)]


def _rasterise(rings: list[list[float]], size: tuple[int, int]) -> RLE:
    """One object's rings as compressed RLE with text counts; no ring is an empty mask."""
    rle = pycocotools.mask.merge(pycocotools.mask.frPyObjects(rings, *size)) if rings else _empty(size)
    return {"size": [*size], "counts": rle["counts"].decode("ascii")}


def _empty(size: tuple[int, int]) -> dict[str, bytes]:
    empty: dict[str, bytes] = pycocotools.mask.encode(np.zeros(size, dtype=np.uint8, order="F"))
    return empty


def _offsets(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
