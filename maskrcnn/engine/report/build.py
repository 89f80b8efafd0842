"""The report of a run: all that its folder tells, as one page."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.checkpoint import write_atomically
from maskrcnn.data import Dataset
from maskrcnn.engine.folder import CONFIG_FILE, INFERENCE
from maskrcnn.engine.report.analysed import (
    KINDS,
    asked,
    examples_of,
    figures_of,
    judged,
    kind_data,
    known,
    match,
    objects_in,
    quality_of,
)
from maskrcnn.engine.report.examples import EXAMPLES, GROUP, Cases, Groups, fitting, groups, left_off
from maskrcnn.engine.report.history import read_history, thinned
from maskrcnn.engine.report.page import render
from maskrcnn.engine.report.pictures import Picture, encode, leave_off, read_picture
from maskrcnn.engine.report.results import (
    Evaluated,
    ReportError,
    Results,
    evaluated_folder,
    write_page,
)
from maskrcnn.engine.report.run_facts import describe_run
from maskrcnn.engine.writers.json_lines import METRICS_FILE
from maskrcnn.evaluation.analysis import Matches

REPORT_FILE = "report.html"

# Bytes of text; with everything else the page stays below 15 MB.
IMAGES = 8_000_000
DRAWN = 4_000_000  # objects and detections in all pictures
ROWS = 2_500_000  # of these, what is not masks, about
ROW, KEYPOINTS = 80, 350  # of one object or detection

logger = logging.getLogger(__name__)


def report_on(
    folder: Path,
    test_sets: Mapping[str, Dataset],
    evaluated: Evaluated,
    *,
    config: str,
    page: bool = True,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Note what was evaluated and write the report. That it fails is a warning: a run is worth more than its page.

    Args:
        config: of the evaluation, YAML.
        page: False only takes the note, with which `maskrcnn report` makes the page later.
        stop: as for `write_report`.
    """
    try:
        evaluated.write(folder / INFERENCE)
        write_atomically(folder / INFERENCE / CONFIG_FILE, config.encode())
        if page:
            write_report(folder, test_sets, stop=stop)
    except ReportError as error:
        later = f"; `maskrcnn report {shlex.quote(str(folder))}` makes it" if stop() else ""
        logger.warning("no report: %s%s", error, later)
    except Exception as error:  # whatever it is, the evaluation is done, and a training goes on
        logger.warning("no report, by an error in making it: %s", error, exc_info=error)


def write_report(folder: Path, test_sets: Mapping[str, Dataset], *, stop: Callable[[], bool] = lambda: False) -> Path:
    """Write the report of a run's folder, from what is there: metrics, the last evaluation's results, the config.

    Args:
        test_sets: that were evaluated, by name.
        stop: asked now and then whether to give up.

    Raises:
        ReportError: a file is missing or not what this package writes; the page cannot be written; or it was asked to
            give up.
        DatasetError: an image cannot be read.
    """
    start = time.perf_counter()
    path = folder / REPORT_FILE
    write_page(render(report_data(folder, test_sets, stop=stop)), path)
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
    folders = {name: found for name in test_sets if (found := evaluated_folder(inference, name, test_sets))}
    return {
        "format": 1,
        "title": folder.resolve().name,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        **describe_run(folder, training, evaluations),
        "training": thinned(training),
        "evaluations": thinned(evaluations),
        "sets": [
            set_data(name, test_sets[name], results, evaluated, len(folders), stop) for name, results in folders.items()
        ],
    }


def set_data(
    name: str, dataset: Dataset, folder: Path, evaluated: Evaluated | None, share: int, stop: Callable[[], bool]
) -> dict[str, Any]:
    """One test set: the evaluator's figures, what its detections tell beyond them, and pictures.

    Args:
        share: how many sets there are, which have equal parts of the page.
    """
    figures = figures_of(name, dataset, folder)
    results = Results(dataset, folder)
    kinds = [kind for kind in KINDS if kind in figures["kinds"]]
    matches = match(results, kinds, stop)
    quality = quality_of(matches[kinds[0]])
    rows = np.diff(matches[kinds[0]].detection_starts) + np.diff(matches[kinds[0]].object_starts)
    text = rows * (ROW + KEYPOINTS * dataset.has_keypoints)
    choose = partial(to_show, matches, quality, objects_in(matches[kinds[0]]))
    (shown, cases), chosen, size = fitting(choose, text, ROWS // share)
    pictures = encode(
        [picture(results, i, matches, quality) for i in asked(chosen, stop)], results.label_of, IMAGES // share
    )
    sides = [picture[side] for picture in pictures for side in ("objects", "detections")]
    masks = leave_off(sides, DRAWN // share - int(text[chosen].sum()))
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
        "pictures": pictures,
        "groups": [{"name": group, "pictures": [place[i] for i in images]} for group, images in shown.items()],
        "left_off": left_off(size, *masks),
    }


def to_show(
    matches: Mapping[str, Matches], quality: np.ndarray, objects: np.ndarray, size: int
) -> tuple[tuple[Groups, dict[str, Cases]], list[int]]:
    """Groups of so many images and examples of errors by kind; all images in these."""
    shown = groups(quality, objects, size)
    cases = {kind: examples_of(found, -(-EXAMPLES * size // GROUP)) for kind, found in matches.items()}
    of_errors = {image for by_error in cases.values() for images, _ in by_error.values() for image in images}
    return (shown, cases), sorted({image for group in shown.values() for image in group} | of_errors)


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
