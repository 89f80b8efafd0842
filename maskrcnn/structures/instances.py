"""The typed rows that flow through a system: ground truth, proposals, RoI samples, candidates, detections.

One object per image. All of an object's tensors have one row per box, and all its boxes live in the frame of `size`,
the (height, width) of the image without padding. Nothing is changed in place: each method returns a new object.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar, cast

import torch
from torch import Tensor

from maskrcnn.ops.boxes import clip_boxes
from maskrcnn.ops.paste import masks_to_rle
from maskrcnn.structures.masks import Masks
from maskrcnn.structures.rle import RLE

# COCO's 17 points seen in a mirror: the nose stays, each left one changes places with its right one.
MIRRORED_KEYPOINTS = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
NUM_KEYPOINTS = len(MIRRORED_KEYPOINTS)
NOT_ROWS = ("size", "num_classes")  # fields that belong to the object as a whole


class Rows:
    """What the structures share: length, indexing, device, and the geometry of their frame."""

    __slots__ = ()
    boxes: Tensor
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: int | slice | Tensor) -> Self:
        """The rows of an index tensor, a bool tensor or a slice; an integer gives an object of one row."""
        rows = [index] if isinstance(index, int) else index
        return self._map(lambda _, values: values[rows])

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        return self._map(lambda _, values: values.to(device, non_blocking=non_blocking))

    def clip(self) -> Self:
        """Boxes cut to the frame; those outside it keep their row and have no area."""
        return self._replace(boxes=clip_boxes(self.boxes, self.size))

    def hflip(self) -> Self:
        """The mirror image: x becomes width - x, and COCO's left and right keypoints change places."""
        return self._map(lambda name, values: _hflip(name, values, self.size[1]))

    def resize(self, size: tuple[int, int]) -> Self:
        """The same rows in a frame of another size; masks that fill their boxes go along with them."""
        scale_y, scale_x = (new / old for new, old in zip(size, self.size, strict=True))
        return self._map(lambda name, values: _resize(name, values, scale_y, scale_x))._replace(size=size)

    def _map(self, change: Callable[[str, Any], Any]) -> Self:
        """A new object with `change(name, values)` for every row-aligned field that is set."""
        rows = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in NOT_ROWS}  # type: ignore[arg-type]
        return self._replace(**{name: change(name, values) for name, values in rows.items() if values is not None})

    def _replace(self, **changes: Any) -> Self:
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


@dataclass(frozen=True, slots=True, eq=False)
class Instances(Rows):
    """The ground-truth objects of an image.

    boxes float32 (G, 4); labels int64 (G,), 0..K-1; masks of G objects in the same frame, or None; keypoints float32
    (G, 17, 3): x, y and COCO's visibility (0 unlabelled, 1 hidden, 2 visible), or None.
    """

    boxes: Tensor
    labels: Tensor
    size: tuple[int, int]
    masks: Masks | None = None
    keypoints: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Proposals(Rows):
    """Where objects may be, without a class.

    boxes (P, 4); scores (P,). Segment proposals also have masks (P, m, m) and windows (P, 4): each mask fills its
    window, while the box is tight around the segment.
    """

    boxes: Tensor
    scores: Tensor
    size: tuple[int, int]
    masks: Tensor | None = None
    windows: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RoISamples(Rows):
    """The RoIs that the heads train on.

    boxes (R, 4); labels int64 (R,), `num_classes` meaning background; gt_index int64 (R,), the row of the matched
    object in the image's `Instances`, -1 for background.
    """

    boxes: Tensor
    labels: Tensor
    gt_index: Tensor
    size: tuple[int, int]
    num_classes: int

    def foreground(self) -> RoISamples:
        return self[self.labels < self.num_classes]


@dataclass(frozen=True, slots=True, eq=False)
class Candidates(Rows):
    """Scored boxes before any threshold: boxes (P, K or 1, 4); scores (P, K); masks (P, m, m) or None."""

    boxes: Tensor
    scores: Tensor
    size: tuple[int, int]
    masks: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Detections(Rows):
    """What a model found.

    boxes (D, 4); scores (D,); labels int64 (D,); masks float (D, m, m), probabilities that fill the box, or None;
    keypoints (D, 17, 3): x, y, score, or None. `ops.paste` turns the masks into pixels. Detections that were read from
    a file have `Masks` instead, which are exact to the pixel: a small soft mask cannot hold them.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    size: tuple[int, int]
    masks: Tensor | Masks | None = None
    keypoints: Tensor | None = None

    @classmethod
    def empty(cls, size: tuple[int, int], device: torch.device | str = "cpu") -> Detections:
        """No detections in a frame of this size."""
        return cls(
            boxes=torch.zeros(0, 4, device=device),
            scores=torch.zeros(0, device=device),
            labels=torch.zeros(0, dtype=torch.int64, device=device),
            size=size,
        )

    def to_rle(self, *, threshold: float = 0.5) -> list[RLE] | None:
        """The masks in the frame of `size`, or None without any; of soft ones the pixels of at least `threshold`."""
        if isinstance(self.masks, Tensor):
            return cast("list[RLE]", masks_to_rle(self.masks, self.boxes, self.size, threshold=threshold))
        return None if self.masks is None else self.masks.to_rle(self.size)


TensorRows = TypeVar("TensorRows", Proposals, RoISamples, Candidates, Detections)


def cat(parts: Sequence[TensorRows]) -> TensorRows:
    """The rows of several objects of one frame, in order; a field is None in all of them or in none."""
    first = parts[0]
    assert all(p.size == first.size for p in parts), f"rows of different frames: {[p.size for p in parts]}"
    return first._map(lambda name, _: torch.cat([getattr(p, name) for p in parts]))


def _hflip(name: str, values: Any, width: int) -> Any:
    match name:
        case "boxes" | "windows":
            x1, y1, x2, y2 = values.unbind(-1)
            return torch.stack([width - x2, y1, width - x1, y2], dim=-1)
        case "keypoints":
            x, y, visibility = values[:, MIRRORED_KEYPOINTS].unbind(-1)
            return torch.stack([width - x, y, visibility], dim=-1)
        case "masks":
            return values.flip(-1) if isinstance(values, Tensor) else values.hflip(width)
        case _:
            return values


def _resize(name: str, values: Any, scale_y: float, scale_x: float) -> Any:
    match name:
        case "boxes" | "windows":
            return values * values.new_tensor([scale_x, scale_y, scale_x, scale_y])
        case "keypoints":
            return values * values.new_tensor([scale_x, scale_y, 1.0])
        case "masks" if not isinstance(values, Tensor):
            return values.resize(scale_y, scale_x)
        case _:
            return values
