"""Which detection is about which object: COCO's matching at IoU 0.5, kept detection by detection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from pycocotools import mask as coco_mask

from maskrcnn.evaluation.analysis.errors import CLS, FOREGROUND, LOC, error_types, greatest

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ImageMatches:
    """Detections and objects of one image, compared. All columns are in the order of what `match_image` was given.

    Rows count detections or objects of the image from 0; -1 stands for none. An object is an annotation that is
    `counted`: crowd regions are none, and for masks neither are annotations without a segmentation.

    Of each detection:
        labels: int32. scores: float64.
        found: int32, the object whose true positive it is: of its class, by COCO's greedy rule at IoU 0.5.
        ignored: bool, it is no true positive, but lies in a crowd region of its class: neither right nor wrong.
        error: int8, an index into `ERRORS`, -1 of one that is right or ignored.
        target: int32, the object that its error is about.
        overlap: float64, IoU with the object it found or its error is about, else the greatest with any object.
        met: int32, the object it is matched to whatever the classes: in order of the scores, the free object of highest
            IoU, 0.5 or more. -1 of one that is ignored.

    Of each annotation:
        object_labels: int32. areas: float64, as annotated, in pixels. counted: bool.
        found_by: int32, the detection that is its true positive.
        missed: bool, an object that was not found, and that no cls or loc error is about.
    """

    labels: np.ndarray
    scores: np.ndarray
    found: np.ndarray
    ignored: np.ndarray
    error: np.ndarray
    target: np.ndarray
    overlap: np.ndarray
    met: np.ndarray
    object_labels: np.ndarray
    areas: np.ndarray
    counted: np.ndarray
    found_by: np.ndarray
    missed: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Matches(ImageMatches):
    """The columns of all images, one image after the other; rows still count within their image.

    Among detections of equal score the earlier image comes first. With images in ascending order of their ids that is
    the official tool's order.

    Attributes:
        num_classes: labels are 0..num_classes - 1.
        detection_starts, object_starts: int64 (images + 1,), where the rows of each image begin, and the end.
    """

    num_classes: int
    detection_starts: np.ndarray
    object_starts: np.ndarray

    @classmethod
    def of(cls, images: Sequence[ImageMatches], num_classes: int) -> Self:
        parts = [match_image([], [], "bbox", (0, 0), {}), *images]  # none at all is like one without anything
        columns = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(ImageMatches)}
        return cls(
            **columns,
            num_classes=num_classes,
            detection_starts=np.cumsum([len(part.labels) for part in parts]),
            object_starts=np.cumsum([len(part.object_labels) for part in parts]),
        )

    @property
    def num_images(self) -> int:
        return len(self.detection_starts) - 1

    @property
    def image(self) -> np.ndarray:
        """The image of each detection: int64, its place in the list."""
        return np.repeat(np.arange(self.num_images), np.diff(self.detection_starts))

    @property
    def object_image(self) -> np.ndarray:
        """The image of each annotation."""
        return np.repeat(np.arange(self.num_images), np.diff(self.object_starts))

    @property
    def rows(self) -> np.ndarray:
        """The row of each detection within its image."""
        return np.arange(len(self.labels)) - np.repeat(self.detection_starts[:-1], np.diff(self.detection_starts))

    @property
    def object_rows(self) -> np.ndarray:
        """The row of each annotation within its image."""
        return np.arange(len(self.object_labels)) - np.repeat(self.object_starts[:-1], np.diff(self.object_starts))

    def of_image(self, i: int) -> ImageMatches:
        """The columns of one image."""
        detections = slice(*self.detection_starts[i : i + 2])
        objects = slice(*self.object_starts[i : i + 2])
        names = [f.name for f in fields(ImageMatches)]
        first = names.index("object_labels")
        columns = {name: getattr(self, name)[detections] for name in names[:first]}
        return ImageMatches(**columns, **{name: getattr(self, name)[objects] for name in names[first:]})

    @property
    def num_objects(self) -> np.ndarray:
        """Objects of each class: int64 (K,)."""
        return self.per_class(self.counted)

    def per_class(self, objects: np.ndarray) -> np.ndarray:
        """How many of each class a selection, bool, of the objects has: int64 (K,)."""
        return np.bincount(self.object_labels[objects], minlength=self.num_classes)

    def objects_of(self, rows: np.ndarray) -> np.ndarray:
        """Objects of a detection's column (`found`, `target`, `met`) as rows of the columns here; -1 stays."""
        return np.where(rows < 0, -1, rows + self.object_starts[self.image])


