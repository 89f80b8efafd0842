import logging

import pytest
import torch
from finished_step import step

from maskrcnn.checkpoint import Checkpointer, load_checkpoint, newest_checkpoint
from maskrcnn.engine.hooks import Checkpointing, checkpointing
from maskrcnn.engine.hooks.checkpointing import CheckpointingFailed


def hook(folder, **options):
    return Checkpointing(Checkpointer(folder, {}), lambda: {"model": {"w": torch.ones(1)}}, **{"period": 2, **options})


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_each_period_and_the_final_one(tmp_path):
    one = hook(tmp_path)
    for i in range(5):
        one.after_step(step(i, max_iter=5))
    one.after_training(4)
    assert names(tmp_path) == {"model_0000001.pth", "model_0000003.pth", "model_final.pth", "last_checkpoint"}


def test_before_each_evaluation(tmp_path):
    one = hook(tmp_path, period=4, eval_period=2)
    for i in range(3):
        one.after_step(step(i, max_iter=8))
    assert names(tmp_path) == {"model_latest.pth", "last_checkpoint"}
    one.after_step(step(3, max_iter=8))  # both are due, and one file is enough
    assert names(tmp_path) == {"model_0000003.pth", "last_checkpoint"}


def test_an_early_end_has_a_final_one(tmp_path):
    one = hook(tmp_path)
    one.after_step(step(0))
    one.after_training(0)
    assert newest_checkpoint(tmp_path).name == "model_final.pth"


class Full(Checkpointer):
    """A disk that is full until `free`."""

    free = False

    def save(self, iteration, state, name):
        if not self.free:
            raise OSError(28, "No space left on device")
        return super().save(iteration, state, name)


def test_a_full_disk_costs_no_step_and_is_tried_again(tmp_path, caplog):
    disk = Full(tmp_path, {})
    one = Checkpointing(disk, lambda: {"model": {}}, period=1000)
    with caplog.at_level(logging.ERROR):
        one.after_step(step(999, max_iter=9999))
    assert "cannot write the checkpoint model_0000999.pth after iteration 999 (OSError: [Errno 28]" in caplog.text
    one.keep_best(999)
    assert "cannot keep the best state so far" in caplog.text
    disk.free = True
    for i in range(1000, 1100):
        one.after_step(step(i, max_iter=9999))
    assert load_checkpoint(newest_checkpoint(tmp_path))["iteration"] == 1099
    one.keep_best(1099)
    assert load_checkpoint(tmp_path / "model_best.pth")["iteration"] == 1099


def test_the_end_waits_for_room(tmp_path, monkeypatch):
    disk, naps = Full(tmp_path, {}), []

    def nap(seconds):
        naps.append(seconds)
        disk.free = len(naps) == 3

    monkeypatch.setattr(checkpointing.time, "sleep", nap)
    Checkpointing(disk, lambda: {"model": {}}, period=0).after_step(step(9, max_iter=10))
    assert naps == [60.0] * 3 and newest_checkpoint(tmp_path).name == "model_final.pth"

    monkeypatch.setattr(checkpointing.time, "sleep", lambda seconds: None)
    disk.free = False
    with pytest.raises(CheckpointingFailed, match=r"model_final\.pth could not be written"):
        Checkpointing(disk, lambda: {"model": {}}, period=0).after_step(step(9, max_iter=10))
