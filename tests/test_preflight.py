"""Processes that cannot work together say so within seconds, and name who is at fault."""

import multiprocessing as mp
import os
import socket
import time

import pytest
import torch
import torch.distributed as dist

from maskrcnn.distributed import GroupError, all_gather_object, process_group, rank, world_size

pytestmark = pytest.mark.skipif("fork" not in mp.get_all_start_methods(), reason="processes cannot be forked here")

CPU = torch.device("cpu")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run_ranks(functions, *, world=None, port=None, store=None, restarts=0):
    """What each function returns in its own process, as torchrun would start it; by rank."""
    results = mp.get_context("fork").SimpleQueue()
    port = port or free_port()

    def one(number, function):
        torch.set_num_threads(1)
        os.environ.update(RANK=str(number), WORLD_SIZE=str(world or len(functions)), LOCAL_RANK=str(number))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RESTART_COUNT=str(restarts))
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = str(store is not None)
        try:
            results.put((number, function()))
        except Exception as error:
            results.put((number, str(error) if isinstance(error, GroupError) else repr(error)))

    processes = [mp.get_context("fork").Process(target=one, args=pair) for pair in enumerate(functions)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [result for _, result in sorted(results.get() for _ in functions)]


def work():
    with process_group(CPU, arrival_seconds=20, all_reduce_seconds=5) as restarted:
        return rank(), world_size(), all_gather_object(f"from {rank()}"), restarted


def hurried():
    with process_group(CPU, arrival_seconds=1, all_reduce_seconds=2):
        return "formed a group"


def test_a_group_forms():
    words = ["from 0", "from 1", "from 2"]
    assert run_ranks([work] * 3) == [(r, 3, words, False) for r in range(3)]


def test_a_process_alone_needs_none(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group(CPU) as restarted:
        assert not dist.is_initialized() and restarted is False
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    with process_group(CPU) as restarted:
        assert restarted is True


def test_a_process_that_does_not_come_is_named():
    host = socket.gethostname()
    (message,) = run_ranks([hurried], world=3)
    assert message.startswith("of 3 processes, rank 1, 2 did not arrive within 1 s; arrived: rank 0 on " + host)


def hangs():
    """Arrives, and then is stopped: a machine that swaps, a debugger, a driver that does not answer."""
    dist.init_process_group = lambda *args, **options: time.sleep(8)
    with process_group(CPU, arrival_seconds=20, all_reduce_seconds=2):
        pass


def test_a_process_that_does_not_answer_is_named():
    host = socket.gethostname()
    started = time.monotonic()
    first, second, _ = run_ranks([hurried_reduce, hurried_reduce, hangs])
    assert time.monotonic() - started < 30
    for number, message in enumerate((first, second)):
        assert message.startswith(f"rank {number} on {host}: the first all-reduce by gloo did not succeed within 2 s")
        assert f"without an answer: rank 2 on {host}" in message and "GLOO_SOCKET_IFNAME" in message


def hurried_reduce():
    with process_group(CPU, arrival_seconds=20, all_reduce_seconds=2):
        return "formed a group"


def test_a_meeting_point_that_is_not_there():
    message = run_ranks([lambda: "", hurried], port=free_port())[1]
    assert message.startswith(f"rank 1 on {socket.gethostname()} cannot reach the meeting point 127.0.0.1:")


def test_what_dead_processes_left_in_torchruns_store_is_not_believed():
    """The store outlives the processes; the count of restarts is that of one machine, and stays 0 on the others."""
    store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    words = ["from 0", "from 1"]
    for attempt in range(3):
        outcome = run_ranks([work] * 2, port=store.port, store=store)
        assert outcome == [(r, 2, words, attempt > 0) for r in range(2)]
