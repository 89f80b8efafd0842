import os

import torch
from tiny_model import write_detector_config

from maskrcnn.checkpoint import load_checkpoint
from maskrcnn.config import load_config
from maskrcnn.engine import run
from maskrcnn.engine.determinism import make_deterministic


def test_every_setting_is_made(restored):
    make_deterministic()
    assert torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_workspace_that_is_chosen_stays(restored, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    make_deterministic()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_a_detector_trains_twice_to_the_same_bits(tmp_path, restored):
    path = write_detector_config(tmp_path)
    weights = []
    for name in ("first", "second"):
        run.train(load_config(path, ["DETERMINISTIC=true", f"OUTPUT_DIR={tmp_path / name}", "DATASETS.TEST=[]"]))
        weights.append(load_checkpoint(tmp_path / name / "model_final.pth")["model"])
    assert torch.are_deterministic_algorithms_enabled()
    first, second = weights
    assert first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())
