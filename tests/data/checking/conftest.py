"""A small data set without a single problem, to damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

SIZES = {1: (60, 80), 2: (60, 80), 3: (80, 60), 4: (50, 50), 5: (64, 48)}
NAMES = {1: "1.png", 2: "2.jpg", 3: "sub/3.png", 4: "4.png", 5: "5.png"}


class Clean:
    """`data` is the content of the annotation file until `write` puts it on disk."""

    def __init__(self, root: Path) -> None:
        self.json_path, self.images = root / "train.json", root / "images"
        (self.images / "sub").mkdir(parents=True)
        rng = np.random.default_rng(0)
        for i, (h, w) in SIZES.items():
            cv2.imwrite(str(self.images / NAMES[i]), rng.integers(0, 255, (h, w, 3), dtype=np.uint8))
        self.data = content()

    def write(self) -> Clean:
        self.json_path.write_text(json.dumps(self.data))
        return self

    def annotation(self, id_: int) -> dict[str, Any]:
        return next(a for a in self.data["annotations"] if a["id"] == id_)

    def image(self, id_: int) -> dict[str, Any]:
        return next(i for i in self.data["images"] if i["id"] == id_)

    def file(self, id_: int) -> Path:
        return self.images / NAMES[id_]


def content() -> dict[str, Any]:
    """Polygons of one part and of two, keypoints, compressed RLE with a hole, a crowd region in uncompressed RLE."""
    ring = np.zeros(SIZES[2], np.uint8, order="F")
    ring[10:40, 20:50] = 1
    ring[20:30, 30:40] = 0
    encoded = coco_mask.encode(ring)
    rle = {"size": list(SIZES[2]), "counts": encoded["counts"].decode()}
    crowd = {"size": list(SIZES[2]), "counts": [60 * 60, 60 * 10, 60 * 10]}
    two_parts = [rectangle(5, 5, 10, 40), rectangle(20, 5, 10, 40)]
    return {
        "info": {"year": 2024},
        "images": [
            {"id": i, "file_name": NAMES[i], "height": h, "width": w, "license": 1} for i, (h, w) in SIZES.items()
        ],
        "categories": [{"id": 5, "name": "ball"}, {"id": 1, "name": "person", "supercategory": "being"}],
        "annotations": [
            annotation(1, 1, 5, [40, 10, 20, 20], [rectangle(40, 10, 20, 20)]),
            annotation(2, 1, 1, [5, 5, 25, 40], two_parts, keypoints=[8, 9, 2, 9, 8, 1] + [0] * 45, num_keypoints=2),
            annotation(3, 2, 5, [20, 10, 30, 30], rle),
            annotation(4, 2, 1, [60, 0, 10, 60], crowd, iscrowd=1),
            annotation(5, 3, 5, [10.5, 20.25, 30, 40], [rectangle(10.5, 20.25, 30, 40)]),
            annotation(6, 4, 5, [0, 0, 50, 50], [rectangle(0, 0, 50, 50)]),
            annotation(7, 5, 1, [4, 4, 30, 40], [rectangle(4, 4, 30, 40)], keypoints=[0] * 51, num_keypoints=0),
            annotation(8, 5, 5, [30, 4, 12, 12], [rectangle(30, 4, 12, 12)]),
        ],
    }


def annotation(id_: int, image: int, category: int, bbox: list[float], mask: Any, **more: Any) -> dict[str, Any]:
    given = {"id": id_, "image_id": image, "category_id": category, "bbox": bbox, "area": bbox[2] * bbox[3]}
    return {**given, "iscrowd": 0, "segmentation": mask, **more}


def rectangle(x: float, y: float, w: float, h: float) -> list[float]:
    return [x, y, x + w, y, x + w, y + h, x, y + h]


@pytest.fixture
def clean(tmp_path: Path) -> Clean:
    return Clean(tmp_path)
