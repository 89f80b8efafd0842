"""What a run itself has to do with its report: whose figures it shows, who makes it, and when it is given up."""

import json
import os
import signal

import pytest
from tiny_model import write_config, write_detector_config

from maskrcnn import cli
from maskrcnn.checkpoint import save_checkpoint
from maskrcnn.config import load_config
from maskrcnn.data import read_coco
from maskrcnn.engine import parts, run, writers
from maskrcnn.engine.report.build import report_data, report_on
from maskrcnn.engine.report.results import Evaluated
from maskrcnn.modeling import build_model


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Encoding TensorBoard's pictures would be most of these tests' time."""
    monkeypatch.setattr(writers.TensorBoard, "picture", writers.Writer.picture)


@pytest.fixture
def evaluate(tmp_path):
    """Evaluates the same weights in the same folder, with overrides."""
    path = write_detector_config(tmp_path)
    cfg = load_config(path, ["MODEL.NUM_CLASSES", "3"])
    save_checkpoint(tmp_path / "weights.pth", {"model": build_model(cfg).state_dict()})

    def evaluate(*overrides):
        run.test(load_config(path, ["MODEL.WEIGHTS", str(tmp_path / "weights.pth"), *overrides]))

    return evaluate


def test_figures_of_an_earlier_evaluation_are_not_shown_as_new(evaluate, tmp_path):
    """With one test set they are in another folder than with several, and stay there."""
    files = {"JSON": str(tmp_path / "data" / "annotations.json"), "IMAGES": str(tmp_path / "data" / "images")}
    one = read_coco(files["JSON"], files["IMAGES"])
    both = {"annotations": one, "annotations_2": one}
    folder = tmp_path / "run"

    def shown(test_sets):
        return [found["name"] for found in report_data(folder, test_sets)["sets"]]

    evaluate("DATASETS.TEST", json.dumps([files, files]))
    assert shown(both) == list(both) and shown({"annotations": one}) == []
    evaluate()
    assert (folder / "inference" / "annotations" / "coco_figures.json").exists()
    assert shown({"annotations": one}) == ["annotations"] and shown(both) == []
    evaluate("TEST.EVALUATORS", "[mean_score]")
    assert (folder / "inference" / "coco_figures.json").exists() and shown({"annotations": one}) == []


def test_an_evaluation_of_losses_alone_leaves_the_last_report(evaluate, tmp_path):
    evaluate()
    folder = tmp_path / "run"
    page, note = (folder / "report.html").read_bytes(), Evaluated.read(folder / "inference")
    evaluate("TEST.EVALUATORS", "[]", "TEST.LOSS", "True")
    assert (folder / "report.html").read_bytes() == page and Evaluated.read(folder / "inference") == note


def test_an_evaluation_alone_is_said_to_be_one(evaluate, tmp_path):
    evaluate()
    told = report_data(tmp_path / "run", {})["run"]
    facts = dict(told["facts"])
    assert facts["evaluation of"] == str(tmp_path / "weights.pth") and facts["classes"] == "3"
    assert facts["test data"] == str(tmp_path / "data" / "annotations.json") and facts["precision"] == "fp32"
    assert not {"iterations", "starts from", "optimizer", "training data", "images per step"} & facts.keys()
    assert [name for name, _ in told["timing"]] == ["evaluation"]
    assert "--eval-only" in told["repeat"]


@pytest.mark.parametrize("is_main", [True, False])
def test_only_the_main_process_makes_a_report(tmp_path, monkeypatch, is_main):
    path = write_config(tmp_path, SOLVER={"MAX_ITER": 1, "STEPS": [], "CHECKPOINT_PERIOD": 0}, TEST={"EVAL_PERIOD": 0})
    made = []
    monkeypatch.setattr(parts, "is_main_process", lambda: is_main)
    monkeypatch.setattr(parts, "report_on", lambda *_, **__: made.append("training"))
    run.train(load_config(path))
    monkeypatch.setattr(run, "is_main_process", lambda: is_main)
    monkeypatch.setattr(run, "report_on", lambda *_, **__: made.append("evaluation"))
    run.test(load_config(path))
    assert made == (["training", "evaluation"] if is_main else [])


def test_the_report_of_a_training_hears_of_a_signal(tmp_path, monkeypatch, caplog):
    path = write_config(tmp_path, SOLVER={"MAX_ITER": 1, "STEPS": [], "CHECKPOINT_PERIOD": 0}, TEST={"EVAL_PERIOD": 0})
    heard = []

    def signalled(*arguments, stop, **others):
        heard.append(stop())
        os.kill(os.getpid(), signal.SIGUSR1)
        heard.append(stop())
        report_on(*arguments, stop=stop, **others)

    monkeypatch.setattr(parts, "report_on", signalled)
    run.train(load_config(path))
    assert heard == [False, True]


URL = "https://user:pass@127.0.0.1:9/secret-free/{name}.pth?sig=TOKEN&more=TOKEN"


def test_a_token_in_the_link_to_the_weights_is_nowhere_in_record_and_page(tmp_path, monkeypatch):
    read, model = parts.read_weights, tmp_path / "weights.pth"
    path = write_config(tmp_path, SOLVER={"MAX_ITER": 1, "STEPS": [], "CHECKPOINT_PERIOD": 0}, TEST={"EVAL_PERIOD": 0})
    save_checkpoint(model, {"model": build_model(load_config(path, ["MODEL.NUM_CLASSES", "3"])).state_dict()})
    for module in (parts, run):
        monkeypatch.setattr(module, "read_weights", lambda _: read(str(model)))
    weights = f"MODEL.WEIGHTS={URL.format(name='one')}"
    assert cli.main(["train", "--config", str(path), weights]) == 0
    alone = tmp_path / "alone"
    assert cli.main(["train", "--eval-only", "--config", str(path), weights, f"OUTPUT_DIR={alone}"]) == 0
    for name in ("run/run.json", "run/report.html", "alone/report.html", "alone/inference/evaluation.json"):
        text = (tmp_path / name).read_text()
        assert "secret-free/one.pth" in text and "127.0.0.1:9" in text, name
        assert "TOKEN" not in text and "pass@" not in text and "user:" not in text, name
    assert "TOKEN" in (tmp_path / "run" / "config.yaml").read_text()  # with which it can be repeated
