import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from maskrcnn.distributed import all_gather_object, is_main_process, rank, world_size


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


def gather_in_process(number, store, results):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=2)
    results.put((rank(), world_size(), is_main_process(), all_gather_object(f"from {number}")))
    dist.destroy_process_group()


@pytest.mark.skipif("fork" not in mp.get_all_start_methods(), reason="processes cannot be forked here")
def test_gather_between_two_processes(tmp_path):
    results = mp.get_context("fork").SimpleQueue()  # spawned ones would import torch anew, for seconds
    mp.start_processes(gather_in_process, (tmp_path / "store", results), nprocs=2, start_method="fork")
    expected = ["from 0", "from 1"]
    assert sorted(results.get() for _ in range(2)) == [(0, 2, True, expected), (1, 2, False, expected)]
