import importlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskrcnn import cli
from maskrcnn.checkpoint import load_checkpoint
from maskrcnn.engine import writers
from maskrcnn.engine.trainer import Trainer

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests" / "engine"))
tiny_model = importlib.import_module("tiny_model")


@pytest.fixture
def config(tmp_path, monkeypatch):
    # Encoding TensorBoard's pictures would be most of these tests' time.
    monkeypatch.setattr(writers.TensorBoard, "picture", writers.Writer.picture)
    return tiny_model.write_config(tmp_path, SOLVER={"MAX_ITER": 2, "STEPS": [], "CHECKPOINT_PERIOD": 0})


def train(*arguments):
    return cli.main(["train", *map(str, arguments)])


def error_of(capsys, *arguments):
    """The one message of a run that fails by the user's mistake."""
    assert train(*arguments) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.count("maskrcnn train: ") == 1 and error.startswith("maskrcnn train: ")
    return error


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def first(content, **values):
    content["annotations"][0] |= values


def test_train_resume_and_evaluate(config, tmp_path, capsys):
    assert train("--config", config) == 0
    assert (tmp_path / "run" / "model_final.pth").exists()
    assert "holds another run" in error_of(capsys, "--config", config)
    assert train("--config", config, "SOLVER.MAX_ITER", "3", "--resume") == 0  # a flag after the overrides counts
    assert load_checkpoint(tmp_path / "run" / "model_final.pth")["iteration"] == 2
    assert train("--config-file", config, "--eval-only") == 0
    assert "evaluating" in capsys.readouterr().out


def test_evaluation_of_weights_named_on_the_command_line(config, tmp_path, capsys):
    assert train("--config", config, "SOLVER.CHECKPOINT_PERIOD=1") == 0
    capsys.readouterr()
    early = tmp_path / "run" / "model_0000000.pth"
    assert train("--config", config, "--eval-only", "MODEL.WEIGHTS", early) == 0
    assert f"evaluating {early}" in capsys.readouterr().out


def test_print_config_shows_values_and_origins_and_trains_nothing(config, tmp_path, capsys):
    assert train("--config", config, "--print-config", "SOLVER.BASE_LR", "0.5", "--device", "cpu") == 0
    output = capsys.readouterr().out
    lines = {line.split(":")[0]: line for line in output.splitlines()}
    assert "0.5" in lines["SOLVER.BASE_LR"] and "command line" in lines["SOLVER.BASE_LR"]
    assert "config.yaml" in lines["SOLVER.MAX_ITER"] and "default" in lines["SOLVER.GAMMA"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [["--profile", "SOLVER.MAX_ITER=9"], ["SOLVER.MAX_ITER", "9", "--profile", "5"]])
def test_profile(config, tmp_path, words):
    assert train("--config", config, "DATASETS.TEST=[]", *words) == 0
    text = (tmp_path / "run" / "profile" / "modules.txt").read_text()
    assert text.startswith("means of 5 iterations") and "TinyModel" in text and "\npredictor " in text
    assert all(f"\n{part} " in text for part in ("data", "forward", "backward", "optimizer"))
    assert (tmp_path / "run" / "profile" / "trace.json.gz").is_file()


def test_profile_is_of_training(config, capsys):
    with pytest.raises(SystemExit) as end:
        train("--config", config, "--eval-only", "--profile")
    assert end.value.code == 2 and "--profile" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "part"), [("--profile=-3", "-3 iterations"), ("--profile -3", "-3 iterations"), ("--profile=few", "'few'")]
)
def test_a_profile_of_no_number_of_iterations(config, capsys, word, part):
    with pytest.raises(SystemExit) as end:
        train("--config", config, *word.split())
    assert end.value.code == 2 and part in capsys.readouterr().err


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_closed_output_stops_no_run(config, tmp_path, monkeypatch, name):
    monkeypatch.setattr(sys, name, None)
    assert train("--config", config, "TEST.LOSS=True") == 0
    assert (tmp_path / "run" / "model_final.pth").exists()


def test_without_arguments(capsys):
    with pytest.raises(SystemExit) as end:
        train()
    assert end.value.code == 2 and "--config" in capsys.readouterr().err


BAD_DATA = {
    "not JSON": (lambda path: path.write_text("{'images': ["), r"annotations.json"),
    "category id": (lambda path: edit(path, lambda c: first(c, category_id=77)), "77"),
    "polygon": (lambda path: edit(path, lambda c: first(c, segmentation=[[1, 2, 3, 4]])), "annotation 1"),
    "missing image": (lambda path: (path.parent / "images" / "0.png").unlink(), "0.png"),
    "truncated image": (
        lambda path: (path.parent / "images" / "0.png").write_bytes(
            (path.parent / "images" / "0.png").read_bytes()[:200]
        ),
        "0.png",
    ),
    "image size": (
        lambda path: cv2.imwrite(str(path.parent / "images" / "0.png"), np.zeros((20, 30, 3), np.uint8)),
        "20 high and 30 wide",
    ),
    "missing file": (lambda path: path.unlink(), "annotations.json"),
}


