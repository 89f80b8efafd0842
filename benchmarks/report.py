"""Time, memory and size of the report of an evaluation as large as COCO's validation set.

    python benchmarks/report.py --json instances_val2017.json --images val2017

The images of the file are repeated until there are 5,000, each with 100 detections: its objects, moved, and among other
ones, under wrong classes and at wrong places. They are evaluated once, which leaves a run's folder, and then another
process makes the report: its seconds and its peak memory, beside those of one that only reads the data set.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from coco_sized import repeated
from machine import describe

from maskrcnn.config import dump, load_config
from maskrcnn.data import Dataset, read_coco
from maskrcnn.engine.report.results import Evaluated
from maskrcnn.evaluation import CocoEvaluator, detections_from_coco
from maskrcnn.structures import Sample
from maskrcnn.structures.masks import masks_of

IMAGES, DETECTIONS = 5000, 100
READ = "import sys; from maskrcnn.data import read_coco; from pathlib import Path; read_coco(*map(Path, sys.argv[1:]))"


def moved(annotation: dict[str, Any], shift: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
    """An object somewhere else, as a detection."""
    box = np.array(annotation["bbox"], np.float64)
    box[:2] += shift
    polygons = [(np.reshape(part, (-1, 2)) + shift).clip(0, size[::-1]).ravel() for part in annotation["segmentation"]]
    return {"bbox": box.tolist(), "segmentation": masks_of([polygons], size).to_rle(size)[0]}


def detections_of(
    objects: list[dict[str, Any]], size: tuple[int, int], categories: list[int], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """So many of one image: each object three times with ever larger errors, then objects anywhere under any class."""
    found = []
    for i in range(DETECTIONS if objects else 0):
        annotation = objects[i % len(objects)]
        near, corner, extent = i < 3 * len(objects), *np.split(np.array(annotation["bbox"]), 2)
        if near:
            shift = rng.normal(0, 0.05 if i < len(objects) else 0.3, 2) * extent
        else:
            shift = rng.uniform(0, 1, 2) * (np.array(size[::-1]) - extent) - corner
        kept = near and rng.random() < 0.9
        category = annotation["category_id"] if kept else int(rng.choice(categories))
        score = float(rng.beta(4, 2) if i < len(objects) else rng.beta(1, 6))
        found.append({**moved(annotation, shift, size), "category_id": category, "score": max(score, 0.05)})
    return found


def evaluate_once(dataset: Dataset, content: dict[str, Any], folder: Path) -> None:
    rng = np.random.default_rng(0)
    objects = defaultdict(list)
    for annotation in content["annotations"]:
        if not annotation.get("iscrowd"):
            objects[annotation["image_id"]].append(annotation)
    files: dict[Path, list[dict[str, Any]]] = {}  # copies of an image have its detections, with scores of their own
    evaluator = CocoEvaluator(dataset, folder / "inference", DETECTIONS)
    for record in dataset:
        if record.path not in files:
            files[record.path] = detections_of(objects[record.image_id], record.size, list(dataset.category_ids), rng)
        results = [{**r, "score": float(np.clip(r["score"] + rng.normal(0, 0.02), 0, 1))} for r in files[record.path]]
        detections = detections_from_coco(results, dataset.category_ids, record.size)
        evaluator.process([Sample(np.zeros(0), record.image_id, record.size)], [detections])  # type: ignore[arg-type]
    start = time.perf_counter()
    evaluator.result()
    seconds = time.perf_counter() - start
    print(f"{len(dataset)} images evaluated: computing the figures took {seconds:.1f} s")
    Evaluated.now("made-up detections", seconds).write(folder / "inference")


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds, and peak memory in MiB, of a process."""
    start = time.perf_counter()
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--json", type=Path, required=True, help="an annotation file in COCO format")
    p.add_argument("--images", type=Path, required=True, help="the folder of its images")
    p.add_argument("--count", type=int, default=IMAGES, help=f"images ({IMAGES})")
    p.add_argument("--keep", type=Path, help="a folder for what is made, which is then left there")
    args = p.parse_args()
    print(describe())
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "instances.json"
        content = repeated(json.loads(args.json.read_text()), args.count, sys.maxsize, rename=False)
        path.write_text(json.dumps(content))
        run = folder / "run"
        files = json.dumps([{"JSON": str(path), "IMAGES": str(args.images.resolve())}])
        if not (run / "inference").exists():
            evaluate_once(read_coco(path, args.images), content, run)
            (run / "config.yaml").write_text(dump(load_config("demo/shapes", ["DATASETS.TEST", files])))
        seconds, memory = measured([sys.executable, "-c", READ, str(path), str(args.images)])
        print(f"reading the data set alone: {seconds:.1f} s, {memory:.0f} MiB")
        seconds, memory = measured([sys.executable, "-m", "maskrcnn", "report", str(run)])
        size = (run / "report.html").stat().st_size
        print(f"the report: {seconds:.1f} s, {memory:.0f} MiB, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
