"""COCO's AP of boxes, masks and keypoints (cocodataset.org/#detection-eval, #keypoints-eval), by faster-coco-eval.

pycocotools is the reference.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from maskrcnn.data.records import Dataset
from maskrcnn.distributed import from_main, gather_bytes_to_main
from maskrcnn.evaluation.coco_figures import (
    BY_CLASS,
    KEYPOINT_FIGURES,
    KEYPOINT_LIMITS,
    KEYPOINTS_BY_CLASS,
    by_class,
    figure_names,
    number,
    precision_curves,
    summarise,
    summarise_keypoints,
)
from maskrcnn.evaluation.explain import doubts, explain
from maskrcnn.evaluation.results import detections_to_coco, write_json
from maskrcnn.evaluation.tables import aligned
from maskrcnn.registry import EVALUATORS
from maskrcnn.structures.instances import Detections
from maskrcnn.structures.samples import Sample

logger = logging.getLogger(__name__)

KINDS = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}  # COCO's words and ours
FIELDS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}  # of a result
RESULTS_FILE = "coco_instances_results.json"
FIGURES_FILE = "coco_figures.json"


@EVALUATORS.register("coco")
class CocoEvaluator:
    """COCO box AP and, for a data set with masks, mask AP: twelve figures each, 0..100, or -1 without ground truth.

    `bbox/AP` (mean over IoU 0.50:0.05:0.95), `AP50`, `AP75`, `APs`, `APm`, `APl`, `AR@1`, `AR@10`, `AR@100`, `ARs`,
    `ARm`, `ARl`, then the AP of each class, such as `bbox/AP-person`; and the same under `segm/`. AP and the AR by size
    consider `detections_per_image` detections of an image, in every category; where that is not 100, the last `AR@` has
    its number.

    Images without annotations (`Dataset.annotated`, such as COCO's test-dev) have no metrics; instead the files for the
    official server are written, see `server_file`, if the images are in COCO's format.

    Args:
        dataset: the images and their ground truth.
        output_dir: where `coco_instances_results.json`, and the figures with their curves, `coco_figures.json`, are
            written; None writes nothing.
        detections_per_image: the number that the model keeps.
        masks: whether the detections have masks; None assumes it where the data set has them.
        keypoints: whether to evaluate keypoints too (`CocoKeypointEvaluator`).
    """

    outputs = Detections

    def __init__(
        self,
        dataset: Dataset,
        output_dir: Path | None,
        detections_per_image: int,
        *,
        masks: bool | None = None,
        keypoints: bool = False,
    ) -> None:
        if detections_per_image < 1:
            raise ValueError(f"detections per image is {detections_per_image}; it must be at least 1")
        self.dataset, self.output_dir = dataset, output_dir
        self.limits = (*(k for k in (1, 10) if k < detections_per_image), detections_per_image)
        wanted = {"bbox": True, "segm": dataset.has_masks if masks is None else masks, "keypoints": keypoints}
        self.kinds = tuple(kind for kind in KINDS if wanted[kind]) if dataset.annotated else ()
        self.class_names = distinct_names(dataset)
        self.metrics = tuple(name for kind in self.kinds for name in (*self._overall(kind), *self._by_class(kind)))
        check_image_ids(dataset)
        self._known_images = set(dataset.image_ids.tolist())
        self._blocks: dict[int | str, bytes] = {}  # results as JSON: a third of the memory
        self._given = {"bbox"}  # kinds that the detections have, also where there are none
        self._figures = dict.fromkeys(self.metrics, -1.0)
        self._objects = [0] * len(dataset.category_ids)

    def _figures_of(self, kind: str) -> tuple[str, ...]:
        return KEYPOINT_FIGURES if kind == "keypoints" else figure_names(self.limits)

    def _overall(self, kind: str) -> list[str]:
        return [f"{kind}/{name}" for name in self._figures_of(kind)]

    def _by_class(self, kind: str) -> list[str]:
        return [f"{kind}/AP-{name}" for name in self.class_names]

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
            found = {"segm": detections.masks, "keypoints": detections.keypoints}
            self._given |= {kind for kind, values in found.items() if values is not None}
            results = detections_to_coco(detections, sample.image_id, self.dataset.category_ids)
            self._blocks[sample.image_id] = json.dumps([sample.image_id, results], allow_nan=False).encode()

    def result(self) -> dict[str, float]:
        """The figures over all ranks. The main process computes them and writes the file; the others wait for it."""
        by_image = dict(map(json.loads, gather_bytes_to_main(list(self._blocks.values()))))  # none counted twice
        self._blocks.clear()
        self._figures, self._objects = from_main(lambda: self._compute(by_image))
        return dict(self._figures)

    def _compute(self, by_image: Mapping[Any, list[dict[str, Any]]]) -> tuple[dict[str, float], list[int]]:
        """The figures, and how many objects each category has."""
        results = [result for image in sorted(by_image) for result in by_image[image]]
        if self.output_dir is not None:  # before the detections: figures beside those of another evaluation mislead
            with suppress(OSError):
                (self.output_dir / FIGURES_FILE).unlink(missing_ok=True)
        self._write(RESULTS_FILE, results)
        if not self.dataset.annotated:
            logger.info("no ground truth in %s, so no figures", self.dataset.source)
            if self.dataset.json_path is not None:  # others, such as Cityscapes, have a server of their own
                self._write_for_server(results)
            return {}, []
        truth = ground_truth(self.dataset)
        if len(by_image) < len(self._known_images):
            logger.warning(
                "%d of %d images were evaluated; the others count as images without detections",
                len(by_image),
                len(self._known_images),
            )
        for line in doubts(truth, results):
            logger.warning(line)
        figures = dict.fromkeys(self.metrics, -1.0)
        details: dict[str, Any] = {}
        for kind in self.kinds:
            if results and FIELDS[kind] not in results[0]:
                logger.warning("the detections have no %ss, so every %s figure is -1", KINDS[kind], kind)
                continue
            is_points = kind == "keypoints"
            precision, recall = run_coco(truth, results, kind, KEYPOINT_LIMITS if is_points else self.limits)
            if is_points:
                overall = summarise_keypoints(precision, recall)
            else:
                overall = summarise(precision, recall, self.limits)
            of_classes = by_class(precision, recall).tolist()
            figures |= zip(self._overall(kind), overall, strict=True)
            figures |= zip(self._by_class(kind), (row[0] for row in of_classes), strict=True)
            details[kind] = {
                "figures": dict(zip(self._figures_of(kind), overall, strict=True)),
                "by_class": {"columns": KEYPOINTS_BY_CLASS if is_points else BY_CLASS, "rows": of_classes},
                "precision": precision_curves(precision),
            }
        if "keypoints" in self.kinds and not any(a.get("num_keypoints") for a in truth["annotations"]):
            logger.warning("no object of the ground truth has a labelled keypoint, so every keypoints figure is -1")
        regions = [kind for kind in details if kind != "keypoints"]
        without_classes = {name: figures[name] for kind in regions for name in self._overall(kind)}
        for line in explain(truth, results, without_classes):
            logger.warning(line)
        objects = objects_per_category(truth, self.dataset.category_ids)
        self._write(
            FIGURES_FILE,
            {"images": len(self.dataset), "classes": self.class_names, "objects": objects, "kinds": details},
        )
        return figures, objects

    def _write_for_server(self, results: Sequence[dict[str, Any]]) -> None:
        """A file for each kind of detections that there are: sizes are told by the mask only where there is no box."""
        for kind in (kind for kind in KINDS if kind in self._given):
            fields = ("image_id", "category_id", "score", FIELDS[kind])
            name = server_file(self.dataset, kind)
            self._write(name, [{field: result[field] for field in fields} for result in results])
            if self.output_dir is not None:
                logger.info("for the COCO server, task %s: %s", kind, self.output_dir / name)

    def _write(self, name: str, content: Any) -> None:
        if self.output_dir is None:
            return
        path = self.output_dir / name
        try:
            path.unlink(missing_ok=True)  # of an earlier evaluation, which it is not to be taken for
            write_json(path, content)
        except OSError as error:  # a full disk: the figures are worth more than the file
            logger.error("the results file %s could not be written: %s; the figures do not need it", path, error)

    def table(self) -> str:
        """The last result as text: the figures over all categories, then objects and AP of each category."""
        if not self.dataset.annotated:
            return "no ground truth, so no figures"
        tables = []
        for kinds in (("bbox", "segm"), ("keypoints",)):  # the figures of keypoints are others
            rows = [
                [KINDS[kind], *(number(self._figures[name]) for name in self._overall(kind))]
                for kind in kinds
                if kind in self.kinds
            ]
            if rows:
                tables.append(aligned([["", *self._figures_of(kinds[0])], *rows]))
        columns = [[number(self._figures[name]) for name in self._by_class(kind)] for kind in self.kinds]
        categories = [["category", "objects", *(f"{KINDS[kind]} AP" for kind in self.kinds)]]
        categories += map(list, zip(self.class_names, map(str, self._objects), *columns, strict=True))
        return "\n\n".join([*tables, aligned(categories)])


@EVALUATORS.register("coco_keypoints")
class CocoKeypointEvaluator(CocoEvaluator):
    """`CocoEvaluator` with keypoints too: ten more figures under `keypoints/`, whose IoU is the OKS.

    `keypoints/AP` (mean over OKS 0.50:0.05:0.95), `AP50`, `AP75`, `APm`, `APl`, `AR`, `AR50`, `AR75`, `ARm`, `ARl`,
    then the AP of each class. The best 20 detections of an image count, by the score of their boxes.

    Raises:
        ValueError: the data set has no keypoints.
    """

    def __init__(
        self, dataset: Dataset, output_dir: Path | None, detections_per_image: int, *, masks: bool | None = None
    ) -> None:
        if dataset.annotated and not dataset.has_keypoints:
            raise ValueError(
                f"{dataset.source} has no keypoints for the evaluator 'coco_keypoints'; evaluate with 'coco', or use "
                "annotations with keypoints"
            )
        super().__init__(dataset, output_dir, detections_per_image, masks=masks, keypoints=True)


def server_file(dataset: Dataset, kind: str) -> str:
    """What COCO's server wants a results file to be called, in a folder for its kind: boxes and masks have one name.

    `bbox/detections_test-dev2017_maskrcnn_results.json`, `segm/` with the same, and
    `keypoints/person_keypoints_test-dev2017_maskrcnn_results.json`; `maskrcnn` is the name of the method.
    """
    task = "person_keypoints" if kind == "keypoints" else "detections"
    assert dataset.json_path is not None, f"{dataset.name} is not in COCO's format"
    images = dataset.json_path.stem.removeprefix("image_info_")
    return f"{kind}/{task}_{images}_maskrcnn_results.json"


def run_coco(
    truth: dict[str, Any], results: Sequence[dict[str, Any]], kind: str, limits: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Precision (T, R, K, A, M) and recall (T, K, A, M) by faster-coco-eval.

    Args:
        truth: as `ground_truth` gives it.
        results: in COCO's form.
        kind: "bbox", "segm" or "keypoints".
        limits: numbers of detections per image, ascending.
    """
    # Without `bbox` in the results the area of a mask is that of its pixels, by which the official tool sorts it into
    # small, medium and large, and that of keypoints what they span; with `bbox` it would silently be that of the box.
    keys = ("image_id", "category_id", "score", FIELDS[kind])
    detections = [{key: result[key] for key in keys} for result in results]
    annotations = [dict(a) for a in truth["annotations"] if a.get(FIELDS[kind])]  # copied, as the tool adds keys
    if kind == "segm" and (without := len(truth["annotations"]) - len(annotations)):
        logger.warning("%d annotations have no segmentation and are left out of the segm figures", without)
    coco = COCO({**truth, "annotations": annotations})
    run = COCOeval_faster(coco, coco.loadRes(detections), kind, print_function=logger.debug)
    run.params.maxDets = list(limits)
    run.params.catIds = sorted(coco.getCatIds())  # of keypoints the tool takes only those with annotations
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
                **({"keypoints": a["keypoints"], "num_keypoints": visible(a["keypoints"])} if "keypoints" in a else {}),
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
                **({} if obj.keypoints is None else keypoints_as_written(obj.keypoints)),
            }


