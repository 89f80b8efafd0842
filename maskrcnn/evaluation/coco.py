"""COCO's box and mask AP (cocodataset.org/#detection-eval), by faster-coco-eval; pycocotools is the reference."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from maskrcnn.data.records import Dataset
from maskrcnn.distributed import all_gather_object, is_main_process
from maskrcnn.evaluation.explain import AREAS, doubts, explain
from maskrcnn.evaluation.results import detections_to_coco, write_json
from maskrcnn.registry import EVALUATORS
from maskrcnn.structures.instances import Detections
from maskrcnn.structures.samples import Sample

logger = logging.getLogger(__name__)

KINDS = {"bbox": "box", "segm": "mask"}  # COCO's words and ours
RESULTS_FILE = "coco_instances_results.json"


@EVALUATORS.register("coco")
class CocoEvaluator:
    """COCO box AP and, for a data set with masks, mask AP: twelve figures each, 0..100, or -1 without ground truth.

    `bbox/AP` (mean over IoU 0.50:0.05:0.95), `AP50`, `AP75`, `APs`, `APm`, `APl`, `AR@1`, `AR@10`, `AR@100`, `ARs`,
    `ARm`, `ARl`, and the same under `segm/`. AP and the AR by size consider `detections_per_image` detections of an
    image, in every category; where that is not 100, the last `AR@` has its number.

    Args:
        dataset: the images and their ground truth.
        output_dir: where `coco_instances_results.json` is written; None writes nothing.
        detections_per_image: the number that the model keeps.
        masks: whether the detections have masks; None assumes it where the data set has them.
    """

    def __init__(
        self, dataset: Dataset, output_dir: Path | None, detections_per_image: int, *, masks: bool | None = None
    ) -> None:
        if detections_per_image < 1:
            raise ValueError(f"detections per image is {detections_per_image}; it must be at least 1")
        self.dataset, self.output_dir = dataset, output_dir
        self.limits = (*(k for k in (1, 10) if k < detections_per_image), detections_per_image)
        self.kinds = tuple(KINDS) if (dataset.has_masks if masks is None else masks) else ("bbox",)
        self.metrics = tuple(f"{kind}/{name}" for kind in self.kinds for name in figure_names(self.limits))
        check_image_ids(dataset)
        self._known_images = set(dataset.image_ids.tolist())
        self._per_category: dict[str, np.ndarray] = {}
        self._objects = np.zeros(len(dataset.category_ids), dtype=int)
        self._figures: dict[str, float] = {}
        self._start()

    def _start(self) -> None:
        self._by_image: dict[int | str, list[dict[str, Any]]] = {}
        self._with_masks = False

    def process(self, samples: Sequence[Sample], outputs: Sequence[Detections]) -> None:
        """Turn a batch's detections into results; nothing of the size of an image is kept.

        Raises:
            ValueError: an image is not in the data set that this evaluator was made for.
        """
        for sample, detections in zip(samples, outputs, strict=True):
            if sample.image_id not in self._known_images:
                raise ValueError(
                    f"image id {sample.image_id} is not in the data set {self.dataset.name!r} that is being evaluated"
                )
            self._by_image[sample.image_id] = detections_to_coco(detections, sample.image_id, self.dataset.category_ids)
            self._with_masks |= detections.masks is not None

    def result(self) -> dict[str, float]:
        """The figures over all ranks. The main process computes them and writes the file; the others wait for it."""
        shares = all_gather_object((self._by_image, self._with_masks))
        self._start()
        if is_main_process():
            by_image = {image: results for share, _ in shares for image, results in share.items()}  # none counted twice
            self._figures = self._compute(by_image, with_masks=any(flag for _, flag in shares))
        self._figures = all_gather_object(self._figures)[0]
        return dict(self._figures)

    def _compute(self, by_image: Mapping[Any, list[dict[str, Any]]], *, with_masks: bool) -> dict[str, float]:
        results = [result for image in sorted(by_image) for result in by_image[image]]
        if self.output_dir is not None:
            write_json(self.output_dir / RESULTS_FILE, results)
        truth = ground_truth(self.dataset)
        self._objects = objects_per_category(truth, self.dataset.category_ids)
        if len(by_image) < len(self._known_images):
            logger.warning(
                "%d of %d images were evaluated; the others count as images without detections",
                len(by_image),
                len(self._known_images),
            )
        for line in doubts(truth, results):
            logger.warning(line)
        figures: dict[str, float] = {}
        for kind in self.kinds:
            if kind == "segm" and results and not with_masks:
                logger.warning("the detections have no masks, so every segm figure is -1")
                figures |= {f"segm/{name}": -1.0 for name in figure_names(self.limits)}
                self._per_category["segm"] = np.full(len(self.dataset.category_ids), -1.0)
                continue
            precision, recall = run_coco(truth, results, kind, self.limits)
            figures |= {f"{kind}/{name}": value for name, value in summarise(precision, recall, self.limits).items()}
            self._per_category[kind] = np.array([mean_known(p) for p in np.moveaxis(precision[..., 0, -1], 2, 0)])
        for line in explain(truth, results, figures):
            logger.warning(line)
        return figures

    def table(self) -> str:
        """The last result as text: the figures over all categories, then objects and AP of each category."""
        names = figure_names(self.limits)
        overall = [["", *names]]
        for kind in self.kinds:
            overall.append([KINDS[kind], *(number(self._figures.get(f"{kind}/{name}", -1.0)) for name in names)])
        categories = [["category", "objects", *(f"{KINDS[kind]} AP" for kind in self.kinds)]]
        unknown = np.full(len(self._objects), -1.0)
        for k, name in enumerate(self.dataset.class_names):
            values = (number(self._per_category.get(kind, unknown)[k]) for kind in self.kinds)
            categories.append([name, str(self._objects[k]), *values])
        return f"{align(overall)}\n\n{align(categories)}"


def figure_names(limits: Sequence[int]) -> tuple[str, ...]:
    """The names of the figures, in the order of the official table."""
    sizes = [f"AP{s}" for s in AREAS], [f"AR{s}" for s in AREAS]
    return ("AP", "AP50", "AP75", *sizes[0], *(f"AR@{k}" for k in limits), *sizes[1])


def summarise(precision: np.ndarray, recall: np.ndarray, limits: Sequence[int]) -> dict[str, float]:
    """COCO's figures, in percent.

    Args:
        precision: (T, R, K, A, M): 10 IoUs, 101 recalls, categories, areas (all, small, medium, large), limits.
        recall: (T, K, A, M).
    """
    values = [precision[..., 0, -1], precision[0, ..., 0, -1], precision[5, ..., 0, -1]]  # IoU 0.50 and 0.75
    values += [precision[..., area, -1] for area in (1, 2, 3)]
    values += [recall[..., 0, limit] for limit in range(len(limits))]
    values += [recall[..., area, -1] for area in (1, 2, 3)]
    return dict(zip(figure_names(limits), map(mean_known, values), strict=True))


def mean_known(values: np.ndarray) -> float:
    """The mean in percent of what has ground truth; the official tool marks the rest, and a mean of nothing, as -1."""
    known = values[values > -1]
    return 100 * float(known.mean()) if len(known) else -1.0


def run_coco(
    truth: dict[str, Any], results: Sequence[dict[str, Any]], kind: str, limits: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Precision (T, R, K, A, M) and recall (T, K, A, M) by faster-coco-eval.

    Args:
        truth: as `ground_truth` gives it.
        results: in COCO's form.
        kind: "bbox" or "segm".
        limits: numbers of detections per image, ascending.
    """
    # Without `bbox` in the results the area of a mask is that of its pixels, by which the official tool sorts it into
    # small, medium and large; with `bbox` it would silently be the area of the box.
    keys = ("image_id", "category_id", "score", "bbox" if kind == "bbox" else "segmentation")
    detections = [{key: result[key] for key in keys} for result in results]
    annotations = [dict(a) for a in truth["annotations"] if kind == "bbox" or a["segmentation"]]  # the tool adds keys
    if without := len(truth["annotations"]) - len(annotations):
        logger.warning("%d annotations have no segmentation and are left out of the segm figures", without)
    coco = COCO({**truth, "annotations": annotations})
    run = COCOeval_faster(coco, coco.loadRes(detections), kind, print_function=logger.debug)
    run.params.maxDets = list(limits)
    run.evaluate()
    run.accumulate()
    return np.asarray(run.eval["precision"]), np.asarray(run.eval["recall"])


