import json
import shlex
from pathlib import Path

import pytest
import yaml
from tiny_model import write_config, write_detector_config

from maskrcnn import cli
from maskrcnn.checkpoint import load_checkpoint
from maskrcnn.config import dump, load_config
from maskrcnn.engine import run, writers
from maskrcnn.engine.provenance import read_record
from maskrcnn.engine.report.history import read_history
from maskrcnn.engine.report.run_facts import describe_run, duration, repeat_command


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Encoding TensorBoard's pictures would be most of these tests' time."""
    monkeypatch.setattr(writers.TensorBoard, "picture", writers.Writer.picture)


def describe(folder):
    return describe_run(folder, *read_history(folder / "metrics.json"))


def test_a_run(tmp_path):
    path = write_config(tmp_path)
    assert cli.main(["train", "--config", str(path), "SEED=-1", "SOLVER.BASE_LR=0.005"]) == 0
    folder = tmp_path / "run"
    found = describe(folder)
    facts = dict(found["run"]["facts"])
    seed = load_checkpoint(folder / "model_final.pth")["seed"]
    assert facts["seed"] == str(seed)
    assert facts["model"] == "TinyModel" and facts["starts from"] == "random weights" and facts["classes"] == "3"
    assert facts["training data"] == facts["test data"] == str(tmp_path / "data" / "annotations.json")
    assert facts["iterations"] == "8 of 8" and facts["images per step"] == "2"
    assert facts["optimizer"] == "SGD, learning rate 0.005, multistep"
    assert facts["precision"] == "float32 (as asked)" and facts["device"].startswith("cpu: ")
    timing = dict(found["run"]["timing"])
    assert (
        timing["evaluations"].startswith("3, the last one took ")
        and timing["waiting for data"].endswith(" %")
        and "training" in timing
    )
    assert found["run"]["starts"] == read_record(folder / "run.json")["starts"] and len(found["run"]["starts"]) == 1

    rows = {key: (value, origin) for key, value, origin in found["config"]}
    assert rows["SEED"] == (str(seed), "filled in at the start")
    assert rows["SOLVER.BASE_LR"] == ("0.005", "command line")
    assert rows["SOLVER.MAX_ITER"] == ("8", str(path)) and rows["SOLVER.GAMMA"] == ("0.1", "default")
    assert rows["INPUT.MIN_SIZE_TRAIN"][0] == "[32, 40]"
    cfg = load_config(folder / "config.yaml")
    for key, (value, _) in rows.items():
        node = cfg
        for part in key.split("."):
            node = node[part]
        assert yaml.safe_load(value) == json.loads(json.dumps(node)), key
    json.dumps(found, allow_nan=False)


def test_the_command_repeats_the_run_bit_for_bit(tmp_path, monkeypatch, restored):
    """From another folder than the run's, whose config has relative paths."""
    home, elsewhere = tmp_path / "my cells", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    path = write_detector_config(home)
    content = yaml.safe_load(path.read_text())
    files = {"JSON": "data/annotations.json", "IMAGES": "data/images"}
    path.write_text(yaml.safe_dump({**content, "DATASETS": {"TRAIN": [files], "TEST": [files]}, "OUTPUT_DIR": "run"}))
    monkeypatch.chdir(home)
    assert cli.main(["train", "--config", "config.yaml", "SEED=-1", "DETERMINISTIC=true"]) == 0

    monkeypatch.chdir(elsewhere)
    cd, target, then, program, *arguments = shlex.split(describe(home / "run")["run"]["repeat"])
    assert (cd, then, program) == ("cd", "&&", "maskrcnn")
    monkeypatch.chdir(target)
    assert cli.main(arguments) == 0
    timed = {"time", "data_time", "imgs_per_s", "eta_seconds", "max_mem"}
    first, again = (
        [
            {name: value for name, value in json.loads(line).items() if name not in timed}
            for line in (home / name / "metrics.json").read_text().splitlines()
        ]
        for name in ("run", "run-again")
    )
    assert first == again and any("segm/AP" in line for line in first)


def start(**changes):
    values = {"when": "", "iteration": 0, "command": "", "folder": "/home/x", "processes": 1, "machines": 1}
    return {**values, "git": None, "environment": [], **changes}


def test_the_command_has_as_many_processes():
    after = "--config /runs/a/config.yaml OUTPUT_DIR /runs/a-again"
    folder = Path("/runs/a")
    assert repeat_command(folder, None) == f"maskrcnn train {after}"
    assert repeat_command(folder, start()) == f"cd /home/x && maskrcnn train {after}"
    one_machine = f"cd /home/x && torchrun --standalone --nproc-per-node 2 -m maskrcnn train {after}"
    assert repeat_command(folder, start(processes=2)) == one_machine
    several = repeat_command(folder, start(processes=16, machines=2))
    assert "torchrun --nnodes 2 " in several and " --nproc-per-node 8 -m maskrcnn train" in several


