"""The report of a run: all that its folder tells, as one page."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from maskrcnn.atomic import WholeFile
from maskrcnn.data import Dataset
from maskrcnn.engine.report.examples import groups, spread
from maskrcnn.engine.report.history import read_history, thinned
from maskrcnn.engine.report.page import render
from maskrcnn.engine.report.pictures import Picture, encode, read_picture
from maskrcnn.engine.report.results import INFERENCE, Evaluated, ReportError, Results, read_figures, results_folder
from maskrcnn.engine.report.run_facts import describe_run
from maskrcnn.engine.writers.json_lines import METRICS_FILE
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

REPORT_FILE = "report.html"
BUDGET = 9_000_000  # bytes of all images, as text; with everything else the page stays below 15 MB

T = TypeVar("T")

logger = logging.getLogger(__name__)


def report_on(
    folder: Path,
    test_sets: Mapping[str, Dataset],
    evaluated: Evaluated,
    *,
    page: bool = True,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Note what was evaluated and write the report. That it fails is a warning: a run is worth more than its page.

    Args:
        page: False only takes the note, with which `maskrcnn report` makes the page later.
        stop: as for `write_report`.
    """
    try:
        evaluated.write(folder / INFERENCE)
        if page:
            write_report(folder, test_sets, stop=stop)
    except ReportError as error:
        logger.warning("no report: %s", error)
    except Exception as error:  # whatever it is, the evaluation is done, and a training goes on
        logger.warning("no report, by an error in making it: %s", error, exc_info=error)


def write_report(folder: Path, test_sets: Mapping[str, Dataset], *, stop: Callable[[], bool] = lambda: False) -> Path:
    """Write the report of a run's folder, from what is there: metrics, the last evaluation's results, the config.

    Args:
        test_sets: that were evaluated, by name.
        stop: asked now and then whether to give up.

    Raises:
        ReportError: a file is missing or not what this package writes; or it was asked to give up.
        DatasetError: an image cannot be read.
    """
    start = time.perf_counter()
    path = folder / REPORT_FILE
    text = render(report_data(folder, test_sets, stop=stop))
    with WholeFile(path) as part:
        part.write_text(text, encoding="utf-8")
    seconds = time.perf_counter() - start
    logger.info("report: %s (%.1f MB, made in %.1f s)", path, path.stat().st_size / 1e6, seconds)
    return path


