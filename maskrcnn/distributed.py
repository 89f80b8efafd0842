"""Who this process is among those that run together: rank, world size, and gathering values from all of them.

The answers come from torch.distributed once it is initialised, before that from torchrun's variables RANK and
WORLD_SIZE, and without either there is one process. No other file reads these variables.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch.distributed as dist

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


def gather_bytes_to_main(blocks: Sequence[bytes], *, at_once: int = 2**22) -> list[bytes]:
    """The blocks of every process, in the order of the ranks, in the main process; in the others none.

    They travel in turns of about `at_once` bytes of each process (a larger block has a turn of its own), which is what
    it takes of memory beside the blocks themselves: on the GPU, where the processes talk over NCCL.

    Raises:
        RuntimeError: as `all_gather_object`.
    """
    if world_size() == 1:
        return list(blocks)
    turns = _turns(blocks, at_once)
    by_rank: list[list[bytes]] = [[] for _ in range(world_size())]
    for i in range(max(all_gather_object(len(turns)))):
        received: list[list[bytes]] | None = [[]] * world_size() if is_main_process() else None
        dist.gather_object(turns[i] if i < len(turns) else [], received, dst=0)
        for gathered, turn in zip(by_rank, received or (), strict=False):
            gathered += turn
    return [block for gathered in by_rank for block in gathered]


def _turns(blocks: Sequence[bytes], at_once: int) -> list[list[bytes]]:
    turns: list[list[bytes]] = []
    room = 0
    for block in blocks:
        if len(block) > room:
            turns.append([])
            room = at_once
        turns[-1].append(block)
        room -= len(block)
    return turns


def from_main(compute: Callable[[], T]) -> T:
    """What `compute` returns in the main process, in every process; the others do not call it, but wait.

    Raises:
        RuntimeError: it failed there, where its own exception is raised.
    """
    if world_size() == 1:
        return compute()
    if not is_main_process():
        outcome: Any = all_gather_object(None)[0]
        received: T = outcome[0]
        if failure := outcome[1]:
            raise RuntimeError(f"the main process failed: {failure}")
        return received
    try:
        value = compute()
    except Exception as error:
        all_gather_object((None, f"{type(error).__name__}: {error}"))  # or the others would wait until a time-out
        raise
    all_gather_object((value, ""))
    return value
