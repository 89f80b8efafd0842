"""Cityscapes' instance-level AP, in memory, equal to that of the official `cityscapesscripts`; its results files."""

from __future__ import annotations

import json
import logging
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from maskrcnn.atomic import WholeFile
from maskrcnn.data.datasets.cityscapes import CLASSES, IMAGE_END, OBJECTS, VOID_IDS, ids_path, read_ids
from maskrcnn.data.records import Dataset, DatasetError
from maskrcnn.distributed import from_main, gather_bytes_to_main
from maskrcnn.evaluation.coco_figures import number
from maskrcnn.evaluation.results import write_json
from maskrcnn.evaluation.tables import aligned
from maskrcnn.registry import EVALUATORS
from maskrcnn.structures.instances import Detections
from maskrcnn.structures.rle import RLE, decode_cut
from maskrcnn.structures.samples import Sample

logger = logging.getLogger(__name__)

THRESHOLDS = np.array([0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95])  # of IoU, which must be above
MIN_PIXELS = 100  # of an object that counts
FIGURES_FILE = "cityscapes_figures.json"
RESULTS_FOLDER = "cityscapes_results"
RIGHT, WRONG, IGNORED = 1, 0, -1


@EVALUATORS.register("cityscapes")
class CityscapesEvaluator:
    """Mask AP of Cityscapes: 0..100, or -1 for a class without objects of at least 100 pixels.

    `cityscapes/AP` (mean over IoU 0.50:0.05:0.95 and over the classes with objects) and `cityscapes/AP50`, then both of
    each class, such as `cityscapes/AP-person` and `cityscapes/AP50-person`.

    A data set without any annotation (the test split) has no metrics; instead the files for the official server are
    written, see `write_results`.

    Args:
        dataset: a split of Cityscapes, in its original folders: what nobody labelled is in the files alone.
        output_dir: where `cityscapes_figures.json`, or the folder `cityscapes_results`, is written; None: nothing.
        detections_per_image: unused, as the official evaluation has no such limit.

    Raises:
        ValueError: the data set is not Cityscapes.
    """

    outputs = Detections

    def __init__(self, dataset: Dataset, output_dir: Path | None, detections_per_image: int = 100) -> None:
        if dataset.class_names != tuple(CLASSES) or dataset.category_ids != tuple(CLASSES.values()):
            raise ValueError(
                f"the evaluator 'cityscapes' is for the classes {', '.join(CLASSES)}, but {dataset.source} has "
                f"{', '.join(dataset.class_names)}; take the evaluator 'coco'"
            )
        self.dataset, self.output_dir = dataset, output_dir
        self.images = dict(zip(dataset.image_ids.tolist(), dataset.paths, strict=True))
        for path in dataset.paths[:1]:
            ids_path(path)
        names = ["AP", "AP50", *(f"{figure}-{name}" for name in CLASSES for figure in ("AP", "AP50"))]
        self.metrics = tuple(f"cityscapes/{name}" for name in names) if dataset.has_masks else ()
        self._figures = dict.fromkeys(self.metrics, -1.0)
        self._blocks: dict[int | str, bytes] = {}  # what became of an image's detections, as JSON

    def process(self, samples: Sequence[Sample], outputs: Sequence[Detections]) -> None:
        """Compare a batch's masks with the files; of each detection only score, class and outcomes are kept.

        Raises:
            ValueError: an image is not in the data set that this evaluator was made for, the detections have no masks,
                or a score is not finite.
            DatasetError: the image's annotation cannot be read, or has another size.
        """
        for sample, detections in zip(samples, outputs, strict=True):
            if sample.image_id not in self.images:
                raise ValueError(
                    f"image id {sample.image_id} is not in the data set {self.dataset.name!r} that is being evaluated"
                )
            path = self.images[sample.image_id]
            if self.metrics:
                ids = read_ids(ids_path(path))
                if ids.shape != sample.original_size:
                    raise DatasetError(f"{ids_path(path)} is {ids.shape}, but the image is {sample.original_size}")
                outcomes = [[label, s, o.tolist()] for label, s, o in judge(*scored_masks(detections, path.name), ids)]
                self._blocks[sample.image_id] = json.dumps([sample.image_id, outcomes]).encode()
            elif self.output_dir is not None:
                write_results(self.output_dir / RESULTS_FOLDER, path, detections)

    def result(self) -> dict[str, float]:
        """The figures over all ranks. The main process computes them and writes the file; the others wait for it."""
        by_image = dict(map(json.loads, gather_bytes_to_main(list(self._blocks.values()))))  # none counted twice
        self._blocks.clear()
        if self.metrics:
            self._figures = from_main(lambda: self._compute(by_image))
        elif self.output_dir is not None:
            logger.info("files for the Cityscapes server: %s", self.output_dir / RESULTS_FOLDER)
        return dict(self._figures)

    def _compute(self, by_image: Mapping[Any, list[tuple[int, float, list[int]]]]) -> dict[str, float]:
        if len(by_image) < len(self.images):
            logger.warning(
                "%d of %d images were evaluated; the others count as images without detections",
                len(by_image),
                len(self.images),
            )
        by_class: dict[int, list[tuple[float, list[int]]]] = defaultdict(list)
        for image in sorted(by_image):
            for label, score, outcomes in by_image[image]:
                by_class[label].append((score, outcomes))
        table = np.full((len(CLASSES), len(THRESHOLDS)), np.nan)
        for label, count in enumerate(self._objects()):
            if count:
                scores = np.array([score for score, _ in by_class[label]])
                became = np.array([row for _, row in by_class[label]], np.int8).reshape(-1, len(THRESHOLDS))
                table[label] = [average_precision(scores, column, count) for column in became.T]
        figures = dict(zip(self.metrics, figures_of(table), strict=True))
        self._write(figures, table)
        return figures

    def _objects(self) -> list[int]:
        """How many objects that count each class has."""
        counted = [o.label for record in self.dataset for o in record.objects if not o.crowd and o.area >= MIN_PIXELS]
        return np.bincount(np.array(counted, np.int64), minlength=len(CLASSES)).tolist()

    def _write(self, figures: Mapping[str, float], table: np.ndarray) -> None:
        if self.output_dir is None:
            return
        path = self.output_dir / FIGURES_FILE
        rows = [[None if np.isnan(value) else 100 * value for value in row] for row in table.tolist()]
        content = {
            "figures": dict(figures),
            "thresholds": THRESHOLDS.tolist(),
            "AP": dict(zip(CLASSES, rows, strict=True)),
        }
        try:
            path.unlink(missing_ok=True)  # of an earlier evaluation, which it is not to be taken for
            write_json(path, content)
        except OSError as error:  # a full disk: the figures are worth more than the file
            logger.error("%s could not be written: %s; the figures do not need it", path, error)

    def table(self) -> str:
        """The last result as text: AP and AP50 of each class, and of all."""
        if not self.metrics:
            return "no ground truth, so no figures"
        rows = [["category", "objects", "mask AP", "AP50"]]
        objects = self._objects()
        for name, count in [*zip(CLASSES, objects, strict=True), ("all", sum(objects))]:
            end = "" if name == "all" else f"-{name}"
            figures = (number(self._figures[f"cityscapes/{figure}{end}"]) for figure in ("AP", "AP50"))
            rows.append([name, str(count), *figures])
        return aligned(rows)


