import pytest
import torch

from maskrcnn.checkpoint import Checkpointer, CheckpointError, load_checkpoint, newest_checkpoint, trace_of_run


def test_names_pointer_and_facts(tmp_path):
    checkpointer = Checkpointer(tmp_path, {"class_names": ["a"]})
    assert newest_checkpoint(tmp_path) is None and trace_of_run(tmp_path) is None
    path = checkpointer.save(4999, {"model": {"w": torch.ones(1)}})
    assert path.name == "model_0004999.pth" == (tmp_path / "last_checkpoint").read_text()
    content = load_checkpoint(path)
    assert content["iteration"] == 4999 and content["class_names"] == ["a"]
    checkpointer.save(5999, {"model": {}}, final=True)
    assert newest_checkpoint(tmp_path) == tmp_path / "model_final.pth"
    assert trace_of_run(tmp_path) is not None


def test_a_pointer_to_nothing(tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth\n")
    with pytest.raises(CheckpointError, match=r"names model_0000009\.pth, which is not there"):
        newest_checkpoint(tmp_path)


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    Checkpointer(tmp_path, {}).save(0, {"model": {}})
    assert not list(tmp_path.iterdir())
