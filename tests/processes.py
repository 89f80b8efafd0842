"""The same function in several processes that torch.distributed connects."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def in_processes(count: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """`function(rank, *args)` in `count` forked processes with gloo between them; the results, by rank.

    What a function returns goes through a file, so tensors and plain values may be in it.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(
            _one_process, (count, Path(folder), function, args), nprocs=count, start_method="fork"
        )  # spawned ones would import torch anew, for seconds
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(count)]


def _one_process(rank: int, count: int, folder: Path, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)  # a fork has the parent's thread pool without its threads
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=count)
    torch.save(function(rank, *args), folder / f"{rank}.pt")
    dist.destroy_process_group()