def match_image(
    annotations: Rows, results: Rows, kind: str, size: tuple[int, int], label_of: Mapping[int, int]
) -> ImageMatches:
    """Compare the detections of an image with its ground truth.

    Args:
        annotations: in COCO's form; segmentations are polygons or any form of RLE.
        results: in COCO's form, `bbox` or `segmentation` (RLE) of each.
        kind: "bbox" or "segm".
        size: (h, w) of the image.
        label_of: the label of each category id.
    """
    labels = np.array([label_of[r["category_id"]] for r in results], np.int32)
    scores = np.array([r["score"] for r in results], np.float64)
    object_labels = np.array([label_of[a["category_id"]] for a in annotations], np.int32)
    crowd = np.array([a["iscrowd"] for a in annotations], bool)
    present = np.array([kind == "bbox" or bool(a["segmentation"]) for a in annotations], bool)
    counted = present & ~crowd

    ious = np.zeros((len(results), len(annotations)))
    if len(results) and present.any():
        shapes = _shapes([a for a, p in zip(annotations, present, strict=True) if p], kind, size)
        ious[:, present] = coco_mask.iou(_shapes(results, kind, size), shapes, crowd[present])
    same = labels[:, None] == object_labels
    over_crowds = ious[:, crowd]  # the share of the detection that lies in the region
    ious[:, ~counted] = 0

    rank = np.empty(len(results), np.int64)
    rank[np.argsort(-scores, kind="stable")] = np.arange(len(results))
    found, found_by = _greedy(np.where(same, ious, 0), rank)
    ignored = (found < 0) & ((over_crowds >= FOREGROUND) & same[:, crowd]).any(axis=1)
    met, _ = _greedy(np.where(ignored[:, None], 0, ious), rank)

    error, target = error_types(ious, same, (found < 0) & ~ignored)
    missed = counted & (found_by < 0)
    missed[target[np.isin(error, (CLS, LOC))]] = False
    _, overlap = greatest(ious)
    about = np.maximum(found, target)
    overlap[about >= 0] = ious[about >= 0, about[about >= 0]]
    return ImageMatches(
        labels=labels,
        scores=scores,
        found=found,
        ignored=ignored,
        error=error,
        target=target,
        overlap=overlap,
        met=met,
        object_labels=object_labels,
        areas=np.array([a["area"] for a in annotations], np.float64),
        counted=counted,
        found_by=found_by,
        missed=missed,
    )


def _greedy(ious: np.ndarray, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each detection, in the order of `rank`, takes the free object of highest IoU, at least 0.5.

    Of equal IoUs it takes the last, as pycocotools does.

    Returns:
        the object of each detection int32 (D,), and the detection of each object int32 (G,); -1: none.
    """
    object_of, taken_by = np.full(ious.shape[0], -1, np.int32), np.full(ious.shape[1], -1, np.int32)
    detections, objects = np.nonzero(ious >= FOREGROUND)
    order = np.lexsort((-objects, -ious[detections, objects], rank[detections]))
    for detection, obj in zip(detections[order].tolist(), objects[order].tolist(), strict=True):
        if object_of[detection] < 0 and taken_by[obj] < 0:
            object_of[detection], taken_by[obj] = obj, detection
    return object_of, taken_by


def _shapes(rows: Rows, kind: str, size: tuple[int, int]) -> Any:
    if kind == "bbox":
        return np.array([row["bbox"] for row in rows], np.float64)
    return [_compressed(row["segmentation"], size) for row in rows]


def _compressed(segmentation: Any, size: tuple[int, int]) -> Any:
    """Polygons and lists of runs as COCO's rasteriser reads them, from the file's own digits."""
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, *size)
    return segmentation
