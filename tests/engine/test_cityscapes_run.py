"""Cityscapes from a config: trained from weights of other classes, evaluated, and files for the official server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml
from cityscapes_sets import SEVERAL, street, write_image

import maskrcnn
from maskrcnn.checkpoint import save_checkpoint
from maskrcnn.config import load_config
from maskrcnn.engine import run

CONFIG = {
    "_BASE_": ["_base_/models/mask_rcnn_r18_fpn_small.yaml", "_base_/datasets/cityscapes_instance.yaml"],
    "INPUT": {"MIN_SIZE_TRAIN": [60, 70], "MAX_SIZE_TRAIN": 140, "MIN_SIZE_TEST": 60, "MAX_SIZE_TEST": 120},
    "SOLVER": {"MAX_ITER": 1, "STEPS": [], "WARMUP_ITERS": 0, "IMS_PER_BATCH": 2, "BASE_LR": 0.0},
    "DATALOADER": {"NUM_WORKERS": 0},
    "WRITERS": [],
}


def test_trained_from_coco_and_evaluated(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for i in range(2):
            write_image(tmp_path, f"ulm_00000{i}_00001{len(split)}", street(rng, SEVERAL, 6), split)
    model = maskrcnn.build_model(load_config("_base_/models/mask_rcnn_r18_fpn_small", ["MODEL.NUM_CLASSES", "3"]))
    weights = {"model": model.state_dict(), "class_names": ["car", "zebra", "person"], "category_ids": [3, 24, 1]}
    save_checkpoint(tmp_path / "coco.pth", weights)
    own = {
        **CONFIG,
        "MODEL": {"WEIGHTS": str(tmp_path / "coco.pth")},
        "DATASETS": {"ROOT": str(tmp_path)},
        "OUTPUT_DIR": str(tmp_path / "run"),
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(own))
    run.train(load_config(tmp_path / "config.yaml"))
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "rows of 2 classes taken by name: person, car; fresh rows for 6 classes" in log
    assert "cityscapes_fine_instance_seg_val, 2 images:\ncategory" in log
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text().splitlines()[-1])
    assert {"cityscapes/AP", "cityscapes/AP50-rider", "bbox/AP", "segm/AP"} <= metrics.keys()
    assert (tmp_path / "run" / "report.html").exists()

    overrides = ["DATASETS.TEST", "[cityscapes_fine_instance_seg_test]", "TEST.EVALUATORS", "[cityscapes]"]
    overrides += ["OUTPUT_DIR", str(tmp_path / "test")]
    cfg = load_config(tmp_path / "config.yaml", overrides)
    assert run.test(cfg, weights=[str(tmp_path / "run" / "model_final.pth")]) == {}
    files = sorted(path.name for path in (tmp_path / "test/inference/cityscapes_results").glob("*.txt"))
    assert files == ["ulm_000000_000014_pred.txt", "ulm_000001_000014_pred.txt"]
