"""Processes that run together: who this one is, the group they form, and values gathered over all of them.

Who this is comes from torch.distributed once it is initialised, before that from torchrun's variables RANK and
WORLD_SIZE, and without either there is one process. No other file reads torchrun's variables.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

ARRIVAL_SECONDS = 300.0  # within which every process must have started: imports from a busy file server take minutes
ALL_REDUCE_SECONDS = 30.0  # within which the first all-reduce must be done
WAIT = timedelta(hours=2)  # for another process later on: the main one evaluates while the others wait for it


class GroupError(ValueError):
    """Processes that cannot work together; the message names the rank and the host at fault."""


def _initialised() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 to world_size() - 1."""
    return dist.get_rank() if _initialised() else int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """This process's number among those of its machine, by which it picks its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def local_world_size() -> int:
    """How many of the processes run on this machine, at least 1."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def world_size() -> int:
    """How many processes run together, at least 1."""
    return dist.get_world_size() if _initialised() else int(os.environ.get("WORLD_SIZE", 1))


def job() -> str:
    """What processes that torchrun starts in the place of dead ones have in common with those; "" without torchrun."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return name if name != "none" else f"{socket.gethostname()} {os.getppid()}"


def is_main_process() -> bool:
    """The one process that writes files and prints."""
    return rank() == 0


@contextmanager
def process_group(
    device: torch.device, *, arrival_seconds: float = ARRIVAL_SECONDS, all_reduce_seconds: float = ALL_REDUCE_SECONDS
) -> Iterator[bool]:
    """Within the context the processes that torchrun started form a group; one process alone needs none.

    They first prove that they can all reach each other, by an all-reduce with a short time limit: what cannot work
    ends there, with the name of who is at fault, instead of hanging for hours. Tensors on the CPU are exchanged by
    gloo, those on a GPU by NCCL.

    Yields:
        Whether torchrun started these processes in the place of ones that died.

    Raises:
        GroupError: some process did not arrive, or the all-reduce failed.
    """
    # torchrun's own count is that of this machine alone: where no process died, it stays 0
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    if world_size() == 1 or _initialised():
        yield restarted
        return
    me, world, limit = rank(), world_size(), timedelta(seconds=all_reduce_seconds)
    meeting = _connect(arrival_seconds)
    try:
        attempt, hosts = _meet(meeting, me, world, arrival_seconds)
    except dist.DistError as error:
        raise GroupError(f"rank {me}: the meeting point is gone; rank 0's output says why it ended") from error
    store = dist.PrefixStore(f"attempt/{attempt}", meeting)
    with _failures_named(store, "gloo", hosts, me, all_reduce_seconds):
        dist.init_process_group("gloo", store=dist.PrefixStore("try", store), rank=me, world_size=world, timeout=limit)
        try:
            _try_all_reduce(torch.device("cpu"), limit)
        finally:
            dist.destroy_process_group()
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.PrefixStore("run", store), rank=me, world_size=world, timeout=WAIT)
    try:
        if device.type == "cuda":
            with _failures_named(store, "NCCL", hosts, me, all_reduce_seconds):
                _try_all_reduce(device, limit)
        yield any(all_gather_object(restarted or attempt > 1))
    finally:
        dist.destroy_process_group()


def _connect(seconds: float) -> dist.Store:
    """The store in which processes leave words for each other: torchrun's own, else one that rank 0 keeps."""
    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "0")
    keeps = rank() == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        return dist.TCPStore(
            *(host, int(port), world_size(), keeps),
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except (dist.DistError, ValueError) as error:
        raise GroupError(
            f"rank {rank()} on {socket.gethostname()} cannot reach the meeting point {host}:{port} that torchrun gave "
            f"it ({_first_line(error)}); does a firewall stand between the machines, or does the name mean another one?"
        ) from error


def _meet(store: dist.Store, me: int, world: int, seconds: float) -> tuple[int, list[str]]:
    """The number of this attempt, from 1, and the host of every rank, once all have arrived.

    torchrun keeps its store when it starts processes again, so what is in there may come from ones that are dead: the
    main process begins a new attempt, and says who has come to it, each by a word that only a living one knows.
    """
    word = f"{socket.gethostname()} {uuid.uuid4()}"
    own, known = store.add("attempts", 1) if me == 0 else 0, -1
    deadline = time.monotonic() + seconds
    while True:  # a few requests each time, however many processes wait
        attempt = own or store.add("attempts", 0)
        if attempt != known:
            known = attempt
            store.set(f"{attempt}/word/{me}", word)
        if me == 0 and store.check([f"{attempt}/word/{r}" for r in range(world)]):
            words = [store.get(f"{attempt}/word/{r}").decode() for r in range(world)]
            store.set(f"{attempt}/all", "\n".join(words))
        if store.check([f"{attempt}/all"]):
            words = store.get(f"{attempt}/all").decode().split("\n")
            if len(words) == world and words[me] == word:
                return attempt, [each.split()[0] for each in words]
        if time.monotonic() > deadline:
            missing = [r for r in range(world) if not store.check([f"{attempt}/word/{r}"])]
            missing = missing or [0]  # who would have to say that all are there
            there = {r: store.get(f"{attempt}/word/{r}").decode().split()[0] for r in range(world) if r not in missing}
            raise GroupError(
                f"of {world} processes, rank {', '.join(map(str, missing))} did not arrive within {seconds:g} s; "
                f"arrived: {_with_hosts(there)}. Its own output says why it died, or that it never started"
            )
        time.sleep(0.05)


@contextmanager
def _failures_named(store: dist.Store, backend: str, hosts: list[str], me: int, seconds: float) -> Iterator[None]:
    """An error within says which ranks succeeded and which did not."""
    try:
        yield
        store.set(f"{backend}/{me}", "passed")
    except (RuntimeError, ValueError) as error:
        answers = _answers(store, backend, hosts, me)
        told = {"without an answer": b"", "failed": b"failed", "succeeded": b"passed"}
        raise GroupError(
            f"rank {me} on {hosts[me]}: the first all-reduce by {backend} did not succeed within {seconds:g} s "
            f"({_first_line(error)}); "
            + "; ".join(f"{words}: {_with_hosts(answers[answer])}" for words, answer in told.items())
            + ". Most often the machines reach each other by one network interface only: name it in "
            "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
        ) from error


def _answers(store: dist.Store, backend: str, hosts: list[str], me: int) -> dict[bytes, dict[int, str]]:
    """Ranks and hosts of whom the all-reduce succeeded, failed, or said nothing."""
    answers: dict[bytes, dict[int, str]] = {b"passed": {}, b"failed": {}, b"": {}}
    with suppress(dist.DistError):  # the store went with rank 0
        store.set(f"{backend}/{me}", "failed")
        time.sleep(2 if me else 4)  # for the others, which may succeed, or fail, a moment later, and then ask the store
        for r, host in enumerate(hosts):
            key = f"{backend}/{r}"
            answers[store.get(key) if store.check([key]) else b""][r] = host
    return answers


def _try_all_reduce(device: torch.device, limit: timedelta) -> None:
    ones = torch.ones(1, device=device)
    work = dist.all_reduce(ones, async_op=True)
    work.wait(limit)
    if int(ones) != world_size():
        raise RuntimeError(f"the sum over {world_size()} ones is {int(ones)}")


def _with_hosts(hosts: dict[int, str]) -> str:
    return ", ".join(f"rank {r} on {host}" for r, host in hosts.items()) or "none"


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


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
    """The mean of equally shaped tensors over all processes, in each of them."""
    if world_size() == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values / world_size()


def any_rank(flag: bool) -> Callable[[], bool]:
    """Asks all processes, without waiting for them: the function that is returned waits, and says if any said yes."""
    if world_size() == 1:
        return lambda: flag
    raised = torch.tensor([int(flag)])  # on the CPU: no device waits for it
    work = dist.all_reduce(raised, op=dist.ReduceOp.MAX, async_op=True)

    def answer() -> bool:
        work.wait()
        return bool(raised.item())

    return answer


def gather_bytes_to_main(blocks: Sequence[bytes], *, at_once: int = 2**22) -> list[bytes]:
    """The blocks of every process, in the order of the ranks, in the main process; in the others none.

    They travel in turns of about `at_once` bytes of each process (a larger block has a turn of its own), which is what
    it takes of memory beside the blocks themselves.

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
