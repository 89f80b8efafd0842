"""Several runs on one page: which is better, at what, by how much, on which images, and what was different."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.data import Dataset, DatasetError
from maskrcnn.engine.folder import INFERENCE
from maskrcnn.engine.report.analysed import KINDS, figures_of, judged, kind_data, known, match, quality_of
from maskrcnn.engine.report.differences import config_differences, short_names, side_by_side, start_differences
from maskrcnn.engine.report.examples import Cases, Groups, changes, fitting, left_off
from maskrcnn.engine.report.history import read_history, thinned
from maskrcnn.engine.report.page import render
from maskrcnn.engine.report.pictures import described, drawn_detections, drawn_objects, fitted, leave_off, read_picture
from maskrcnn.engine.report.results import Evaluated, ReportError, Results, evaluated_folder, write_page
from maskrcnn.engine.report.run_facts import describe_run
from maskrcnn.engine.writers.json_lines import METRICS_FILE
from maskrcnn.evaluation.analysis import ERRORS, Matches
from maskrcnn.evaluation.coco import ground_truth

COMPARISON_FILE = "comparison.html"

# With these the page stays below 15 MB.
IMAGES = 6_000_000  # bytes of text; each image is there once, its detections once for each run
DETECTIONS = 12_000  # drawn in all pictures of all runs
MASKS = 5_000_000  # bytes of text

POINTS = 1000  # of a run's curves
SAME_BOX = 0.01  # pixels: a mended file gives boxes in float32
NO_EXAMPLES: Cases = {name: ([], []) for name in ERRORS}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ComparedRun:
    """The folder of a run, and the test sets of its config by name; or why these cannot be read."""

    folder: Path
    test_sets: Mapping[str, Dataset]
    without_data: str = ""


@dataclass(frozen=True)
class Member:
    """One run's results of a test set that several have.

    Args:
        run: its place among the runs. name: how the page calls it.
        folder: of the results. figures: as the evaluator wrote them.
    """

    run: int
    name: str
    dataset: Dataset
    folder: Path
    figures: Mapping[str, Any]


def write_comparison(runs: Sequence[ComparedRun], path: Path) -> None:
    """Write one page about several runs, from what is in their folders.

    Raises:
        ReportError: fewer than two runs, one given twice, a file is missing or not what this package writes, or the
            page cannot be written.
    """
    start = time.perf_counter()
    write_page(render(comparison_data(runs), script="compare"), path)
    seconds = time.perf_counter() - start
    logger.info("comparison: %s (%.1f MB, made in %.1f s)", path, path.stat().st_size / 1e6, seconds)


def check_runs(folders: Sequence[Path]) -> None:
    """At least two, and none twice.

    Raises:
        ReportError: otherwise.
    """
    if len(folders) < 2:
        raise ReportError(f"{len(folders)} run to compare; name at least two folders of runs")
    places = [folder.resolve() for folder in folders]
    for i, place in enumerate(places):
        if place in places[:i]:
            raise ReportError(f"{folders[i]} and {folders[places.index(place)]} are the same run; name each run once")


def comparison_data(runs: Sequence[ComparedRun]) -> dict[str, Any]:
    """What the page shows, as plain values: see docs/report.md."""
    folders = [run.folder for run in runs]
    check_runs(folders)
    names = short_names(folders)
    histories = [read_history(folder / METRICS_FILE) for folder in folders]
    told = [describe_run(folder, *history) for folder, history in zip(folders, histories, strict=True)]
    shared, notes = compared_sets(runs, names)
    return {
        "format": 1,
        "title": f"Comparison: {', '.join(names)}",
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "runs": [
            {
                "name": name,
                "folder": str(folder.resolve()),
                "evaluated": vars(evaluated) if (evaluated := Evaluated.read(folder / INFERENCE)) else None,
                "training": thinned(training, most=POINTS),
                "evaluations": thinned(evaluations, most=POINTS),
            }
            for name, folder, (training, evaluations) in zip(names, folders, histories, strict=True)
        ],
        "not_compared": notes,
        "sets": [set_data(name, members, len(shared)) for name, members in shared.items()],
        "config": config_differences([run["config"] for run in told]),
        "starts": start_differences([run["run"] for run in told]),
        "timing": side_by_side([dict(run["run"]["timing"]) for run in told]),
    }


def compared_sets(runs: Sequence[ComparedRun], names: Sequence[str]) -> tuple[dict[str, list[Member]], list[str]]:
    """Who takes part in the comparison on which test set, at least two in each, and a line on each one who does not."""
    shared = {}
    unread = [(name, run.without_data) for name, run in zip(names, runs, strict=True) if run.without_data]
    notes = [f"{name}: its data cannot be read: {reason}" for name, reason in unread]
    for set_name in dict.fromkeys(name for run in runs for name in run.test_sets):
        members: list[Member] = []
        for i, run in enumerate(runs):
            if run.without_data:
                continue
            member, reason = member_of(set_name, run, i, names[i])
            if member and members:
                reason = difference(members[0], member)
            if reason:
                notes.append(f"{set_name}, {names[i]}: {reason}")
            elif member:
                members.append(member)
        if len(members) > 1:
            shared[set_name] = members
            notes += [f"{set_name}, {line}" for line in missing_kinds(members)]
        elif members:
            notes.append(f"{set_name}, {members[0].name}: no other run to compare it to")
    return shared, notes


def member_of(set_name: str, run: ComparedRun, index: int, name: str) -> tuple[Member | None, str]:
    """A run's results of a test set; or None, and why."""
    if set_name not in run.test_sets:
        return None, "it is not among its test sets"
    dataset = run.test_sets[set_name]
    folder = evaluated_folder(run.folder / INFERENCE, set_name, run.test_sets)
    if folder is None:
        return None, "it has no results; evaluate it with --eval-only"
    try:
        figures = figures_of(set_name, dataset, folder)
    except ReportError as error:
        return None, str(error)
    return Member(index, name, dataset, folder, figures), ""


