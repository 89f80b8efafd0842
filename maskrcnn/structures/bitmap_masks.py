"""Ground-truth masks that are exact to the pixel: RLE and bitmaps, held as runs of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from maskrcnn.ops.ranges import expand_ranges
from maskrcnn.ops.rle import Ints, compress_counts, encode_windows
from maskrcnn.ops.runs import cover_cells, runs_of_counts, sample_runs
from maskrcnn.structures.rle import RLE, decode_counts

COVERED = 0.5 - 1e-6  # at least half of a cell, and a half is one whatever the rounding


@dataclass(frozen=True, slots=True, eq=False)
class BitmapMasks:
    """G objects as the runs of pixels of their source image. See `Masks` for the methods.

    Resizing and mirroring touch no pixel: they change the map from the frame to the source,
    x_source = scale_x * x + shift_x and y_source = scale_y * y.

    runs int32 (N, 3), column, top, bottom, sorted, as in `ops.runs`; offsets int64 (G + 1,) into them; source_size
    (H, W).
    """

    runs: Tensor
    offsets: Tensor
    source_size: tuple[int, int]
    scale_y: float = 1.0
    scale_x: float = 1.0
    shift_x: float = 0.0

    @classmethod
    def from_rle(cls, rles: Sequence[RLE]) -> BitmapMasks:
        """From COCO RLE, compressed (text or bytes) or lists of run lengths.

        Raises:
            ValueError: different sizes, text that is not RLE, runs that do not add up to the frame.
        """
        size = (int(rles[0]["size"][0]), int(rles[0]["size"][1])) if rles else (0, 0)
        return cls._from_counts(*decode_counts(rles), size)

    @classmethod
    def from_bitmaps(cls, bitmaps: Sequence[ArrayLike] | ArrayLike) -> BitmapMasks:
        """From bitmaps (G, H, W), nonzero inside."""
        dense = torch.from_numpy(np.asarray(bitmaps) != 0)
        if len(dense) == 0:
            return cls.from_rle([])
        size = (dense.shape[1], dense.shape[2])
        corners = torch.zeros(len(dense), 2, dtype=torch.int64)
        return cls._from_counts(*encode_windows(dense.mT, corners, size), size)

    @classmethod
    def _from_counts(cls, counts: Ints, lengths: Ints, size: tuple[int, int]) -> BitmapMasks:
        runs, offsets = runs_of_counts(counts, lengths, size)
        return cls(runs=runs, offsets=offsets, source_size=size)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int | slice | Tensor) -> BitmapMasks:
        objects = torch.arange(len(self), device=self.runs.device)[index].reshape(-1)
        num_runs = self.offsets.diff()[objects]
        _, kept = expand_ranges(self.offsets[objects], num_runs)
        return replace(self, runs=self.runs[kept], offsets=torch.cat([num_runs.new_zeros(1), num_runs.cumsum(0)]))

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> BitmapMasks:
        return replace(
            self,
            runs=self.runs.to(device, non_blocking=non_blocking),
            offsets=self.offsets.to(device, non_blocking=non_blocking),
        )

    def hflip(self, width: float) -> BitmapMasks:
        return replace(self, scale_x=-self.scale_x, shift_x=self.shift_x + self.scale_x * width)

    def resize(self, scale_y: float, scale_x: float) -> BitmapMasks:
        return replace(self, scale_y=self.scale_y / scale_y, scale_x=self.scale_x / scale_x)

    def crop(self, index: Tensor, boxes: Tensor, size: int) -> Tensor:
        """Cells of which the object covers at least half."""
        covered = cover_cells(self.runs, self.offsets, index, self._to_source(boxes), (size, size))
        return (covered >= COVERED).float()

    def sample(self, index: Tensor, points: Tensor) -> Tensor:
        """Bilinear between the centres of the source's pixels."""
        return sample_runs(self.runs, self.offsets, index, self._to_source(points), self.source_size)

    def to_rle(self, size: tuple[int, int]) -> list[RLE]:
        """The pixels of which the object covers at least half."""
        rles: list[RLE] = []
        for i in range(len(self)):  # one bitmap at a time, no larger than its object
            box = self._extent(i, size)
            x1, y1, x2, y2 = box.tolist()
            index = torch.tensor([i], device=self.runs.device)
            covered = cover_cells(self.runs, self.offsets, index, self._to_source(box[None]), (y2 - y1, x2 - x1))
            counts = encode_windows((covered >= COVERED).mT, box[None, :2], size)
            rles.append({"size": [*size], "counts": compress_counts(*counts)[0]})
        return rles

    def _extent(self, i: int, size: tuple[int, int]) -> Tensor:
        """int64 (4,), XYXY: the pixels of a frame of this size that object i touches; one pixel if it touches none."""
        runs = self[i].runs
        if len(runs) == 0:
            return self.offsets.new_tensor([0, 0, 1, 1])
        x = (torch.stack([runs[:, 0].amin(), runs[:, 0].amax() + 1]).double() - self.shift_x) / self.scale_x
        y = torch.stack([runs[:, 1].amin(), runs[:, 2].amax()]).double() / self.scale_y
        first = torch.stack([x.amin(), y.amin()]).floor()
        last = torch.stack([x.amax(), y.amax()]).ceil()
        frame = last.new_tensor([size[1], size[0]])
        first = first.clamp(min=0).minimum(frame - 1)
        return torch.cat([first, torch.maximum(last.minimum(frame), first + 1)]).long()

    def _to_source(self, coordinates: Tensor) -> Tensor:
        """x, y pairs of the frame (last dimension: x, y or x, y, x, y) in the frame of the runs, float64 but on MPS."""
        pairs = coordinates.shape[-1] // 2
        dtype = torch.float32 if coordinates.device.type == "mps" else torch.float64
        scale = torch.tensor([self.scale_x, self.scale_y] * pairs, dtype=dtype, device=coordinates.device)
        shift = torch.tensor([self.shift_x, 0.0] * pairs, dtype=dtype, device=coordinates.device)
        return coordinates * scale + shift
