"""Cityscapes' AP against the official cityscapesscripts and by hand; results files; several processes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from cityscapes_sets import SEVERAL, SIZE, found, guesses, official, sample, street, write_image
from processes import in_processes

from maskrcnn.data import DatasetError, dataset
from maskrcnn.data.datasets.cityscapes import CLASSES, ids_path
from maskrcnn.data.records import Dataset
from maskrcnn.evaluation import CityscapesEvaluator
from maskrcnn.evaluation.cityscapes import FIGURES_FILE, RESULTS_FOLDER, average_precision, judge, write_results
from maskrcnn.registry import EVALUATORS
from maskrcnn.structures import Detections

VAL, TEST = "cityscapes_fine_instance_seg_val", "cityscapes_fine_instance_seg_test"


def write_data(root: Path, images: list[np.ndarray]) -> Dataset:
    for i, ids in enumerate(images):
        write_image(root, f"ulm_{i:06d}_000019", ids)
    return dataset(VAL, root)


def compare_with_official(root: Path, images: list[np.ndarray], outputs: list[Detections]) -> dict[str, float]:
    """Our figures, which are those of the official tool on the files that we wrote for it."""
    data = write_data(root, images)
    evaluator = CityscapesEvaluator(data, None, 100)
    for record, detections in zip(data, outputs, strict=True):
        evaluator.process([sample(record.image_id, record.size)], [detections])
        write_results(root / "results", record.path, detections)
    figures, theirs = evaluator.result(), official(root, root / "results")
    expected = {"cityscapes/AP": theirs["allAp"], "cityscapes/AP50": theirs["allAp50%"]}
    for name in CLASSES:
        expected[f"cityscapes/AP-{name}"] = theirs["classes"][name]["ap"]
        expected[f"cityscapes/AP50-{name}"] = theirs["classes"][name]["ap50%"]
    expected = {name: -1 if math.isnan(value) else 100 * value for name, value in expected.items()}
    assert tuple(figures) == evaluator.metrics and figures.keys() == expected.keys()
    assert figures == pytest.approx(expected, abs=1e-6)
    return figures


# what the official tool stops at, a class all of whose detections are ignored, is in none of these
@pytest.mark.parametrize(
    ("seed", "classes"), [(0, SEVERAL), (1, (24, 26)), (2, (25, 32, 33)), (3, SEVERAL)], ids=["all", "2", "3", "absent"]
)
def test_figures_are_the_official_ones(tmp_path: Path, seed: int, classes: tuple[int, ...]) -> None:
    """Objects large and small, groups, void, caravans; masks that fit well or not, on nothing, of a wrong class."""
    rng = np.random.default_rng(seed)
    images = [street(rng, classes, int(rng.integers(1, 8))) for _ in range(8)]
    images.append(np.full(SIZE, 7, np.uint16))  # nothing in it
    guessed = classes[:5] if seed == 3 else SEVERAL
    outputs = [guesses(rng, ids, guessed, int(rng.integers(3, 16))) for ids in images]
    outputs[0] = found([], [], [])
    figures = compare_with_official(tmp_path, images, outputs)
    assert 5 < figures["cityscapes/AP"] < figures["cityscapes/AP50"] < 95
    assert (seed in (1, 2)) == (figures["cityscapes/AP-bus"] == -1)


def block(ids: np.ndarray, y: slice, x: slice) -> np.ndarray:
    mask = np.zeros(ids.shape, np.uint8)
    mask[y, x] = 1
    return mask


def test_rules_by_hand(tmp_path: Path) -> None:
    ids = np.full(SIZE, 7, np.uint16)
    ids[0:20, 0:20] = 26000  # a car of 400 pixels
    ids[0:20, 30:50] = 26001
    ids[0:9, 60:71] = 26002  # 99 pixels: too small to count
    ids[30:50, 0:20] = 26  # a group of cars
    ids[30:50, 30:50] = 24  # and one of persons
    ids[30:50, 60:80] = 29005  # a caravan with a number is not void
    ids[30:50, 90:110] = 3  # out of the region of interest
    masks = {
        "right": (block(ids, slice(0, 20), slice(0, 15)), 0.6, 1),  # IoU 0.75
        "second on it": (block(ids, slice(0, 20), slice(0, 19)), 0.5, 0),
        "half": (block(ids, slice(0, 20), slice(30, 40)), 0.9, 0),  # IoU 0.5 is not above 0.5
        "on the small one": (block(ids, slice(0, 9), slice(60, 71)), 0.8, -1),
        "on the group": (block(ids, slice(30, 40), slice(0, 18)), 0.8, -1),
        "on a group of others": (block(ids, slice(30, 40), slice(30, 50)), 0.3, 0),
        "on the caravan": (block(ids, slice(30, 50), slice(60, 80)), 0.2, 0),
        "in the void": (block(ids, slice(30, 50), slice(85, 110)), 0.7, -1),  # four fifths of it
        "half in the void": (block(ids, slice(30, 50), slice(80, 100)), 0.7, 0),
    }
    pixels, scores, expected = zip(*masks.values(), strict=True)
    detections = found(list(pixels), [2] * len(masks), list(scores))
    outcomes = judge(detections.to_rle(), [2] * len(masks), list(scores), ids)
    assert dict(zip(masks, (int(o[0]) for _, _, o in outcomes), strict=True)) == dict(zip(masks, expected, strict=True))
    by_name = dict(zip(masks, (o.tolist() for _, _, o in outcomes), strict=True))
    assert by_name["right"] == [1] * 5 + [0] * 5  # up to 0.70, and 0.75 is not above 0.75
    assert by_name["second on it"] == [0] * 5 + [1] * 4 + [0]  # alone from there on; IoU 0.95
    assert by_name["in the void"] == [-1] * 6 + [0] * 4

    # above 0.5, in the order of scores: wrong (0.9), wrong (0.7), right (0.6), wrong three times; two objects
    # recall 0, 0.5 at precision 1 (none yet), 0, 0, 1/3, then 1/4, ... at the same recall: 0.5 * (0 + 1/3) / 2
    figures = compare_with_official(tmp_path, [ids], [detections])
    assert figures["cityscapes/AP50-car"] == pytest.approx(100 / 12)
    assert figures["cityscapes/AP50"] == figures["cityscapes/AP50-car"]


def test_the_area_under_a_curve() -> None:
    outcomes = np.array([1, 0, 1, -1])
    # (recall, precision): (0, 1), (1/4, 1), (1/4, 1/2), (1/2, 2/3)
    area = 1 / 4 + 1 / 4 * (1 / 2 + 2 / 3) / 2
    assert average_precision(np.array([0.9, 0.8, 0.7, 0.95]), outcomes, 4) == pytest.approx(area)
    # of equal scores, one point: (0, 1), (1/2, 2/3)
    assert average_precision(np.full(4, 0.5), outcomes, 4) == pytest.approx(1 / 2 * (1 + 2 / 3) / 2)
    assert average_precision(np.zeros(0), np.zeros(0), 4) == 0
    assert average_precision(np.array([0.3]), np.array([-1]), 1) == 0


def test_images_that_were_not_evaluated_count_as_without_detections(tmp_path: Path, caplog) -> None:
    ids = np.full(SIZE, 7, np.uint16)
    ids[0:20, 0:20] = 26000
    data = write_data(tmp_path, [ids, ids])
    evaluator = CityscapesEvaluator(data, tmp_path / "out", 100)
    assert EVALUATORS.get("cityscapes") is CityscapesEvaluator
    evaluator.process([sample(1)], [found([ids == 26000], [2], [0.9])])
    assert evaluator.result()["cityscapes/AP"] == 50  # precision 1 up to recall 1/2
    assert "1 of 2 images were evaluated" in caplog.text
    written = json.loads((tmp_path / "out" / FIGURES_FILE).read_text())
    assert written["figures"]["cityscapes/AP-car"] == 50 and written["AP"]["car"] == [50] * 10
    assert written["AP"]["bus"] == [None] * 10
    lines = [line.split() for line in evaluator.table().splitlines()]
    assert (
        ["car", "2", "50.0", "50.0"] in lines
        and ["bus", "0", "-", "-"] in lines
        and ["all", "2", "50.0", "50.0"] in lines
    )
    assert evaluator.result()["cityscapes/AP"] == 0  # it starts afresh


def test_soft_masks_are_pasted(tmp_path: Path) -> None:
    ids = np.full(SIZE, 7, np.uint16)
    ids[10:30, 20:60] = 25000
    data = write_data(tmp_path, [ids])
    detections = Detections(
        boxes=torch.tensor([[20.0, 10, 60, 30]]),
        scores=torch.tensor([0.9]),
        labels=torch.tensor([1]),
        size=SIZE,
        masks=torch.ones(1, 28, 28),
    )
    evaluator = CityscapesEvaluator(data, None)
    evaluator.process([sample(1)], [detections])
    assert evaluator.result()["cityscapes/AP-rider"] == 100


def test_what_cannot_be_evaluated(tmp_path: Path, coco_like: Dataset) -> None:
    with pytest.raises(
        ValueError, match=r"'cityscapes' is for the classes person, .*, but others has cell; take the evalu"
    ):
        CityscapesEvaluator(coco_like, None)
    ids = np.full(SIZE, 7, np.uint16)
    ids[0:20, 0:20] = 26000
    data = write_data(tmp_path, [ids])
    evaluator = CityscapesEvaluator(data, None)
    with pytest.raises(ValueError, match="image id 9 is not in the data set 'cityscapes_fine_instance_seg_val'"):
        evaluator.process([sample(9)], [found([], [], [])])
    without = replace(found([ids == 26000], [2], [0.5]), masks=None)
    with pytest.raises(ValueError, match=r"ulm_000000_000019_leftImg8bit\.png: the detections have no masks"):
        evaluator.process([sample(1)], [without])
    diverged = replace(without, masks=torch.ones(1, 28, 28), scores=torch.tensor([math.nan]))
    with pytest.raises(ValueError, match="score is not a finite number"):
        evaluator.process([sample(1)], [diverged])
    cv2.imwrite(str(ids_path(data[0].path)), np.zeros((9, 9), np.uint16))
    with pytest.raises(DatasetError, match=r"instanceIds\.png is \(9, 9\), but the image is \(60, 120\)"):
        evaluator.process([sample(1)], [found([], [], [])])


@pytest.fixture
def coco_like(tmp_path: Path) -> Dataset:
    return Dataset.from_records([], class_names=["cell"], category_ids=[1], name="others")


def test_files_for_the_server(tmp_path: Path) -> None:
    ids = np.full(SIZE, 7, np.uint16)
    write_image(tmp_path, "berlin_000000_000019", ids, "test")
    data = dataset(TEST, tmp_path)
    evaluator = CityscapesEvaluator(data, tmp_path / "out", 100)
    assert evaluator.metrics == ()
    first, second = block(ids, slice(5, 30), slice(7, 50)), block(ids, slice(0, 60), slice(119, 120))
    evaluator.process([sample(1)], [found([first, ids * 0, second], [1, 2, 7], [0.75, 0.5, 0.1])])
    assert evaluator.result() == {} and "no ground truth" in evaluator.table()
    folder = tmp_path / "out" / RESULTS_FOLDER
    lines = (folder / "berlin_000000_000019_pred.txt").read_text().splitlines()
    rows = [line.split() for line in lines]
    assert [(class_id, score) for _, class_id, score in rows] == [("25", "0.75"), ("33", "0.1")]  # none without pixels
    for (path, _, _), mask in zip(rows, (first, second), strict=True):
        np.testing.assert_array_equal(cv2.imread(str(folder / path), cv2.IMREAD_UNCHANGED), 255 * mask)
    evaluator.process([sample(1)], [found([second], [4], [1 / 3])])  # again: nothing stays of the first time
    assert (folder / "berlin_000000_000019_pred.txt").read_text() == f"berlin_000000_000019/0.png 28 {1 / 3!r}\n"
    files = ["berlin_000000_000019", "berlin_000000_000019/0.png", "berlin_000000_000019_pred.txt"]
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*")) == files


def evaluate_share(number: int, root: Path, shares: list[list[int]]) -> tuple[dict[str, float], str]:
    evaluator = CityscapesEvaluator(dataset(VAL, root), root / "out")
    process(evaluator, shares[number])
    return evaluator.result(), evaluator.table()


def process(evaluator: CityscapesEvaluator, image_ids: list[int]) -> None:
    for image_id in image_ids:
        rng = np.random.default_rng(image_id)
        ids = cv2.imread(str(ids_path(evaluator.images[image_id])), cv2.IMREAD_UNCHANGED)
        evaluator.process([sample(image_id)], [guesses(rng, ids, SEVERAL, 12)])


@pytest.mark.skipif("fork" not in mp.get_all_start_methods(), reason="processes cannot be forked here")
@pytest.mark.parametrize(
    "shares",
    [[[1, 3, 5], [2, 4]], [[], [5, 4, 3, 2, 1], []], [[1, 2, 5], [3, 4, 5], [1]]],
    ids=["two", "idle", "twice"],
)
def test_several_processes_give_what_one_gives(tmp_path: Path, shares: list[list[int]]) -> None:
    rng = np.random.default_rng(7)
    data = write_data(tmp_path, [street(rng, SEVERAL, 6) for _ in range(5)])
    alone = CityscapesEvaluator(data, None)
    process(alone, [1, 2, 3, 4, 5])
    expected: Any = (alone.result(), alone.table())
    assert 0 < expected[0]["cityscapes/AP"] < 100
    assert in_processes(len(shares), evaluate_share, tmp_path, shares) == [expected] * len(shares)
