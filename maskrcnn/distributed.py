"""Who this process is among those that run together: rank, world size, and gathering values from all of them.

The answers come from torch.distributed once it is initialised, before that from torchrun's variables RANK and
WORLD_SIZE, and without either there is one process. No other file reads these variables.
"""

from __future__ import annotations

import os
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def _initialised() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 to world_size() - 1."""
    return dist.get_rank() if _initialised() else int(os.environ.get("RANK", 0))


def world_size() -> int:
    """How many processes run together, at least 1."""
    return dist.get_world_size() if _initialised() else int(os.environ.get("WORLD_SIZE", 1))


def is_main_process() -> bool:
    """The one process that writes files and prints."""
    return rank() == 0


def all_gather_object(value: T) -> list[T]:
    """`value` of every process, in the order of the ranks, in every process. Values are pickled on the way.

    Raises:
        RuntimeError: torchrun started several processes, but torch.distributed is not initialised yet.
    """
    if world_size() == 1:
        return [value]
    if not _initialised():
        raise RuntimeError(
            f"WORLD_SIZE is {world_size()}, but torch.distributed is not initialised: nothing to gather with"
        )
    gathered: list[T] = [value] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean of each value over all processes, in every process; `values` itself where there is one."""
    if world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / world_size()
