"""Memory that runs out: which images did it, and what to lower."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch


class OutOfMemory(ValueError):
    """A batch did not fit into memory."""


@contextmanager
def naming_what_fills_the_memory(batch: Sequence[Any]) -> Iterator[None]:
    """Memory that runs out within names the images of the batch, their sizes, and what to lower.

    Raises:
        OutOfMemory: in the place of torch's or Python's error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        images = "; ".join(map(describe, batch))
        raise OutOfMemory(
            f"out of memory ({str(error).splitlines()[0] if str(error) else type(error).__name__}) on the images "
            f"{images}. What takes less memory: SOLVER.ACCUMULATE 2 (half the images at a time, the same step), a "
            "smaller INPUT.MIN_SIZE_TRAIN and MAX_SIZE_TRAIN, SOLVER.AMP bf16, SOLVER.GRADIENT_CHECKPOINTING true, or "
            "a smaller SOLVER.IMS_PER_BATCH"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """A GPU's allocator has an error class of its own, the CPU's only a message."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def describe(sample: Any) -> str:
    """`7 (1333x800 pixels, 93 objects)`."""
    height, width = sample.image.shape[-2:]
    objects = "" if sample.targets is None else f", {len(sample.targets)} objects"
    return f"{sample.image_id} ({width}x{height} pixels{objects})"
