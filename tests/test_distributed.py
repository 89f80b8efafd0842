import tracemalloc

import pytest
import torch.multiprocessing as mp
from processes import in_processes

from maskrcnn.distributed import (
    all_gather_object,
    from_main,
    gather_bytes_to_main,
    is_main_process,
    rank,
    world_size,
)

forked = pytest.mark.skipif("fork" not in mp.get_all_start_methods(), reason="processes cannot be forked here")


def test_one_process_without_torchrun(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (rank(), world_size(), is_main_process()) == (0, 1, True)
    assert all_gather_object({"a": 1}) == [{"a": 1}]


def test_torchruns_variables_count_until_torch_is_initialised(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (rank(), world_size(), is_main_process()) == (3, 4, False)
    with pytest.raises(RuntimeError, match="WORLD_SIZE is 4"):
        all_gather_object(0)


@forked
def test_gather_between_two_processes():
    def everything(number):
        return rank(), world_size(), is_main_process(), all_gather_object(f"from {rank()}")

    expected = ["from 0", "from 1"]
    assert in_processes(2, everything) == [(0, 2, True, expected), (1, 2, False, expected)]


def gathered(number, at_once):
    """Of 3, 0 and 1 blocks of 10 bytes."""
    blocks = [bytes([rank()] * 10)] * (3, 0, 1)[rank()]
    return gather_bytes_to_main(blocks, at_once=at_once)


@forked
@pytest.mark.parametrize("at_once", [1, 10, 25, 2**20])
def test_blocks_reach_the_main_process_alone_in_the_order_of_the_ranks(at_once):
    expected = [b"\0" * 10] * 3 + [b"\2" * 10]
    assert in_processes(3, gathered, at_once) == [expected, [], []]


def growth_while_gathering(number, blocks):
    """MB that Python holds at the highest point; the main process has the blocks."""
    tracemalloc.start()
    mine = [bytes(2**20) for _ in range(blocks)] if is_main_process() else []
    assert len(gather_bytes_to_main(mine)) == len(mine)
    return tracemalloc.get_traced_memory()[1] / 2**20


@forked
def test_what_others_gather_costs_a_process_no_more_than_one_turn():
    main, other = in_processes(2, growth_while_gathering, 200)
    assert other < 50 and main > 150


def doubled(number, fails):
    def compute():
        if fails:
            raise ValueError("no")
        return 2 * rank() + 7

    try:
        return from_main(compute)
    except (ValueError, RuntimeError) as error:
        return repr(error)


@forked
def test_what_the_main_process_computes_everybody_gets():
    assert in_processes(2, doubled, False) == [7, 7]
    failure = "RuntimeError('the main process failed: ValueError: no')"
    assert in_processes(2, doubled, True) == ["ValueError('no')", failure]


def test_one_process_gathers_and_computes_by_itself():
    assert gather_bytes_to_main([b"a", b"bc"]) == [b"a", b"bc"]
    assert from_main(lambda: 5) == 5