@pytest.mark.parametrize("case", BAD_DATA)
@pytest.mark.parametrize("workers", [0, 1])
def test_bad_data(config, tmp_path, capsys, case, workers):
    spoil, part = BAD_DATA[case]
    spoil(tmp_path / "data" / "annotations.json")
    assert part in error_of(capsys, "--config", config, "SOLVER.MAX_ITER=6", f"DATALOADER.NUM_WORKERS={workers}")


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["SOLVER.BASE_LRR", "1"], ["SOLVER.BASE_LRR", "BASE_LR"]),
        (["SOLVER.BASE_LR", "fast"], ["SOLVER.BASE_LR", "fast", "float"]),
        (["SOLVER.BASE_LR"], ["no value follows SOLVER.BASE_LR"]),
        (["SOLVER.STEPS=[5,3]"], ["SOLVER.STEPS is [5, 3]"]),
        (["MODEL.NAME=TinyModle"], ["TinyModle", "TinyModel"]),
        (["MODEL.NUM_CLASSES=80"], ["MODEL.NUM_CLASSES is 80", "annotations.json defines 3 classes"]),
        (["MODEL.DEVICE=gpu"], ["MODEL.DEVICE is 'gpu'"]),
        (["--device", "cuda:99"], ["cuda:99"]),
        (
            ["--num-gpus", "4", "SOLVER.GAMMA=1"],
            ["torchrun --standalone --nproc-per-node 4 -m maskrcnn train --config", "config.yaml SOLVER.GAMMA=1"],
        ),
        (
            ["--num-gpus=8", "--num-machines", "2", "--machine-rank", "1", "--dist-url", "tcp://a:1"],
            ["torchrun --nnodes 2 --rdzv-backend c10d --rdzv-endpoint FIRST_MACHINE:29500 --nproc-per-node 8 -m"],
        ),
        (["--launcher", "pytorch"], ["torchrun --standalone --nproc-per-node GPUS -m maskrcnn train"]),
        (["SOLVER.AMP=fp16"], ["SOLVER.AMP is fp16"]),
        (["MODEL.WEIGHTS", "nowhere.pth"], ["no weights file nowhere.pth"]),
        (["DATASETS.TRAIN=[shapse_train]"], ["shapse_train", "shapes_train"]),
        (["TEST.EVALUATORS=[coca]"], ["coca", "coco"]),
        (["INPUT.MAX_SIZE_TRAIN=8"], ["INPUT.MIN_SIZE", "8"]),
    ],
)
def test_bad_config(config, tmp_path, capsys, overrides, parts):
    error = error_of(capsys, "--config", config, *overrides)
    assert all(part in error for part in parts)


def test_missing_config(capsys):
    assert "nowhere.yaml" in error_of(capsys, "--config", "nowhere.yaml")


def test_a_typo_in_the_file_names_it(config, capsys):
    config.write_text(config.read_text().replace("MAX_ITER", "MAX_ITERS"))
    error = error_of(capsys, "--config", config)
    assert "config.yaml" in error and "SOLVER.MAX_ITERS" in error and "did you mean MAX_ITER" in error


def test_a_file_stands_where_the_output_goes(config, tmp_path, capsys):
    (tmp_path / "run").write_text("something else")
    assert f"OUTPUT_DIR is {tmp_path / 'run'}, but {tmp_path / 'run'} is a file" in error_of(capsys, "--config", config)


def test_a_checkpoint_of_another_architecture(config, tmp_path, capsys):
    assert train("--config", config) == 0
    capsys.readouterr()
    error = error_of(capsys, "--config", config, "--eval-only", "MODEL.CHANNELS", "8")
    assert "conv.weight: (4, 3, 3, 3) in the weights, (8, 3, 3, 3) in the model" in error


def test_code_in_weights_is_refused_and_not_run(config, tmp_path, capsys):
    (tmp_path / "bomb.pth").write_bytes(pickle.dumps({"model": Bomb(tmp_path / "ran")}, protocol=2))
    error = error_of(capsys, "--config", config, "MODEL.WEIGHTS", tmp_path / "bomb.pth")
    assert "bomb.pth holds the Python object" in error and "refused" in error
    assert not (tmp_path / "ran").exists()


def test_an_interrupted_run_says_so(config, tmp_path, capsys, monkeypatch):
    def interrupted(self, iteration, max_iter):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "step", interrupted)
    assert train("--config", config) == 130
    assert capsys.readouterr().err.strip().endswith("maskrcnn train: interrupted")
    assert "stopped by KeyboardInterrupt" in (tmp_path / "run" / "log.txt").read_text()


def test_a_programmers_error_in_the_loop_keeps_its_traceback(config, tmp_path, monkeypatch):
    def broken(self, iteration, max_iter):
        raise ValueError("a bug in somebody's head")

    monkeypatch.setattr(Trainer, "step", broken)
    with pytest.raises(ValueError, match="a bug"):
        train("--config", config)
    assert "a bug in somebody's head" in (tmp_path / "run" / "log.txt").read_text()


def test_commands(capsys):
    assert cli.main(["--help"]) == 0
    output = capsys.readouterr().out
    for command in (
        "train",
        "predict",
        "check_data",
        "show_data",
        "show_predictions",
        "summary",
        "slurm",
        "build",
        "env",
    ):
        assert f"\n  {command} " in output
    assert cli.main([]) == 2
    assert cli.main(["trian"]) == 2
    assert "no command 'trian'" in capsys.readouterr().err
    assert cli.main(["env"]) == 0
    assert "torch:" in capsys.readouterr().out


def test_the_script_in_tools(config):
    """Without a terminal: plain lines on the output, and no bar."""
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), "--config", str(config), "DATASETS.TEST=[]"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "eta: 0:00:00  iter: 1  total_loss: " in done.stdout
    assert "it/s" not in done.stdout + done.stderr
