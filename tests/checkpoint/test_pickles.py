"""Pickles of arrays come back as tensors; one that names anything else is refused, and nothing of it is called."""

import builtins
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from maskrcnn.checkpoint import CheckpointError, load_checkpoint
from maskrcnn.checkpoint.pickles import RefusedError, read_pickle


class Call:
    """Unpickling it calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(2, 6))
def test_arrays_and_containers_come_back(tmp_path, protocol):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = {"model": OrderedDict(w=array, t=array.T, big=array.astype(">f4")), "n": np.float32(2), "x": [b"a", 1]}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content, protocol))
    loaded = load_checkpoint(tmp_path / "w.pkl")
    for name, expected in (("w", array), ("t", array.T), ("big", array)):
        assert torch.equal(loaded["model"][name], torch.from_numpy(expected.copy()))
    assert loaded["n"] == 2 and loaded["x"] == [b"a", 1]


def test_text_of_python_2_is_latin1(tmp_path):
    # {'blobs': {'w\xe9': 1}} as protocol 2 of Python 2 writes it, with byte strings
    (tmp_path / "w.pkl").write_bytes(b"\x80\x02}U\x05blobs}U\x02w\xe9K\x01ss.")
    assert load_checkpoint(tmp_path / "w.pkl") == {"blobs": {"wé": 1}}


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize(
    ("function", "argument"),
    [(os.system, "touch {}"), (builtins.eval, "open({!r}, 'w')"), (builtins.exec, "open({!r}, 'w')"), (open, "{}")],
    ids=["os.system", "eval", "exec", "open"],
)
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"model": [{"w": (x,)}]}], ids=["bare", "nested"])
def test_code_is_refused_by_name_and_not_run(tmp_path, protocol, function, argument, wrap):
    target = tmp_path / "ran"
    bomb = Call(function, argument.format(str(target)), *(["w"] if function is open else []))
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(wrap(bomb), protocol))
    with pytest.raises(CheckpointError, match=rf"w\.pkl holds the Python object \w+\.{function.__name__} .*was run"):
        load_checkpoint(tmp_path / "w.pkl")
    assert not target.exists()


def test_code_inside_an_array_of_objects_is_refused(tmp_path):
    target = tmp_path / "ran"
    array = np.array([Call(os.system, f"touch {target}")], dtype=object)
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"w": array}))
    with pytest.raises(CheckpointError, match="holds"):
        load_checkpoint(tmp_path / "w.pkl")
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"w": np.array([None, 1], dtype=object)}))
    with pytest.raises(CheckpointError, match="an array of Python objects"):
        load_checkpoint(tmp_path / "w.pkl")
    assert not target.exists()


def test_damage_is_told_and_never_anything_else(tmp_path):
    whole = pickle.dumps({"model": {"w": np.arange(50, dtype=np.float32), "n": np.int64(3)}}, 2)
    path, rng = tmp_path / "w.pkl", np.random.default_rng(0)
    for length in range(1, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load_checkpoint(path)
    for _ in range(300):
        data = bytearray(whole)
        data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(data)
        try:
            load_checkpoint(path)
        except CheckpointError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize("buffer", [b"\x01" * 8, b"\x00" * 8])
def test_bytes_are_not_taken_for_objects(tmp_path, buffer):
    """`np.ndarray` with a buffer and objects as its type reads pointers out of the file."""

    class Forged:
        def __reduce__(self):
            return np.ndarray, ((1,), "O", buffer)

    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": Forged()}))
    with pytest.raises((RefusedError, TypeError)):
        read_pickle(tmp_path / "w.pkl")
