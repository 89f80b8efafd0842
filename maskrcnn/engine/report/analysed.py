"""What a run's detections tell beyond the evaluator's figures: one data set, image by image, as plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from maskrcnn.data import Dataset
from maskrcnn.engine.report.examples import Cases, spread
from maskrcnn.engine.report.results import ReportError, Results, read_figures
from maskrcnn.evaluation.analysis import (
    ERRORS,
    ImageMatches,
    Matches,
    ap50,
    best_f1,
    calibration,
    confusion,
    error_counts,
    gains,
    match_image,
    panoptic_quality,
    score_counts,
)
from maskrcnn.evaluation.coco import distinct_names, ground_truth, objects_per_category

KINDS = {"segm": "masks", "bbox": "boxes"}  # of detections, as the evaluator calls them; the first one is shown first

T = TypeVar("T")


def figures_of(name: str, dataset: Dataset, folder: Path) -> dict[str, Any]:
    """The evaluator's figures of a test set.

    Raises:
        ReportError: they are of other data.
    """
    figures = read_figures(folder)
    if len(figures["classes"]) != len(dataset.class_names) or figures["images"] != len(dataset):
        raise ReportError(
            f"{folder} has results of {figures['images']} images and {len(figures['classes'])} classes, but the data "
            f"set {name!r} has {len(dataset)} and {len(dataset.class_names)}; evaluate again with --eval-only"
        )
    objects = objects_per_category(ground_truth(dataset), dataset.category_ids)
    if (figures["classes"], figures["objects"]) != (distinct_names(dataset), objects):
        raise ReportError(
            f"{folder} has results of other classes or of {sum(figures['objects'])} objects, but the data set {name!r} "
            f"has {sum(objects)}; evaluate again with --eval-only"
        )
    return figures


def match(results: Results, kinds: Sequence[str], stop: Callable[[], bool] = lambda: False) -> dict[str, Matches]:
    """Detections and objects of all images compared, as boxes and as masks."""
    found: dict[str, list[ImageMatches]] = {kind: [] for kind in kinds}
    for i in asked(range(len(results)), stop):
        annotations, rows = results[i]
        for kind in kinds:
            found[kind].append(match_image(annotations, rows, kind, results.size(i), results.label_of))
    num_classes = len(results.dataset.class_names)
    return {kind: Matches.of(images, num_classes) for kind, images in found.items()}


def quality_of(matches: Matches) -> np.ndarray:
    """Panoptic quality of each image, float64 (N,), at the score of the best F1."""
    best, _ = best_f1(matches)
    return panoptic_quality(matches, best["threshold"] if best else 0.5)


def objects_in(matches: Matches) -> np.ndarray:
    """How many objects each image has: int64 (N,)."""
    return np.bincount(matches.object_image[matches.counted], minlength=matches.num_images)


def examples_of(matches: Matches, count: int) -> Cases:
    """Images, and rows of their detections (of objects, for "missed"), of so many examples of each type of error."""
    image, row = matches.image, matches.rows
    cases = {
        name: (np.flatnonzero(matches.error == code), image, row, matches.scores)
        for code, name in enumerate(ERRORS)
        if name != "missed"
    }
    cases["missed"] = np.flatnonzero(matches.missed), matches.object_image, matches.object_rows, matches.areas
    examples = {}
    for name, (indices, images, rows, weights) in cases.items():
        chosen = indices[spread(images[indices], weights[indices], count)]
        examples[name] = images[chosen].tolist(), rows[chosen].tolist()
    return examples


def kind_data(matches: Matches, cases: Cases, place: Mapping[int, int]) -> dict[str, Any]:
    """What detections, as boxes or as masks, tell beyond the evaluator's figures.

    Args:
        cases: as `examples_of` gives them.
        place: of the images among the pictures.
    """
    true, false = score_counts(matches)
    overall, by_class = best_f1(matches)
    gained, counts = gains(matches), error_counts(matches)
    types = [
        {
            "name": name,
            "count": int(counts[code].sum()),
            "gain": known(gained[name]),
            "by_class": counts[code].tolist(),
            "examples": [[place[image], row] for image, row in zip(*cases[name], strict=True)],
        }
        for code, name in enumerate(ERRORS)
    ]
    return {
        "counts": {"true": true.tolist(), "false": false.tolist()},
        "best_f1": {"all": overall, "by_class": by_class},
        "calibration": calibration(matches),
        "confusion": confusion(matches),
        "errors": {
            "ap50": known(ap50(matches)),
            "types": types,
            "gain_false": known(gained["false_positives"]),
            "gain_missed": known(gained["false_negatives"]),
        },
    }


def judged(i: int, matches: Mapping[str, Matches]) -> dict[str, dict[str, Any]]:
    """What the evaluation made of the objects and of the detections of the i-th image, by kind.

    Of each object: `found_by`, row of its detection, -1 of none; `counted`, 0 or 1.
    Of each detection: `error`; `about`, row of the object that it found or its error is about, -1 of none; `iou` with
    that object, else the greatest with any.
    """
    objects: dict[str, Any] = {"found_by": {}, "counted": {}}
    detections: dict[str, Any] = {"error": {}, "about": {}, "iou": {}}
    for kind, found in matches.items():
        its = found.of_image(i)
        objects["found_by"][kind] = its.found_by.tolist()
        objects["counted"][kind] = its.counted.astype(int).tolist()
        detections["error"][kind] = [
            "crowd" if ignored else "" if code < 0 else ERRORS[code]
            for ignored, code in zip(its.ignored.tolist(), its.error.tolist(), strict=True)
        ]
        detections["about"][kind] = np.maximum(its.found, its.target).tolist()
        detections["iou"][kind] = its.overlap.round(3).tolist()
    return {"objects": objects, "detections": detections}


def known(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def asked(items: Iterable[T], stop: Callable[[], bool]) -> Iterator[T]:
    """The items, until somebody asks to stop."""
    for item in items:
        if stop():
            raise ReportError("the run was asked to stop")
        yield item
