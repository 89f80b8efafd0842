"""The proposals of a data set in memory: flat arrays that processes share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Self

import numpy as np

from maskrcnn.data.shared import SharedArrays


class StoredProposals:
    """Boxes and scores of N images; `stored[i]` gives those of image i, as views that cannot be written to.

    Args:
        boxes: float32 (P, 4), absolute XYXY in pixels of the files.
        scores: float32 (P,).
        rows: int64 (N, 2), the first row of each image's proposals and the one behind the last.
    """

    def __init__(self, boxes: np.ndarray, scores: np.ndarray, rows: np.ndarray) -> None:
        self._arrays: Iterable[np.ndarray] = (boxes, scores, rows)
        with suppress(RuntimeError):  # a container's /dev/shm may be small; forked workers share private memory as well
            self._arrays = SharedArrays((boxes, scores, rows))

    @classmethod
    def concatenate(cls, parts: Sequence[StoredProposals]) -> Self:
        """Of several data sets, one after the other."""
        boxes, scores, rows = zip(*(part._arrays for part in parts), strict=True)
        starts = np.cumsum([0, *map(len, boxes[:-1])])
        moved = [own + start for own, start in zip(rows, starts, strict=True)]
        return cls(np.concatenate(boxes), np.concatenate(scores), np.concatenate(moved))

    def __len__(self) -> int:
        _, _, rows = self._arrays
        return len(rows)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        boxes, scores, rows = self._arrays
        first, end = rows[i]
        views = boxes[first:end], scores[first:end]
        for view in views:
            view.flags.writeable = False
        return views
