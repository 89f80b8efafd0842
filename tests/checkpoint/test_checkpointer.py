import pytest
import torch

from maskrcnn.checkpoint import Checkpointer, CheckpointError, load_checkpoint, newest_checkpoint, trace_of_run


def test_names_pointer_and_facts(tmp_path):
    checkpointer = Checkpointer(tmp_path, {"class_names": ["a"]})
    assert newest_checkpoint(tmp_path) is None and trace_of_run(tmp_path) is None
    path = checkpointer.save(4999, {"model": {"w": torch.ones(1)}}, "model_0004999.pth")
    assert path.name == "model_0004999.pth" == (tmp_path / "last_checkpoint").read_text()
    content = load_checkpoint(path)
    assert content["iteration"] == 4999 and content["class_names"] == ["a"]
    checkpointer.save(5999, {"model": {}}, Checkpointer.FINAL)
    assert newest_checkpoint(tmp_path) == tmp_path / "model_final.pth"
    assert trace_of_run(tmp_path) is not None


def test_a_pointer_to_nothing(tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth\n")
    with pytest.raises(CheckpointError, match=r"names model_0000009\.pth, which is not there"):
        newest_checkpoint(tmp_path)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_are_kept_and_what_has_a_name(tmp_path):
    checkpointer = Checkpointer(tmp_path, {}, keep=2)
    for i in range(4):
        checkpointer.save(i, {"model": {}}, f"model_{i:07d}.pth")
        if i == 1:
            checkpointer.keep_best()
    assert names(tmp_path) == ["last_checkpoint", "model_0000002.pth", "model_0000003.pth", "model_best.pth"]
    assert load_checkpoint(tmp_path / "model_best.pth")["iteration"] == 1
    checkpointer.save(4, {"model": {}}, Checkpointer.LATEST)
    assert newest_checkpoint(tmp_path).name == "model_latest.pth" and "model_0000002.pth" in names(tmp_path)
    checkpointer.keep_best()
    checkpointer.save(5, {"model": {}}, Checkpointer.LATEST)
    assert load_checkpoint(tmp_path / "model_best.pth")["iteration"] == 4  # not the file that took its name's place
    checkpointer.save(6, {"model": {}}, Checkpointer.FINAL)
    assert "model_latest.pth" not in names(tmp_path)


def test_a_run_that_was_taken_back_keeps_what_it_saves(tmp_path):
    """The user wrote an older name into last_checkpoint: files of later iterations are none of the newest."""
    checkpointer = Checkpointer(tmp_path, {}, keep=1)
    for i in (29, 39, 10_000_000):
        Checkpointer(tmp_path, {}).save(i, {"model": {}}, f"model_{i:07d}.pth")
    checkpointer.save(29, {"model": {}}, "model_0000029.pth")
    assert newest_checkpoint(tmp_path).name == "model_0000029.pth"
    checkpointer.save(10_000_001, {"model": {}}, "model_10000001.pth")  # eight digits come after seven
    assert names(tmp_path) == ["last_checkpoint", "model_10000001.pth"]


def test_the_best_is_copied_where_links_are_impossible(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no links on this file system")

    monkeypatch.setattr("os.link", refuse)
    checkpointer = Checkpointer(tmp_path, {})
    checkpointer.save(3, {"model": {"w": torch.ones(2)}}, Checkpointer.LATEST)
    checkpointer.keep_best()
    assert load_checkpoint(tmp_path / "model_best.pth")["iteration"] == 3


def test_a_disk_that_is_full_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    checkpointer = Checkpointer(tmp_path, {})
    checkpointer.save(3, {"model": {}}, Checkpointer.LATEST)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpointer.save(4, {"model": {}}, Checkpointer.LATEST)
    assert names(tmp_path) == ["last_checkpoint", "model_latest.pth"]
    assert load_checkpoint(newest_checkpoint(tmp_path))["iteration"] == 3