def ground_truth(dataset: Dataset) -> dict[str, Any]:
    """The images, annotations and categories of a data set in COCO's form.

    They come from the file it was read from, so that coordinates keep their last digit and the figures are those of the
    official tool; else (several data sets, one made in Python, or one that was repaired) from its records. Annotations
    are numbered afresh: ids may repeat between files, and the tool takes an id of 0 for "unmatched".
    """
    as_in_file = dataset.json_path is not None and not dataset.changes
    annotations = list(_file_annotations(dataset) if as_in_file else _record_annotations(dataset))
    for i, annotation in enumerate(annotations):
        annotation["id"] = i + 1
    images = [{"id": r.image_id, "height": r.size[0], "width": r.size[1]} for r in dataset]
    categories = zip(dataset.category_ids, dataset.class_names, strict=True)
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": category, "name": name} for category, name in categories],
    }


def _file_annotations(dataset: Dataset) -> Iterator[dict[str, Any]]:
    assert dataset.json_path is not None
    content = json.loads(dataset.json_path.read_text(encoding="utf-8"))
    images = set(dataset.image_ids.tolist())
    areas = {obj.id: obj.area for record in dataset for obj in record.objects}  # a file may lack them
    for a in content["annotations"]:
        if a["image_id"] in images:
            yield {
                "image_id": a["image_id"],
                "category_id": a["category_id"],
                "bbox": a["bbox"],
                "area": a.get("area", areas.get(a["id"], a["bbox"][2] * a["bbox"][3])),
                "iscrowd": int(a.get("iscrowd", 0)),
                "segmentation": a.get("segmentation"),
            }


