"""What a run itself has to do with its report: whose figures it shows, who makes it, and when it is given up."""

import json

import pytest
from tiny_model import write_detector_config

from maskrcnn.checkpoint import save_checkpoint
from maskrcnn.config import load_config
from maskrcnn.data import read_coco
from maskrcnn.engine import run, writers
from maskrcnn.engine.report.build import report_data
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
