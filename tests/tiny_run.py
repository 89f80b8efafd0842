"""The folder of a training run, with weights that learnt nothing: for tests of what comes after training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from yacs.config import CfgNode

from maskrcnn.checkpoint import Checkpointer
from maskrcnn.config import dump, load_config
from maskrcnn.modeling import build_model

CLASSES = {4: "disc", 9: "bar", 30: "ring"}
OVERRIDES = {
    "MODEL.BACKBONE.NORM": "GN",
    "MODEL.NECK.NORM": "GN",
    "MODEL.NECK.CHANNELS": "16",
    "MODEL.PROPOSALS.POST_NMS_TOPK_TEST": "20",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "0.01",
    "MODEL.ROI_HEADS.BOX_HEAD.FC_DIM": "16",
    "MODEL.ROI_HEADS.MASK_HEAD.CONV_DIM": "16",
    "INPUT.MIN_SIZE_TRAIN": "[64]",
    "INPUT.MIN_SIZE_TEST": "64",
    "INPUT.MAX_SIZE_TRAIN": "96",
    "INPUT.MAX_SIZE_TEST": "96",
    "DATALOADER.NUM_WORKERS": "0",
    "TEST.DETECTIONS_PER_IMAGE": "10",
}


def make_data(folder: Path, *, count: int = 3) -> Path:
    """Images of noise with a bright square each, and a crowd region in the first: the COCO-format file."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(count):
        h, w = 48 + 8 * i, 72
        pixels = rng.integers(0, 100, (h, w, 3), dtype=np.uint8)
        x, y, side = 10 + i, 12, 20
        pixels[y : y + side, x : x + side] = 220
        cv2.imwrite(str(folder / f"{i}.png"), pixels)
        images.append({"id": 100 + i, "file_name": f"{i}.png", "height": h, "width": w})
        corners = [x, y, x + side, y, x + side, y + side, x, y + side]
        annotations.append(annotation(len(annotations) + 1, 100 + i, 9, [x, y, side, side], [corners]))
    crowd = {"size": [48, 72], "counts": [48 * 60, 48 * 12]}
    annotations.append({**annotation(len(annotations) + 1, 100, 4, [60, 0, 12, 48], crowd), "iscrowd": 1})
    categories = [{"id": i, "name": name} for i, name in CLASSES.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder / "instances.json"


def annotation(id_: int, image_id: int, category_id: int, bbox: list[float], segmentation: Any) -> dict[str, Any]:
    area = bbox[2] * bbox[3]
    common = {"id": id_, "image_id": image_id, "category_id": category_id, "iscrowd": 0}
    return {**common, "bbox": bbox, "area": area, "segmentation": segmentation}


def tiny_config(folder: Path, *more: str) -> CfgNode:
    """The demo's config, smaller, with the data of `make_data` in `folder / "data"`."""
    files = json.dumps([{"JSON": str(folder / "data" / "instances.json"), "IMAGES": str(folder / "data")}])
    data = ["DATASETS.TRAIN", files, "DATASETS.TEST", files]
    pairs = [text for pair in OVERRIDES.items() for text in pair]
    return load_config("demo/shapes.yaml", [*data, *pairs, *more])


def make_run(folder: Path) -> Path:
    """A run's folder `folder / "run"`, beside its data."""
    make_data(folder / "data")
    cfg = tiny_config(folder, "MODEL.NUM_CLASSES", str(len(CLASSES)))
    run = folder / "run"
    run.mkdir()
    (run / "config.yaml").write_text(dump(cfg))
    torch.manual_seed(0)
    facts = {"class_names": list(CLASSES.values()), "category_ids": list(CLASSES), "config": dump(cfg)}
    Checkpointer(run, facts).save(7, {"model": dict(build_model(cfg).state_dict())}, Checkpointer.FINAL)
    return run