def _record_annotations(dataset: Dataset) -> Iterator[dict[str, Any]]:
    for record in dataset:
        for obj in record.objects:
            x1, y1, x2, y2 = obj.box.astype(float).tolist()
            parts = obj.segmentation
            yield {
                "image_id": record.image_id,
                "category_id": dataset.category_ids[obj.label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": obj.area,
                "iscrowd": int(obj.crowd),
                "segmentation": polygons_as_written(parts) if isinstance(parts, list) else parts,
            }


def polygons_as_written(parts: list[np.ndarray]) -> list[list[float]]:
    """Records hold float32: rounded to a file's usual decimals, COCO's rasteriser gives the file's own masks again."""
    return [np.round(part.astype(float), 3).tolist() for part in parts]


def check_image_ids(dataset: Dataset) -> None:
    """Raises ValueError when two images have the same id, so that detections could not be told apart."""
    ids, counts = np.unique(dataset.image_ids, return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"data set {dataset.name!r}: {(counts > 1).sum()} image ids occur more than once (the first: "
            f"{ids[counts > 1][0]}); evaluate its parts one by one"
        )


def objects_per_category(truth: dict[str, Any], category_ids: Sequence[int]) -> np.ndarray:
    """How many objects, crowd regions apart, each category has."""
    counts = Counter(a["category_id"] for a in truth["annotations"] if not a["iscrowd"])
    return np.array([counts[category] for category in category_ids], dtype=int)


def number(value: float) -> str:
    return "-" if value < 0 else f"{value:.1f}"


def align(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text: the first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ([cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return "\n".join("  ".join([row[0].ljust(widths[0]), *cells[1:]]) for row, cells in zip(rows, padded, strict=True))
