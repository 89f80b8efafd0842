"""Many arrays in one block of shared memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

ALIGNMENT = 64  # bytes: a cache line


class SharedArrays:
    """Copies of arrays in one block of memory that processes share, whether they are forked or spawned.

    One block costs one file descriptor. A tensor for each array would cost as many, and a few batches of annotated
    images would reach the usual limit of 1024 open files. Iterating gives views, which keep the block alive.
    """

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        """Raises RuntimeError when there is not enough shared memory."""
        starts, end = [], 0
        for array in arrays:
            starts.append(end)
            end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        self._layout = [(a.shape, a.dtype, start) for a, start in zip(arrays, starts, strict=True)]
        # The memory of a tensor, because data loaders hand it to other processes without copying it.
        self._block = torch.empty(max(end, 1), dtype=torch.uint8).share_memory_()
        for view, array in zip(self, arrays, strict=True):
            view[...] = array

    def __len__(self) -> int:
        return len(self._layout)

    def __iter__(self) -> Iterator[np.ndarray]:
        block = self._block.numpy()
        return (np.ndarray(shape, dtype, block.data, start) for shape, dtype, start in self._layout)