def polygons_as_written(parts: list[np.ndarray]) -> list[list[float]]:
    """Records hold float32: rounded to a file's usual decimals, COCO's rasteriser gives the file's own masks again."""
    return [np.round(part.astype(float), 3).tolist() for part in parts]


def keypoints_as_written(keypoints: np.ndarray) -> dict[str, Any]:
    """Records hold float32 at pixel centres, a file pixel indices, and zeros for what is not labelled."""
    points = keypoints.astype(float)
    points[:, :2] = np.where(points[:, 2:] > 0, np.round(points[:, :2] - 0.5, 3), 0)
    values = points.flatten().tolist()
    return {"keypoints": values, "num_keypoints": visible(values)}


def visible(keypoints: Sequence[float]) -> int:
    """How many keypoints are labelled, of x, y, visibility in turn."""
    return sum(visibility > 0 for visibility in keypoints[2::3])


def check_image_ids(dataset: Dataset) -> None:
    """Raises ValueError when two images have the same id, so that detections could not be told apart."""
    ids, counts = np.unique(dataset.image_ids, return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"data set {dataset.name!r}: {(counts > 1).sum()} image ids occur more than once (the first: "
            f"{ids[counts > 1][0]}); evaluate its parts one by one"
        )


def distinct_names(dataset: Dataset) -> list[str]:
    """The class names by label; one that an earlier class has too gets its category id, as in a repaired file."""
    names = dataset.class_names
    return [
        f"{name} ({category})" if name in names[:label] else name
        for label, (name, category) in enumerate(zip(names, dataset.category_ids, strict=True))
    ]


def objects_per_category(truth: dict[str, Any], category_ids: Sequence[int]) -> list[int]:
    """How many objects, crowd regions apart, each category has."""
    counts = Counter(a["category_id"] for a in truth["annotations"] if not a["iscrowd"])
    return [counts[category] for category in category_ids]
