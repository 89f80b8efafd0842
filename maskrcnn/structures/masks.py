"""What every kind of ground-truth masks offers, and which kind an image's annotations make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from maskrcnn.structures.bitmap_masks import BitmapMasks
from maskrcnn.structures.polygon_masks import PolygonMasks
from maskrcnn.structures.rle import RLE


class Masks(Protocol):
    """The masks of G objects in one frame. Nothing is changed in place. An integer index gives masks of one object."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int | slice | Tensor) -> Self: ...

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self: ...

    def hflip(self, width: float) -> Self:
        """The mirror image in a frame of this width."""
        ...

    def resize(self, scale_y: float, scale_x: float) -> Self: ...

    def crop(self, index: Tensor, boxes: Tensor, size: int) -> Tensor:
        """What a mask head should answer: the object `index[r]` inside `boxes[r]`, on a size x size grid.

        Args:
            index: int64 (R,), rows of these masks.
            boxes: float32 (R, 4), XYXY in the masks' frame; beyond its border there is nothing.

        Returns:
            float32 (R, size, size), 0 or 1; all 0 for a box that has no area or is not finite.
        """
        ...

    def sample(self, index: Tensor, points: Tensor) -> Tensor:
        """Whether points lie in an object: polygons answer 0 or 1, bitmaps interpolate between their pixels.

        Args:
            index: int64 (R,), rows of these masks.
            points: float32 (R, P, 2), x and y in the masks' frame.

        Returns:
            float32 (R, P), 0..1.
        """
        ...

    def to_rle(self, size: tuple[int, int]) -> list[RLE]:
        """Each object as COCO RLE in a frame of this size."""
        ...


def masks_of(segmentations: Sequence[Sequence[ArrayLike] | RLE], size: tuple[int, int]) -> PolygonMasks | BitmapMasks:
    """The masks of one image from COCO's `segmentation` entries.

    Args:
        segmentations: per object its polygons, x1, y1, x2, y2, ... each, or RLE.
        size: (h, w) of the image.

    Returns:
        `PolygonMasks` where all are polygons. Among RLE, polygons become pixels as COCO's evaluation draws them.

    Raises:
        ValueError: a polygon has fewer than three points; RLE is malformed or of another size than the image.
    """
    polygons = [(i, s) for i, s in enumerate(segmentations) if not isinstance(s, dict)]
    packed = PolygonMasks.from_polygons([s for _, s in polygons])
    if len(packed) == len(segmentations):
        return packed
    rles = dict(zip((i for i, _ in polygons), packed.to_rle(size), strict=True))
    masks = BitmapMasks.from_rle([s if isinstance(s, dict) else rles[i] for i, s in enumerate(segmentations)])
    if masks.source_size != tuple(size):
        raise ValueError(f"RLE of size {list(masks.source_size)} for an image of size {[*size]}")
    return masks
