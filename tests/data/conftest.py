"""A small COCO-format data set on disk, to read as it is or to spoil first."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest


class CocoFolder:
    """`data` is the content of the annotation file until `write` puts it on disk."""

    def __init__(self, root: Path) -> None:
        self.json_path = root / "annotations.json"
        self.images = root / "images"
        self.images.mkdir()
        rng = np.random.default_rng(0)
        # 0: two objects and a crowd region; 1: nothing; 2: tall, one object
        self.sizes = [(30, 40), (30, 40), (50, 20)]
        for i, (h, w) in enumerate(self.sizes):
            cv2.imwrite(str(self.images / f"{i}.png"), rng.integers(0, 255, (h, w, 3), dtype=np.uint8))
        self.data: dict[str, Any] = {
            "images": [
                {"id": 10 * i, "file_name": f"{i}.png", "height": h, "width": w} for i, (h, w) in enumerate(self.sizes)
            ],
            "categories": [{"id": 7, "name": "disc"}, {"id": 3, "name": "bar"}],
            "annotations": [
                annotation(5, 20, 3, [2, 3, 10, 40], [[2, 3, 12, 3, 12, 43, 2, 43]]),
                annotation(4, 0, 7, [1, 2, 20, 10], [[1, 2, 21, 2, 21, 12], [1, 2, 5, 12, 1, 12.5]]),
                annotation(9, 0, 3, [30, 20, 15, 15], [[30, 20, 45, 20, 45, 35, 30, 35]]),
                annotation(6, 0, 3, [0, 0, 40, 30], {"size": [30, 40], "counts": [600, 30, 570]}, iscrowd=1),
            ],
        }

    def write(self) -> CocoFolder:
        self.json_path.write_text(json.dumps(self.data))
        return self


def annotation(id_: int, image_id: int, category_id: int, bbox: Any, segmentation: Any, **more: Any) -> dict[str, Any]:
    return {
        "id": id_,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        "area": bbox[2] * bbox[3],
        "iscrowd": 0,
        "segmentation": segmentation,
        **more,
    }


@pytest.fixture
def coco_folder(tmp_path: Path) -> CocoFolder:
    return CocoFolder(tmp_path)


@pytest.fixture
def real_data() -> Path:
    """The folder of real image sets that MASKRCNN_TEST_DATA names."""
    folder = os.environ.get("MASKRCNN_TEST_DATA")
    if not folder or not Path(folder, "coco_mini").is_dir():
        pytest.skip("real image sets: MASKRCNN_TEST_DATA does not name a folder with coco_mini and nuclei")
    return Path(folder)