def difference(first: Member, other: Member) -> str:
    """Why results cannot be compared; empty if they can."""
    if other.figures["classes"] != first.figures["classes"]:
        return f"its classes are not those of {first.name}"
    if other.dataset is first.dataset:
        return ""
    if not np.array_equal(np.sort(other.dataset.image_ids), np.sort(first.dataset.image_ids)):
        return f"its images are not those of {first.name}"
    if not same_objects(other.dataset, first.dataset):
        return f"its objects are not those of {first.name}"
    return ""


def same_objects(first: Dataset, other: Dataset) -> bool:
    """Whether the annotations of each image are alike and in the same order, as rows are counted."""
    tables = [objects_of(dataset) for dataset in (first, other)]
    if len(tables[0]) != len(tables[1]):
        return False
    (names, boxes), (other_names, other_boxes) = ((table[:, :3], table[:, 3:]) for table in tables)
    return bool((names == other_names).all() and np.allclose(boxes, other_boxes, rtol=0, atol=SAME_BOX))


def objects_of(dataset: Dataset) -> np.ndarray:
    """Image id, label, whether it is a crowd region, and box of each annotation, float64 (N, 7), image by image."""
    place = {category: label for label, category in enumerate(dataset.category_ids)}
    rows = [
        (a["image_id"], place[a["category_id"]], a["iscrowd"], *a["bbox"]) for a in ground_truth(dataset)["annotations"]
    ]
    table = np.array(rows, np.float64).reshape(-1, 7)
    return table[np.argsort(table[:, 0], kind="stable")]


def kinds_of(members: Sequence[Member]) -> list[str]:
    """What all of them have."""
    return [kind for kind in KINDS if all(kind in member.figures["kinds"] for member in members)]


def missing_kinds(members: Sequence[Member]) -> list[str]:
    return [
        f"{member.name}: it has no {word}, so {word} are not compared"
        for kind, word in KINDS.items()
        if any(kind in other.figures["kinds"] for other in members)
        for member in members
        if kind not in member.figures["kinds"]
    ]


