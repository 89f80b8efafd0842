"""COCO-format annotation files (cocodataset.org/#format-data): instances and keypoints.

What a user can get wrong is found by `maskrcnn.data.checking`; what is read here is sound.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.data.apart import ProcessDied, call_apart
from maskrcnn.data.checking import Policy, check_coco, error_message, warnings_of
from maskrcnn.data.checking.check import without_gc
from maskrcnn.data.checking.entries import IMAGE_INFO
from maskrcnn.data.checking.report import changes_tally
from maskrcnn.data.layouts import COCO_LAYOUTS
from maskrcnn.data.records import (
    NUM_KEYPOINTS,
    Change,
    Columns,
    Dataset,
    DatasetError,
    ImageRecord,
    ObjectRecord,
    pack,
)
from maskrcnn.registry import DATASETS
from maskrcnn.structures.rle import RLE

logger = logging.getLogger(__name__)

LARGE = 64 * 2**20  # bytes of JSON. Parsed, it needs ten times as much, which this process would never give back

# name -> annotation file and folder of images, below the data root
LAYOUT = {
    name: (annotations.path, images.path)
    for layout in COCO_LAYOUTS.values()
    for name, (annotations, images) in layout.data_sets.items()
}


def read_coco(
    json_path: str | Path, images: str | Path, *, name: str | None = None, policy: Policy = "error"
) -> Dataset:
    """Check an annotation file, and that the image files are there, and read it.

    Images keep the file's order, with or without annotations. Category ids, which may have gaps, become labels 0..K-1
    in the order of the ids. Boxes [x, y, w, h] become XYXY, clipped to the image. Polygons, compressed and
    uncompressed RLE and crowd regions are read; keypoints are moved from pixel indices to pixel centres (+0.5).

    Args:
        json_path: the annotation file; or one of COCO's image_info*.json about test images, which have none.
        images: the folder that its `file_name`s are in, or start from.
        name: of the data set; the file's name without .json if None.
        policy: what becomes of entries with an error: "error" raises, "drop" leaves them out, "repair" mends what can
            be mended first. What was dropped or mended is in the data set's `changes`.

    Raises:
        DatasetError: what is wrong, with file, id, field, value and remedy.
    """
    json_path, images = Path(json_path), Path(images)
    start = time.perf_counter()
    large = json_path.is_file() and json_path.stat().st_size > LARGE
    try:
        found = call_apart(_read, json_path, images, policy) if large else _read(json_path, images, policy)
    except ProcessDied as error:
        raise DatasetError(f"{json_path}: cannot be read: {error}") from error
    dataset = Dataset(
        found.columns,
        class_names=found.class_names,
        category_ids=found.category_ids,
        name=name or json_path.stem,
        json_path=json_path,
        image_root=images,
        changes=found.changes,
        annotated=found.annotated,
    )
    seconds = time.perf_counter() - start
    logger.info(
        "%s: %d images, %d objects, read in %.1f s", json_path, len(dataset), dataset.num_objects.sum(), seconds
    )
    return dataset


@dataclass(frozen=True)
class _Found:
    """What a file holds, after a policy."""

    columns: Columns
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    changes: tuple[Change, ...]
    annotated: bool


def _read(json_path: Path, images: Path, policy: Policy) -> _Found:
    with without_gc():
        report = check_coco(json_path, images, policy=policy)
        if report.refused or report.content is None:
            raise DatasetError(error_message(report, f"maskrcnn check_data --json {json_path} --images {images}"))
        for line in warnings_of(report):
            logger.warning(line)
        if report.changes:
            logger.warning("%s: %s", json_path, changes_tally(report.changes))
        categories = {category["id"]: category["name"] for category in report.content["categories"]}
        labels = {id_: label for label, id_ in enumerate(sorted(categories))}
        columns = pack(_records(report.content, labels, images))
    names = tuple(categories[id_] for id_ in labels)
    annotated = bool(report.content["annotations"]) or not json_path.name.startswith(IMAGE_INFO)
    return _Found(columns, names, tuple(labels), tuple(report.changes), annotated)


def _records(content: Mapping[str, Any], labels: Mapping[int, int], root: Path) -> Iterator[ImageRecord]:
    by_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    for image in content["images"]:
        size = (image["height"], image["width"])
        objects = [_object(annotation, size, labels) for annotation in by_image[image["id"]]]
        yield ImageRecord(image_id=image["id"], path=root / image["file_name"], size=size, objects=objects)


def _object(annotation: Mapping[str, Any], size: tuple[int, int], labels: Mapping[int, int]) -> ObjectRecord:
    x, y, w, h = annotation["bbox"]
    height, width = size
    box = (min(max(x, 0), width), min(max(y, 0), height), min(max(x + w, 0), width), min(max(y + h, 0), height))
    return ObjectRecord(
        id=annotation["id"],
        box=np.array(box, np.float32),
        label=labels[annotation["category_id"]],
        crowd=bool(annotation.get("iscrowd", 0)),
        area=annotation.get("area", w * h),
        segmentation=_segmentation(annotation.get("segmentation"), size),
        keypoints=_keypoints(annotation["keypoints"]) if "keypoints" in annotation else None,
    )


def _segmentation(
    value: list[list[float]] | Mapping[str, Any] | None, size: tuple[int, int]
) -> list[np.ndarray] | RLE | None:
    if not value:
        return None
    if isinstance(value, list):
        return [np.array(points, np.float32) for points in value]
    return {"size": list(size), "counts": value["counts"]}


def _keypoints(values: list[float]) -> np.ndarray:
    keypoints = np.array(values, np.float32).reshape(NUM_KEYPOINTS, 3)
    keypoints[:, :2] += 0.5 * (keypoints[:, 2:] > 0)  # the file has pixel indices; unlabelled ones stay 0, 0, 0
    return keypoints


@dataclass(frozen=True)
class CocoLayout:
    """Registered under a name: a data set in COCO format, its annotation file and image folder below the data root.

    Args:
        classes: those that count, of a file without annotations; none: all.
    """

    name: str
    json: str
    images: str
    classes: tuple[str, ...] = ()

    def files(self, root: Path) -> tuple[Path, Path]:
        """The annotation file and the folder.

        Raises:
            DatasetError: there is no such annotation file.
        """
        json_path = root / self.json
        if not json_path.is_file():
            raise DatasetError(
                f"data set {self.name!r}: no file {json_path.absolute()}; DATASETS.ROOT, or the environment variable "
                f"MASKRCNN_DATASETS, must name the folder that has {self.json} and {self.images} in it"
            )
        return json_path, root / self.images

    def __call__(self, root: Path, policy: Policy = "error") -> Dataset:
        found = read_coco(*self.files(root), name=self.name, policy=policy)
        if not self.classes or found.annotated:
            return found
        labels = [found.class_names.index(name) for name in self.classes]
        return Dataset.from_records(
            found,
            class_names=self.classes,
            category_ids=[found.category_ids[label] for label in labels],
            name=found.name,
            json_path=found.json_path,
            image_root=found.image_root,
            annotated=False,
        )


for _name, _files in LAYOUT.items():  # keypoints are those of people; COCO's list of test images has all classes
    DATASETS.register(_name)(CocoLayout(_name, *_files, ("person",) if _name.startswith("keypoints_") else ()))