def report_data(
    folder: Path, test_sets: Mapping[str, Dataset], *, stop: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """What the page shows, as plain values: see docs/report.md."""
    inference = folder / INFERENCE
    evaluated = Evaluated.read(inference)
    training, evaluations = read_history(folder / METRICS_FILE)
    return {
        "format": 1,
        "title": folder.resolve().name,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        **describe_run(folder, training, evaluations),
        "training": thinned(training),
        "evaluations": evaluations,
        "sets": [
            set_data(
                name, dataset, results_folder(inference, name, test_sets), evaluated, BUDGET // len(test_sets), stop
            )
            for name, dataset in test_sets.items()
            if read_figures(results_folder(inference, name, test_sets))
        ],
    }


def set_data(
    name: str, dataset: Dataset, folder: Path, evaluated: Evaluated | None, budget: int, stop: Callable[[], bool]
) -> dict[str, Any]:
    """One test set: the evaluator's figures, what its detections tell beyond them, and pictures."""
    figures = figures_of(name, dataset, folder)
    assert figures is not None
    results = Results(dataset, folder)
    kinds = [kind for kind in ("segm", "bbox") if kind in figures["kinds"]]
    matches = match(results, kinds, stop)
    quality = quality_of(matches[kinds[0]])
    shown = groups(quality)
    cases = {kind: examples_of(found) for kind, found in matches.items()}
    of_errors = {image for by_error in cases.values() for images, _ in by_error.values() for image in images}
    chosen = sorted({image for group in shown.values() for image in group} | of_errors)
    place = {image: i for i, image in enumerate(chosen)}
    return {
        "name": name,
        "images": len(dataset),
        "evaluated": evaluated.what if evaluated else "",
        "classes": figures["classes"],
        "objects": figures["objects"],
        "kinds": {
            kind: figures["kinds"][kind] | kind_data(found, cases[kind], place) for kind, found in matches.items()
        },
        "pictures": encode(
            [picture(results, i, matches, quality) for i in asked(chosen, stop)], results.label_of, budget
        ),
        "groups": [{"name": group, "pictures": [place[i] for i in images]} for group, images in shown.items()],
    }


def figures_of(name: str, dataset: Dataset, folder: Path) -> dict[str, Any] | None:
    """The evaluator's figures of a test set; None where it was not evaluated.

    Raises:
        ReportError: they are of other data.
    """
    figures = read_figures(folder)
    if figures and (len(figures["classes"]) != len(dataset.class_names) or figures["images"] != len(dataset)):
        raise ReportError(
            f"{folder} has results of {figures['images']} images and {len(figures['classes'])} classes, but the data "
            f"set {name!r} has {len(dataset)} and {len(dataset.class_names)}; evaluate again with --eval-only"
        )
    return figures


def quality_of(matches: Matches) -> np.ndarray:
    """Panoptic quality of each image, float64 (N,), at the score of the best F1."""
    best, _ = best_f1(matches)
    return panoptic_quality(matches, best["threshold"] if best else 0.5)


def match(results: Results, kinds: Sequence[str], stop: Callable[[], bool] = lambda: False) -> dict[str, Matches]:
    """Detections and objects of all images compared, as boxes and as masks."""
    found: dict[str, list[ImageMatches]] = {kind: [] for kind in kinds}
    for i in asked(range(len(results)), stop):
        annotations, rows = results[i]
        for kind in kinds:
            found[kind].append(match_image(annotations, rows, kind, results.size(i), results.label_of))
    num_classes = len(results.dataset.class_names)
    return {kind: Matches.of(images, num_classes) for kind, images in found.items()}


def examples_of(matches: Matches) -> dict[str, tuple[list[int], list[int]]]:
    """Images, and rows of their detections (of objects, for "missed"), of examples of each type of error."""
    image, row = matches.image, matches.rows
    cases = {
        name: (np.flatnonzero(matches.error == code), image, row, matches.scores)
        for code, name in enumerate(ERRORS)
        if name != "missed"
    }
    cases["missed"] = np.flatnonzero(matches.missed), matches.object_image, matches.object_rows, matches.areas
    examples = {}
    for name, (indices, images, rows, weights) in cases.items():
        chosen = indices[spread(images[indices], weights[indices])]
        examples[name] = images[chosen].tolist(), rows[chosen].tolist()
    return examples


def kind_data(
    matches: Matches, cases: Mapping[str, tuple[list[int], list[int]]], place: Mapping[int, int]
) -> dict[str, Any]:
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


def picture(results: Results, i: int, matches: Mapping[str, Matches], quality: np.ndarray) -> Picture:
    """One image, with what the evaluation made of its objects and detections."""
    record, (annotations, rows) = results.record(i), results[i]
    return Picture(
        record=record,
        pixels=read_picture(record),
        annotations=annotations,
        results=rows,
        quality=known(round(float(quality[i]), 4)),
        judged=judged(i, matches),
    )


def judged(i: int, matches: Mapping[str, Matches]) -> dict[str, dict[str, Any]]:
    """What the evaluation made of the objects and of the detections of the i-th image, by kind."""
    objects: dict[str, Any] = {"found_by": {}}
    detections: dict[str, Any] = {"error": {}, "iou": {}}
    for kind, found in matches.items():
        its = found.of_image(i)
        objects["found_by"][kind] = its.found_by.tolist()
        detections["error"][kind] = [
            "crowd" if ignored else "" if code < 0 else ERRORS[code]
            for ignored, code in zip(its.ignored.tolist(), its.error.tolist(), strict=True)
        ]
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
