"""Test sets without annotations: what COCO's server would make of the files, here by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_sets import SIZE
from evaluated_run import make_evaluated_run
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tiny_run import make_run

from maskrcnn.config import load_config
from maskrcnn.data import Dataset, DatasetError, concatenate, dataset, read_coco
from maskrcnn.engine import run
from maskrcnn.engine.checks import RunError
from maskrcnn.evaluation import CocoEvaluator, detections_from_coco
from maskrcnn.evaluation.coco import RESULTS_FILE, CocoKeypointEvaluator
from maskrcnn.structures import Detections, Sample

NAME = "image_info_test-dev2017.json"


def without_annotations(json_path: Path) -> Path:
    """The same images in a file as COCO has it of its test images."""
    content = json.loads(json_path.read_text())
    path = json_path.with_name(NAME)
    path.write_text(json.dumps({"info": {}, "licenses": [], **{k: content[k] for k in ("images", "categories")}}))
    return path


def on_the_server(truth: Path, results: Path, kind: str) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO(str(truth))
        evaluation = COCOeval(gt, gt.loadRes(str(results)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return (100 * np.maximum(evaluation.stats, -0.01)).tolist()


def test_the_server_finds_our_figures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    known = make_evaluated_run(tmp_path, seed=3, images=6)
    images = read_coco(without_annotations(known.dataset.json_path), known.dataset.image_root)
    assert not images.annotated and known.dataset.annotated and len(images) == 6
    evaluator = CocoEvaluator(images, tmp_path / "out", 100)
    assert evaluator.metrics == ()
    for image_id in images.image_ids.tolist():
        own = [row for row in known.results if row["image_id"] == image_id]
        found = detections_from_coco(own, images.category_ids, SIZE)
        evaluator.process([Sample(torch.zeros(3, 1, 1, dtype=torch.uint8), image_id, SIZE)], [found])
    with caplog.at_level(logging.INFO):
        assert evaluator.result() == {}
    assert evaluator.table() == "no ground truth, so no figures"
    for kind in ("bbox", "segm"):
        file = tmp_path / "out" / kind / "detections_test-dev2017_maskrcnn_results.json"
        assert str(file) in caplog.text
        expected = [known.metrics[f"{kind}/{name}"] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")]
        assert on_the_server(known.dataset.json_path, file, kind)[:6] == pytest.approx(expected, abs=1e-9)
        assert max(expected) > 0
    assert "no ground truth in " in caplog.text
    assert not (tmp_path / "out" / "keypoints").exists()


def test_keypoints_and_images_without_any(tmp_path: Path) -> None:
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    (tmp_path / "coco" / "test2017").mkdir()
    names = {1: "person", 2: "bicycle"}
    content = {
        "images": [{"id": 7, "file_name": "7.png", "height": 40, "width": 60}],
        "categories": [{"id": i, "name": name} for i, name in names.items()],
    }
    (tmp_path / "coco" / "annotations" / NAME).write_text(json.dumps(content))
    (tmp_path / "coco" / "test2017" / "7.png").touch()
    people = dataset("keypoints_coco_2017_test-dev", tmp_path)
    assert (people.class_names, people.category_ids) == (("person",), (1,)) and len(people) == 1
    assert dataset("coco_2017_test-dev", tmp_path).class_names == ("person", "bicycle")

    points = torch.arange(51.0).view(1, 17, 3)
    found = Detections(
        boxes=torch.tensor([[1.0, 2, 31, 22]]),
        scores=torch.tensor([0.5]),
        labels=torch.zeros(1, dtype=torch.int64),
        size=(40, 60),
        keypoints=points,
    )
    evaluator = CocoKeypointEvaluator(people, tmp_path / "out", 100)
    evaluator.process([Sample(torch.zeros(3, 1, 1, dtype=torch.uint8), 7, (40, 60))], [found])
    assert evaluator.result() == {}
    file = tmp_path / "out" / "keypoints" / "person_keypoints_test-dev2017_maskrcnn_results.json"
    expected = (points - torch.tensor([0.5, 0.5, 0])).flatten().tolist()
    assert json.loads(file.read_text()) == [{"image_id": 7, "category_id": 1, "score": 0.5, "keypoints": expected}]

    nothing = CocoEvaluator(people, tmp_path / "nothing", 100)
    none = replace(Detections.empty((40, 60)), masks=torch.zeros(0, 28, 28))  # of a model with masks
    nothing.process([Sample(torch.zeros(3, 1, 1, dtype=torch.uint8), 7, (40, 60))], [none])
    assert nothing.result() == {}
    written = sorted((tmp_path / "nothing").rglob("detections_test-dev2017_maskrcnn_results.json"))
    assert [path.parent.name for path in written] == ["bbox", "segm"]
    assert CocoEvaluator(people, None, 100).result() == {}  # and nothing is written


def test_another_benchmarks_images_get_no_file_for_cocos_server(tmp_path: Path) -> None:
    """The shipped config of Cityscapes evaluates with `cityscapes` and `coco`."""
    name = "cityscapes_fine_instance_seg_test"
    images = Dataset.from_records([], class_names=("car",), category_ids=(26,), name=name, annotated=False)
    assert CocoEvaluator(images, tmp_path / "out", 100).result() == {}
    assert [path.name for path in (tmp_path / "out").rglob("*")] == [RESULTS_FILE]


def test_a_run_on_images_without_annotations(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    images = without_annotations(tmp_path / "data" / "instances.json")
    files = json.dumps([{"JSON": str(images), "IMAGES": str(tmp_path / "data")}])
    overrides = ["OUTPUT_DIR", str(tmp_path / "test"), "DATASETS.TEST", files]
    weights = [str(folder / "model_final.pth")]
    assert run.test(load_config(folder / "config.yaml", overrides), weights=weights) == {}
    log = (tmp_path / "test" / "log.txt").read_text()
    assert f"no ground truth in {images}, so no figures" in log
    inference = tmp_path / "test" / "inference"
    for kind, field in (("bbox", "bbox"), ("segm", "segmentation")):
        file = inference / kind / "detections_test-dev2017_maskrcnn_results.json"
        rows = json.loads(file.read_text())
        assert str(file) in log and {row["image_id"] for row in rows} == {100, 101, 102}
        assert all(set(row) == {"image_id", "category_id", "score", field} for row in rows)
        assert {row["category_id"] for row in rows} <= {4, 9, 30}

    with pytest.raises(RunError, match="has no annotations, so no losses can be computed"):
        run.test(load_config(folder / "config.yaml", [*overrides, "TEST.LOSS=True"]), weights=weights)
    with pytest.raises(RunError, match="has no annotations"):
        training = ["DATASETS.TRAIN", files, "OUTPUT_DIR", str(tmp_path / "new"), "MODEL.NUM_CLASSES", "3"]
        run.train(load_config(folder / "config.yaml", training))


def test_one_part_without_annotations_cannot_be_trained_on(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    known = tmp_path / "data" / "instances.json"
    parts = [read_coco(path, known.parent) for path in (known, without_annotations(known))]
    assert not concatenate(parts).annotated and concatenate(parts[:1] * 2).annotated
    both = json.dumps([{"JSON": str(path), "IMAGES": str(known.parent)} for path in (known, known.with_name(NAME))])
    overrides = ["DATASETS.TRAIN", both, "OUTPUT_DIR", str(tmp_path / "new"), "MODEL.NUM_CLASSES", "3"]
    with pytest.raises(RunError, match=f"{NAME} has no annotations, so no losses can be computed"):
        run.train(load_config(folder / "config.yaml", overrides))


def test_only_files_of_that_name_may_lack_annotations(tmp_path: Path) -> None:
    make_run(tmp_path)
    images = without_annotations(tmp_path / "data" / "instances.json")
    with pytest.raises(DatasetError, match="no 'annotations'"):
        read_coco(images.rename(tmp_path / "data" / "test.json"), tmp_path / "data")
