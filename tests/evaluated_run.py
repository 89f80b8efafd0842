"""The folder of a run with an evaluation of random detections on images of noise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from coco_sets import SIZE, by_image, compressed, random_set, rectangle

from maskrcnn.config import dump, load_config
from maskrcnn.data import Dataset, read_coco
from maskrcnn.engine.report.results import Evaluated
from maskrcnn.engine.writers.json_lines import METRICS_FILE, JSONLines
from maskrcnn.evaluation import CocoEvaluator, detections_from_coco
from maskrcnn.structures import Sample


@dataclass(frozen=True)
class EvaluatedRun:
    folder: Path
    dataset: Dataset
    metrics: dict[str, float]  # as the evaluator gave them
    results: list[dict[str, Any]]  # as the evaluator wrote them

    @property
    def test_sets(self) -> dict[str, Dataset]:
        return {self.dataset.name: self.dataset}


def make_evaluated_run(folder: Path, *, seed: int = 0, images: int = 30, masks: bool = True) -> EvaluatedRun:
    """`folder` gets data and run; the truth of images 1000, 999, ... (descending, as files may have it)."""
    truth, results = random_set(seed, images=images)
    for row in (*truth["annotations"], *results):
        row["image_id"] = 1000 - row["image_id"]
    for row in truth["annotations"]:  # a data set has masks for all of its objects, or for none
        row["segmentation"] = row["segmentation"] or compressed(rectangle(*row["bbox"]))
    data = folder / "data"
    data.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    truth["images"] = [
        {**image, "id": 1000 - image["id"], "file_name": f"{image['id']}.png"} for image in truth["images"]
    ]
    if not masks:
        for row in (*truth["annotations"], *results):
            row.pop("segmentation")
    for image in truth["images"]:
        cv2.imwrite(str(data / image["file_name"]), rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8))
    (data / "instances.json").write_text(json.dumps(truth))
    dataset = read_coco(data / "instances.json", data)
    return evaluated_run(folder / "run", dataset, [row for _, rows in by_image(truth, results) for row in rows])


def evaluated_run(
    folder: Path, dataset: Dataset, results: list[dict[str, Any]], overrides: Sequence[str] = ()
) -> EvaluatedRun:
    """`folder` becomes that of a run with these detections, in COCO's form, on the images of a data set.

    Args:
        overrides: of its config.
    """
    evaluator = CocoEvaluator(dataset, folder / "inference", 100)
    rows: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in dataset.image_ids.tolist()}
    for row in results:
        rows[row["image_id"]].append(row)
    for image_id, own in rows.items():
        found = detections_from_coco(own, dataset.category_ids, SIZE)
        evaluator.process([Sample(torch.zeros(3, 1, 1, dtype=torch.uint8), image_id, SIZE)], [found])
    metrics = evaluator.result()
    lines = JSONLines(folder / METRICS_FILE)
    lines.write(19, {"total_loss": 2.0, "time": 0.5, "data_time": 0.1, "lr": 0.01, "imgs_per_s": 4.0})
    lines.write(19, metrics)
    lines.close()
    Evaluated.now("iteration 19", 3.0).write(folder / "inference")
    files = json.dumps([{"JSON": str(dataset.json_path), "IMAGES": str(dataset.image_root)}])
    (folder / "config.yaml").write_text(dump(load_config("demo/shapes", ["DATASETS.TEST", files, *overrides])))
    written = json.loads((folder / "inference" / "coco_instances_results.json").read_text())
    return EvaluatedRun(folder, dataset, metrics, written)