def figures_of(table: np.ndarray) -> list[float]:
    """AP of each class and threshold (K, T), NaN without objects -> AP and AP50 of all, then of each class, 0..100."""
    by_class = np.stack([table.mean(axis=1), table[:, 0]], axis=1)
    known = ~np.isnan(by_class[:, 0])
    overall = by_class[known].mean(axis=0) if known.any() else np.full(2, np.nan)
    values = 100 * np.concatenate([overall, by_class.ravel()])
    return np.where(np.isnan(values), -1.0, values).tolist()


def scored_masks(detections: Detections, image: str) -> tuple[list[RLE], list[int], list[float]]:
    """Masks as RLE, labels and scores.

    Raises:
        ValueError: the detections have no masks, or a score is not finite.
    """
    if not len(detections):
        return [], [], []
    rles, scores = detections.to_rle(), detections.scores.detach().double().cpu()
    if rles is None:
        raise ValueError(f"{image}: the detections have no masks, which Cityscapes' evaluation compares")
    if not scores.isfinite().all():
        raise ValueError(f"{image}: a detection's score is not a finite number; the model has diverged")
    return rles, detections.labels.tolist(), scores.tolist()


def judge(
    rles: Sequence[RLE], labels: Sequence[int], scores: Sequence[float], ids: np.ndarray
) -> list[tuple[int, float, np.ndarray]]:
    """What the detections of an image are at each threshold of IoU, by the official rules.

    A detection whose IoU with an object of its class is above the threshold is right; of several for one object the one
    with the highest score, and the others are wrong. One on a group or an object that is too small is ignored. The rest
    is wrong, unless a larger part of it than the threshold lies in what is void, in groups or small objects of its
    class.

    Args:
        rles: the masks.
        ids: uint16 (H, W), as in the image's `instanceIds` file.

    Returns:
        (label, score, int8 (T,): RIGHT, WRONG or IGNORED) of each detection that has a pixel.
    """
    sizes = np.bincount(ids.ravel(), minlength=OBJECTS)
    present = np.flatnonzero(sizes)
    row_of = np.zeros(len(sizes), np.intp)
    row_of[present] = np.arange(len(present))
    compact = row_of[ids]
    class_of = np.where(present < OBJECTS, present, present // OBJECTS)
    group, small = present < OBJECTS, sizes[present] < MIN_PIXELS
    counted = ~(group | small)
    ignored = group.astype(np.int64) + small  # a group that is small counts twice, as in the official tool
    void = np.isin(present, VOID_IDS)
    class_ids = list(CLASSES.values())
    judged: list[tuple[int, float, np.ndarray]] = []
    claims: dict[tuple[int, int], list[int]] = defaultdict(list)  # threshold and object -> detections on it
    for rle, label, score in zip(rles, labels, scores, strict=True):
        bitmap, (x, y) = decode_cut(rle)
        area = int(bitmap.sum())
        if not area:
            continue
        h, w = bitmap.shape
        shared = np.bincount(compact[y : y + h, x : x + w][bitmap], minlength=len(present))
        own = class_of == class_ids[label]
        iou = np.where(own, shared / (area + sizes[present] - shared), 0.0)
        best = int(iou.argmax())  # objects do not overlap, so that at most one can be above 0.5
        excused = (shared * (void + own * ignored)).sum() / area
        outcomes = np.where(excused > THRESHOLDS, IGNORED, WRONG).astype(np.int8)
        for t in np.flatnonzero(iou[best] > THRESHOLDS):
            outcomes[t] = IGNORED
            if counted[best]:
                claims[int(t), best].append(len(judged))
        judged.append((label, score, outcomes))
    for (threshold, _), rows in claims.items():
        for row in rows:
            judged[row][2][threshold] = WRONG
        judged[max(rows, key=lambda row: judged[row][1])][2][threshold] = RIGHT
    return judged


def average_precision(scores: np.ndarray, outcomes: np.ndarray, num_objects: int) -> float:
    """The area under the curve of precision over recall, by the trapezoidal rule, from precision 1 at recall 0.

    Args:
        scores: (D,); detections of equal score make one point of the curve.
        outcomes: (D,), RIGHT, WRONG or IGNORED.
        num_objects: at least 1.
    """
    scores, right = scores[outcomes != IGNORED], outcomes[outcomes != IGNORED] == RIGHT
    order = np.argsort(-scores, kind="stable")
    scores, right = scores[order], right[order]
    last = np.flatnonzero(np.append(np.diff(scores) != 0, True)) if len(scores) else np.zeros(0, np.intp)
    hits = np.cumsum(right)[last]
    precision = np.concatenate([[1.0], hits / (last + 1)])
    recall = np.concatenate([[0.0], hits / num_objects])
    return float(np.trapezoid(precision, recall))


def write_results(folder: Path, image: Path, detections: Detections) -> Path:
    """One image's detections as the official server wants them: a text file, and a PNG of 0 and 255 for each mask.

    Args:
        folder: of all images; the masks go to a folder in it with the image's name, and replace what is there.
        image: the path of the image, which gives the files their names.

    Returns:
        The text file; a line for each detection with a pixel: path of the mask from the text file, class id, score.

    Raises:
        ValueError: the detections have no masks, or a score is not finite.
        OSError: a file cannot be written.
    """
    name, class_ids, lines = image.name.removesuffix(IMAGE_END), list(CLASSES.values()), []
    masks = folder / name
    if masks.exists():
        shutil.rmtree(masks)
    masks.mkdir(parents=True)
    for i, (rle, label, score) in enumerate(zip(*scored_masks(detections, image.name), strict=True)):
        bitmap, (x, y) = decode_cut(rle)
        if not bitmap.size:
            continue
        pixels = np.zeros(detections.size, np.uint8)
        pixels[y : y + bitmap.shape[0], x : x + bitmap.shape[1]][bitmap] = 255
        path = masks / f"{i}.png"
        if not cv2.imwrite(str(path), pixels):
            raise OSError(f"{path} could not be written: is the disk full?")
        lines.append(f"{name}/{path.name} {class_ids[label]} {score!r}\n")
    text = folder / f"{name}_pred.txt"
    with WholeFile(text) as part:  # last: who finds it has the masks
        part.write_text("".join(lines), encoding="utf-8")
    return text
