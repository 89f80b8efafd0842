"""Small Cityscapes data sets in the official folders, detections near their objects, and the official evaluation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pycocotools import mask as coco_mask

from maskrcnn.structures import Detections, Sample
from maskrcnn.structures.masks import masks_of

SIZE = (60, 120)
SEVERAL = (24, 25, 26, 27, 28, 31, 32, 33)  # classes with objects that count


def write_image(root: Path, name: str, ids: np.ndarray, split: str = "val") -> Path:
    """An image and its annotations, as CITY/CITY_SEQUENCE_FRAME; the path of the image."""
    city = name.split("_")[0]
    image = root / "cityscapes/leftImg8bit" / split / city / f"{name}_leftImg8bit.png"
    truth = root / "cityscapes/gtFine" / split / city / f"{name}_gtFine_instanceIds.png"
    for path, pixels in ((image, np.zeros((*ids.shape, 3), np.uint8)), (truth, ids.astype(np.uint16))):
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), pixels)
    return image


def ellipse(canvas: np.ndarray, rng: np.random.Generator, value: int, largest: int = 25) -> None:
    height, width = canvas.shape
    centre = int(rng.integers(width)), int(rng.integers(height))
    axes = int(rng.integers(2, largest)), int(rng.integers(2, largest))
    cv2.ellipse(canvas, centre, axes, float(rng.integers(180)), 0, 360, value, -1)


def street(rng: np.random.Generator, classes: tuple[int, ...], count: int) -> np.ndarray:
    """Ids with objects, groups, things that only look like objects (caravans), and void regions."""
    ids = np.full(SIZE, 7, np.uint16)  # road
    for _ in range(int(rng.integers(3))):
        ellipse(ids, rng, int(rng.choice([0, 3, 4, 18, 29, 23])))
    for i in range(count):
        class_id = int(rng.choice(classes))
        kinds = [class_id, 29000 + i, class_id * 1000 + i]
        ellipse(ids, rng, int(rng.choice(kinds, p=[0.15, 0.05, 0.8])))
    return ids


def found(masks: list[np.ndarray], labels: list[int], scores: list[float], size: tuple[int, int] = SIZE) -> Detections:
    """Detections with exact masks."""
    rles = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    return Detections(
        boxes=torch.zeros(len(masks), 4),
        scores=torch.tensor(scores, dtype=torch.float64),
        labels=torch.tensor(labels, dtype=torch.int64),
        size=size,
        masks=masks_of([{"size": list(size), "counts": rle["counts"]} for rle in rles], size),
    )


def guesses(rng: np.random.Generator, ids: np.ndarray, classes: tuple[int, ...], count: int) -> Detections:
    """Near the regions of an image, some of another class, some empty, some anywhere; scores have ties."""
    masks, labels = [], []
    regions = [value for value in np.unique(ids).tolist() if value != 7]
    for _ in range(count):
        mask = np.zeros(ids.shape, np.uint8)
        class_id = int(rng.choice(classes))
        if regions and rng.random() < 0.8:
            value = int(rng.choice(regions))
            mask[ids == value] = 1
            kernel = np.ones(rng.integers(1, 6, 2), np.uint8)
            mask = cv2.dilate(mask, kernel) if rng.random() < 0.5 else cv2.erode(mask, kernel)
            own = value if value < 1000 else value // 1000
            class_id = own if own in classes and rng.random() < 0.9 else class_id
        else:
            ellipse(mask, rng, 1)
        masks.append(mask)
        labels.append(SEVERAL.index(class_id))
    return found(masks, labels, (rng.integers(0, 20, count) / 20).tolist(), ids.shape)


def sample(image_id: int, size: tuple[int, int] = SIZE) -> Sample:
    return Sample(image=torch.zeros(3, 4, 4, dtype=torch.uint8), image_id=image_id, original_size=size)


def official(root: Path, results: Path) -> dict[str, Any]:
    """What cityscapesscripts says of results files, by a process of its own: it keeps files and global state.

    Returns:
        "allAp", "allAp50%" and "classes" with "ap" and "ap50%" of each; 0..1, NaN without objects.
    """
    module = "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling"
    folders = {"CITYSCAPES_DATASET": str(root / "cityscapes"), "CITYSCAPES_RESULTS": str(results)}
    code = f"""
import json, glob, numpy
if not hasattr(numpy, "in1d"):  # which the tool calls, and numpy 2.4 has no more
    numpy.in1d = lambda *args: numpy.isin(*args).ravel()
import {module} as tool
truths = sorted(glob.glob(tool.args.groundTruthSearch))
tool.args.quiet, tool.args.JSONOutput = True, False
tool.writeDict2JSON = lambda *_: None  # what it keeps for its next run; it cannot write the integers of numpy 2
tool.args.gtInstancesFile = {str(results / "truth.json")!r}
result = tool.evaluateImgLists([tool.getPrediction(path, tool.args) for path in truths], truths, tool.args)
print("RESULT", json.dumps(result["averages"], default=float))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=results,
        env={**os.environ, **folders},
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stdout + done.stderr
    return json.loads(lines[0].removeprefix("RESULT "))