def set_data(name: str, members: Sequence[Member], share: int) -> dict[str, Any]:
    """One test set: figures of each run, and the same images with the detections of each.

    A run's results are read twice, first all of them to be matched, then those of the chosen images; so the text of
    one run at a time is in memory.

    Args:
        share: how many sets there are, which have equal parts of the page.
    """
    kinds = kinds_of(members)
    matches = [match(Results(member.dataset, member.folder), kinds) for member in members]
    quality = np.stack([quality_of(found[kinds[0]]) for found in matches])
    detections = np.sum([np.diff(found[kinds[0]].detection_starts) for found in matches], axis=0)
    groups, chosen, size = fitting_groups(quality, detections, DETECTIONS // share)
    told = []
    try:
        pixels = read_images(members, chosen)
    except DatasetError as error:
        groups, chosen, pixels, told = {}, [], [], [f"There are no pictures: {error}"]
    drawn = pictures(members, matches, quality, chosen, pixels, IMAGES // share)
    sides = [picture["objects"] for picture in drawn]
    sides += [run["detections"] for picture in drawn for run in picture["runs"]]
    masks = leave_off(sides, MASKS // share)
    place = {image: i for i, image in enumerate(chosen)}
    first = members[0]
    return {
        "name": name,
        "images": len(first.dataset),
        "classes": first.figures["classes"],
        "objects": first.figures["objects"],
        "runs": [member.run for member in members],
        "kinds": {
            kind: [kind_of(member, kind, found[kind]) for member, found in zip(members, matches, strict=True)]
            for kind in kinds
        },
        "pictures": drawn,
        "groups": [{"name": group, "pictures": [place[i] for i in images]} for group, images in groups.items()],
        "left_off": told or left_off(size, *masks),
    }


def fitting_groups(quality: np.ndarray, detections: np.ndarray, most: int) -> tuple[Groups, list[int], int]:
    """Groups of images, as `changes` gives them: the largest in whose images there are no more detections than `most`.

    Args:
        quality: float (R, N). detections: int (N,), in each image, of all runs.

    Returns:
        the groups, all of their images, and the size of a group.
    """

    def choose(size: int) -> tuple[Groups, list[int]]:
        groups = changes(quality, size)
        return groups, sorted({image for group in groups.values() for image in group})

    return fitting(choose, detections, most)


def kind_of(member: Member, kind: str, matches: Matches) -> dict[str, Any]:
    """As in a run's report, without what is about single pictures and categories alone; curves have four digits."""
    own = member.figures["kinds"][kind] | kind_data(matches, NO_EXAMPLES, {})
    del own["confusion"]
    precision = {
        iou: [None if curve is None else [round(value, 4) for value in curve] for curve in curves]
        for iou, curves in own["precision"].items()
    }
    return own | {"precision": precision}


def read_images(members: Sequence[Member], chosen: Sequence[int]) -> list[np.ndarray]:
    """The chosen images, from the first run that has all of them: data may have moved since.

    Raises:
        DatasetError: none has; of the first run's images, one that cannot be read.
    """
    failed: DatasetError | None = None
    for member in members:
        order = np.argsort(member.dataset.image_ids, kind="stable")
        try:
            return [read_picture(member.dataset[int(order[i])]) for i in chosen]
        except DatasetError as error:
            failed = failed or error
    assert failed, "there are members"
    raise failed


def pictures(
    members: Sequence[Member],
    matches: Sequence[Mapping[str, Matches]],
    quality: np.ndarray,
    chosen: Sequence[int],
    pixels: Sequence[np.ndarray],
    budget: int,
) -> list[dict[str, Any]]:
    """Images and objects once, these as the first run has them; detections and what was made of them of each run."""
    shown: list[dict[str, Any]] = []
    side, images = fitted(pixels, budget)
    for number, (member, found) in enumerate(zip(members, matches, strict=True)):
        results = Results(member.dataset, member.folder)
        if not shown:
            records = [results.record(i) for i in chosen]
            shown = [
                {
                    **described(record, side),
                    "webp": image,
                    "objects": {
                        **drawn_objects(record, results[i][0], results.label_of, side),
                        "counted": judged(i, found)["objects"]["counted"],
                    },
                    "runs": [],
                }
                for record, image, i in zip(records, images, chosen, strict=True)
            ]
        for i, picture in zip(chosen, shown, strict=True):
            its = judged(i, found)
            detections = drawn_detections(results.record(i), results[i][1], results.label_of, side)
            picture["runs"].append(
                {
                    "quality": known(round(float(quality[number, i]), 4)),
                    "found_by": its["objects"]["found_by"],
                    "detections": {**detections, **its["detections"]},
                }
            )
    return shown
