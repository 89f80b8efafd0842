"""A function in several processes that form a group over gloo."""

from __future__ import annotations

import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def in_processes(count: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """What `function(rank, *args)` returns in each of `count` processes, by rank, or the error that it raised there.

    They are forked: starting takes no time.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = (count, Path(folder), function, args)
        mp.start_processes(_run, arguments, nprocs=count, start_method="fork")
        return [pickle.loads((Path(folder) / str(number)).read_bytes()) for number in range(count)]


def _run(number: int, count: int, folder: Path, function: Callable[..., Any], args: Any) -> None:
    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    os.environ.update(RANK=str(number), WORLD_SIZE=str(count), LOCAL_RANK=str(number))
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=number, world_size=count)
    try:
        result = function(number, *args)
    except Exception as error:
        traceback.print_exc()
        result = error
    (folder / str(number)).write_bytes(pickle.dumps(result))  # a file: a pipe that is full would have to be read
    dist.destroy_process_group()
