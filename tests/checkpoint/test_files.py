import os
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch

from maskrcnn.checkpoint import CheckpointError, load_checkpoint, read_weights, save_checkpoint
from maskrcnn.checkpoint.files import write_atomically


class Bomb:
    """What a malicious checkpoint holds: unpickling it runs a command."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_tensors_and_plain_values_come_back(tmp_path):
    content = {"model": {"w": torch.arange(6.0).view(2, 3)}, "names": ["a", "b"], "n": 3, "x": (1.5, None, True)}
    save_checkpoint(tmp_path / "c.pth", content)
    loaded = load_checkpoint(tmp_path / "c.pth")
    assert loaded["names"] == ["a", "b"] and loaded["n"] == 3 and loaded["x"] == (1.5, None, True)
    torch.testing.assert_close(loaded["model"]["w"], content["model"]["w"], rtol=0, atol=0)
    torch.load(tmp_path / "c.pth", weights_only=True)


def test_an_object_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match=r"checkpoint\['a'\]\[1\] is a \w+Path;"):
        save_checkpoint(tmp_path / "c.pth", {"a": [0, tmp_path]})
    assert not list(tmp_path.iterdir())


def test_a_failing_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "c.pth"
    save_checkpoint(path, {"n": 1})

    def full_disk(content, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, {"n": 2})
    monkeypatch.undo()
    assert load_checkpoint(path) == {"n": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("save", ["pickle", "torch", "torch legacy"])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, save):
    path, target = tmp_path / "bomb.pth", tmp_path / "ran"
    content = {"model": {"w": torch.zeros(1)}, "extra": Bomb(target)}
    if save == "pickle":
        path.write_bytes(pickle.dumps({"extra": Bomb(target)}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=save == "torch")
    with pytest.raises(CheckpointError, match=r"bomb\.pth holds .*Python object.*nothing in it was run") as caught:
        load_checkpoint(path)
    assert save == "pickle" or "system" in str(caught.value)
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "placeholder"),
        (b"hello, this is text and no weights at all", "is no PyTorch weights file"),
    ],
    ids=["empty", "html", "lfs pointer", "text"],
)
def test_a_file_that_is_no_checkpoint(tmp_path, content, message):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


def test_truncated(tmp_path):
    path = tmp_path / "w.pth"
    save_checkpoint(path, {"model": {"w": torch.zeros(1000)}})
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match=r"w\.pth is truncated, or no PyTorch weights file"):
        load_checkpoint(path)


def test_missing_names_the_closest_file(tmp_path):
    save_checkpoint(tmp_path / "model_final.pth", {"n": 1})
    with pytest.raises(CheckpointError, match=r"no weights file .*model_fnal\.pth \(did you mean model_final\.pth\?\)"):
        load_checkpoint(tmp_path / "model_fnal.pth")
    with pytest.raises(CheckpointError, match="no weights file"):
        load_checkpoint(tmp_path / "nowhere" / "model.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_checkpoint(tmp_path)


def test_not_a_dict(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        load_checkpoint(tmp_path / "list.pth")


def test_safetensors(tmp_path):
    path = tmp_path / "w.safetensors"
    tensors = {"w": torch.arange(4.0)}
    safetensors.torch.save_file(tensors, path)
    torch.testing.assert_close(load_checkpoint(path), tensors)
    safetensors.torch.save_file(tensors, path, metadata={"class_names": '["a"]', "category_ids": "[7]"})
    loaded = load_checkpoint(path)
    assert loaded["class_names"] == ["a"] and loaded["category_ids"] == [7]
    torch.testing.assert_close(loaded["model"], tensors)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CheckpointError, match="truncated, or no safetensors file"):
        load_checkpoint(path)


def test_what_torch_saves_is_read_whatever_its_name(tmp_path):
    torch.save({"n": 1}, tmp_path / "c.pkl")
    assert load_checkpoint(tmp_path / "c.pkl") == {"n": 1}


def test_a_pickle_of_arrays_needs_its_suffix(tmp_path):
    (tmp_path / "c.pth").write_bytes(pickle.dumps({"w": np.zeros(2)}))
    with pytest.raises(CheckpointError, match=r"c\.pth .*its name must end in \.pkl"):
        load_checkpoint(tmp_path / "c.pth")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"class_names": "[1,"}, "class_names in its metadata is no JSON"),
        ({"class_names": "5"}, "its class_names are 5; expected a list of str"),
        ({"class_names": '["a"]', "category_ids": '["b"]'}, r"its category_ids are \['b'\]; expected a list of int"),
        ({"class_names": '["a"]', "needs": "[1]"}, r"its needs are \[1\]; expected config keys"),
    ],
)
def test_metadata_that_are_wrong_name_the_file_and_the_field(tmp_path, metadata, message):
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors", metadata)
    with pytest.raises(CheckpointError, match=rf"w\.safetensors: {message}"):
        read_weights(str(tmp_path / "w.safetensors"))


def test_needs_without_class_names_are_kept(tmp_path):
    metadata = {"needs": '{"MODEL.PIXEL_STD": [1, 1, 1]}'}
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors", metadata)
    weights = read_weights(str(tmp_path / "w.safetensors"))
    assert weights.needs == {"MODEL.PIXEL_STD": (1, 1, 1)} and weights.class_names is None


def test_write_atomically_replaces(tmp_path):
    write_atomically(tmp_path / "f", b"one")
    write_atomically(tmp_path / "f", b"two")
    assert (tmp_path / "f").read_bytes() == b"two"
    assert len(list(tmp_path.iterdir())) == 1
