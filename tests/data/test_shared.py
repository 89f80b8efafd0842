"""One block of shared memory for many arrays."""

from __future__ import annotations

import pickle

import numpy as np
import torch

from maskrcnn.data.shared import SharedArrays


def test_gives_back_what_it_was_given():
    arrays = [
        np.arange(5, dtype=np.uint8),
        np.zeros((0, 4), np.float32),
        np.arange(12, dtype=np.float64).reshape(3, 4).T,
        np.array([True, False]),
    ]
    shared = SharedArrays(arrays)
    assert len(shared) == 4
    for view, array in zip(shared, arrays, strict=True):
        assert view.dtype == array.dtype
        np.testing.assert_array_equal(view, array)
        assert view.ctypes.data % 64 == 0 or not view.size


def test_nothing_to_share():
    assert list(SharedArrays([])) == []


def test_processes_see_the_same_memory():
    shared = SharedArrays([np.arange(4, dtype=np.uint8), np.ones(3, np.uint8)])
    # A spawned process can import nothing from a test file, so its job is a function of torch's.
    process = torch.multiprocessing.get_context("spawn").Process(target=torch.Tensor.fill_, args=(shared._block, 7))
    process.start()
    process.join()
    assert process.exitcode == 0
    for view in shared:
        assert (view == 7).all()


def test_arrives_in_another_process_as_one_file_descriptor():
    shared = SharedArrays([np.arange(4), np.ones(3)])
    copy = pickle.loads(pickle.dumps(shared))
    for view, other in zip(shared, copy, strict=True):
        np.testing.assert_array_equal(view, other)
    tensors = [value for value in vars(shared).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 1
    assert tensors[0].is_shared()