def test_the_time_of_lines_of_unequal_length(tmp_path):
    lines = [
        {"iteration": 19, "total_loss": 1.0, "time": 2.0, "data_time": 0.5, "max_mem": 812},  # 20 steps
        {"iteration": 29, "total_loss": 1.0, "time": 4.0, "data_time": 0.1, "max_mem": 900},  # 10
        {"iteration": 30, "total_loss": 1.0, "time": None, "data_time": None},
        {"iteration": 30, "segm/AP": 1.0},
    ]
    (tmp_path / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "inference").mkdir()
    (tmp_path / "inference" / "evaluation.json").write_text('{"what": "iteration 30", "when": "", "seconds": 75.2}')
    assert describe(tmp_path)["run"]["timing"] == [
        ["training", "1 min 20 s"],
        ["one step, median", "3 s"],
        ["waiting for data", "13.8 %"],  # 11 of 80 seconds
        ["evaluations", "1, the last one took 1 min 15 s"],
        ["peak memory", "900 MiB"],
    ]


@pytest.mark.parametrize("content", ["", "[]", '{"seconds": null}', '{"seconds": "many"}'])
def test_an_evaluation_of_unknown_time(tmp_path, content):
    (tmp_path / "metrics.json").write_text('{"iteration": 3, "segm/AP": 1.0}\n')
    (tmp_path / "inference").mkdir()
    (tmp_path / "inference" / "evaluation.json").write_text(content)
    assert describe(tmp_path)["run"]["timing"] == [["evaluations", "1"]]


def test_a_run_of_before_there_was_a_record(tmp_path):
    run.train(load_config(write_config(tmp_path)))
    folder = tmp_path / "run"
    (folder / "run.json").unlink()
    found = describe(folder)
    assert found["run"]["starts"] == []
    assert found["run"]["repeat"] == f"maskrcnn train --config {folder}/config.yaml OUTPUT_DIR {folder}-again"
    facts = dict(found["run"]["facts"])
    assert facts["precision"] == "fp32" and facts["device"] == "cpu" and facts["iterations"] == "8 of 8"
    assert {origin for _, _, origin in found["config"]} == {""}
    assert ["SOLVER.MAX_ITER", "8", ""] in found["config"]


def test_a_broken_record_costs_only_itself(tmp_path, caplog):
    (tmp_path / "config.yaml").write_text("SOLVER:\n  MAX_ITER: 5\n")
    (tmp_path / "run.json").write_text('{"starts"')
    found = describe(tmp_path)
    assert found["config"] == [["SOLVER.MAX_ITER", "5", ""]]
    assert found["run"]["facts"] == [["iterations", "0 of 5"]] and found["run"]["starts"] == []
    assert "run.json is not JSON" in caplog.text


@pytest.mark.parametrize("config", [None, "", "a: [", "- 1\n", "\0"])
def test_a_folder_of_nothing(tmp_path, config):
    if config is not None:
        (tmp_path / "config.yaml").write_text(config)
    assert describe(tmp_path) == {"run": {"repeat": "", "facts": [], "timing": [], "starts": []}, "config": []}


def test_what_a_full_config_tells(tmp_path):
    """Of a detector with parts, several weights, registered data, several processes on GPUs."""
    cfg = load_config("mask_rcnn/mask_rcnn_r50_fpn_1x_coco", ["MODEL.WEIGHTS=[a.pth, b.pth]", "DETERMINISTIC=true"])
    (tmp_path / "config.yaml").write_text(dump(cfg))
    environment = [["device", "cuda:0"], ["GPU 0", "H, 80.0 GiB"], ["precision", "bfloat16 (the GPU has it)"]]
    record = {"starts": [start(processes=8, environment=environment)], "origins": {}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    facts = dict(describe(tmp_path)["run"]["facts"])
    assert facts["model"] == "GeneralizedRCNN: ResNet, FPN, RPN, StandardRoIHeads"
    assert facts["starts from"] == "a.pth, b.pth"
    assert facts["training data"] == "coco_2017_train" and facts["test data"] == "coco_2017_val"
    assert facts["images per step"] == "16, by 8 processes"
    assert facts["precision"] == "bfloat16 (the GPU has it)" and facts["device"] == "cuda:0: H, 80.0 GiB"
    assert facts["seed"] == "0, deterministic"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2504, "0.25 s"), (59.4, "59.4 s"), (59.6, "1 min 0 s"), (312, "5 min 12 s"), (3599.9, "1 h 0 min")]
    + [(11040, "3 h 4 min"), (86370, "1 d 0 h"), (2 * 86400 + 5 * 3600, "2 d 5 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
