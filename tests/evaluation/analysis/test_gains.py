"""Gains against a reference that edits detections and ground truth and asks pycocotools, and against hotcoco."""

import contextlib
import io
import math

import hotcoco
import numpy as np
import pytest
from coco_sets import annotation, by_image, detection, for_tool, matches_of, random_set, truth_of, without_ties
from matching_by_definition import by_definition, pixels
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn.evaluation.analysis import ERRORS, ap50, error_counts, gains
from maskrcnn.evaluation.coco import run_coco
from maskrcnn.evaluation.coco_figures import mean_known

KINDS = ["bbox", "segm"]
HOTCOCO = dict(zip(("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), ERRORS, strict=True))
HOTCOCO |= {"FP": "false_positives", "FN": "false_negatives"}


def official_ap50(truth: dict, results: list[dict], kind: str) -> float:
    """By pycocotools; NaN without objects."""
    truth, results = for_tool(truth, results, kind)
    if not any(not a["iscrowd"] for a in truth["annotations"]):
        return math.nan
    if not results:  # which the tool cannot read
        return 0.0
    coco = COCO()
    coco.dataset = truth
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes(results), kind)
        run.params.iouThrs, run.params.maxDets = np.array([0.5]), [10000]
        run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"]
    return 100 * float(precision[precision > -1].mean())


def mended(name: str, truth: dict, results: list[dict], kind: str) -> tuple[dict, list[dict]]:
    """Ground truth and results without one type of error, as section 2.3 of the paper says."""
    annotations, kept = [], []
    for objects, detections in by_image(truth, results):
        rows = by_definition(objects, detections, kind)
        taken = {row[0] for row in rows}
        about = {row[3] for row in rows if row[2] in ("cls", "loc")}
        unfound = {i for i in range(len(objects)) if i not in taken and not objects[i]["iscrowd"]}
        gone = {"missed": unfound - about, "false_negatives": unfound}.get(name, set())
        annotations += [a for i, a in enumerate(objects) if i not in gone]
        changed: dict[int, dict | None] = {}
        for i in sorted(range(len(rows)), key=lambda i: -detections[i]["score"]):
            _, _, error, target = rows[i]
            if error == name in ("cls", "loc") and target not in taken:
                taken.add(target)
                place = {"bbox": objects[target]["bbox"]}
                if kind == "segm":
                    bitmap = np.asfortranarray(pixels(objects[target]["segmentation"]).astype(np.uint8))
                    place["segmentation"] = coco_mask.encode(bitmap)
                changed[i] = place if name == "loc" else {"category_id": objects[target]["category_id"]}
            elif error and name in (error, "false_positives"):
                changed[i] = None
        for i, d in enumerate(detections):
            if (change := changed.get(i, {})) is not None:
                kept.append({**d, **change})
    return {**truth, "annotations": annotations}, kept


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", KINDS)
def test_gains_are_those_of_edited_detections_and_ground_truth(kind: str, seed: int) -> None:
    truth, results = random_set(seed, images=16)
    matches = matches_of(truth, results, kind)
    base, ours = ap50(matches), gains(matches)
    assert base == pytest.approx(official_ap50(truth, results, kind), abs=1e-9)
    for name, gain in ours.items():
        assert gain == pytest.approx(official_ap50(*mended(name, truth, results, kind), kind) - base, abs=1e-9), name
    assert set(ours) == {*ERRORS, "false_positives", "false_negatives"}
    assert min(ours.values()) >= 0 and sum(gain > 0 for gain in ours.values()) >= 6  # the case tests most of them


@pytest.mark.parametrize("kind", KINDS)
def test_ap50_is_the_evaluators(kind: str) -> None:
    truth, results = random_set(7, images=30)
    precision, _ = run_coco(truth, results, kind, (100,))
    assert ap50(matches_of(truth, results, kind)) == pytest.approx(mean_known(precision[0, ..., 0, -1]), abs=1e-9)


def by_hotcoco(truth: dict, results: list[dict], kind: str) -> dict:
    truth, results = for_tool(truth, results, kind)
    coco = hotcoco.COCO(truth)
    run = hotcoco.COCOeval(coco, coco.load_res(results), kind)
    run.evaluate()
    return run.tide_errors(pos_thr=0.5, bg_thr=0.1)


@pytest.mark.parametrize("seed", range(10, 16))
@pytest.mark.parametrize("kind", KINDS)
def test_counts_and_gains_are_those_of_hotcoco(kind: str, seed: int) -> None:
    truth, results = random_set(seed, images=40, crowds=False)
    matches, theirs = matches_of(truth, results, kind), by_hotcoco(truth, results, kind)
    counts = dict(zip(ERRORS, error_counts(matches).sum(axis=1).tolist(), strict=True))
    assert counts == {HOTCOCO[name]: count for name, count in theirs["counts"].items()} and min(counts.values()) > 5
    assert ap50(matches) == pytest.approx(100 * theirs["ap_base"], abs=1e-9)
    found = matches.per_class(matches.found_by >= 0)
    assert (found[matches.num_objects > 0] > 0).all()  # the tool goes another way where a class is missed altogether
    ours = gains(matches)
    for name, gain in theirs["delta_ap"].items():
        if name not in ("Cls", "Loc"):
            assert ours[HOTCOCO[name]] == pytest.approx(100 * gain, abs=1e-9), name


@pytest.mark.parametrize("seed", range(10, 16))
@pytest.mark.parametrize(("name", "other"), [("Cls", "loc"), ("Loc", "cls")])
def test_gains_of_cls_and_loc_are_those_of_hotcoco(name: str, other: str, seed: int) -> None:
    """Without the other type: the tool lets the better of the two have the object, though it is not the one mended."""
    truth, results = random_set(seed, images=40, crowds=False)
    results = without_ties(results, seed)
    kept = np.flatnonzero(matches_of(truth, results, "bbox").error != ERRORS.index(other))
    results = [results[i] for i in kept]
    ours = gains(matches_of(truth, results, "bbox"))
    theirs = by_hotcoco(truth, results, "bbox")
    assert 100 * theirs["delta_ap"][name] == pytest.approx(ours[HOTCOCO[name]], abs=1e-9)
    assert ours[HOTCOCO[name]] > 1 and ours[other] == 0


def test_a_cls_error_is_mended_beside_a_better_loc_error() -> None:
    """Both about one object. One type is mended at a time, so each gives the whole; hotcoco gives it to loc alone."""
    truth = truth_of([annotation(1, 3, (10, 10, 20, 20))], [1])
    results = [detection(1, 3, 0.9, (10, 10, 20, 8)), detection(1, 7, 0.8, (10, 10, 20, 20))]
    ours, theirs = gains(matches_of(truth, results, "bbox")), by_hotcoco(truth, results, "bbox")["delta_ap"]
    assert ours["loc"] == pytest.approx(100) == 100 * theirs["Loc"]
    assert ours["cls"] == pytest.approx(50) and theirs["Cls"] == 0  # the loc error stays before it: precision 1/2


def test_a_part_of_a_crowd_region_is_background() -> None:
    """Three tenths of the detection lie in a region of its class. hotcoco takes the region for an object."""
    truth = truth_of(
        [annotation(1, 3, (10, 10, 20, 20), crowd=True, form="runs"), annotation(1, 7, (50, 0, 9, 9))], [1]
    )
    results = [detection(1, 3, 0.9, (10, 24, 20, 20))]
    assert error_counts(matches_of(truth, results, "bbox")).sum(axis=1).tolist() == [0, 0, 0, 0, 1, 1]
    assert by_hotcoco(truth, results, "bbox")["counts"]["Loc"] == 1


def test_counts_go_to_the_detected_class_and_missed_ones_to_their_own() -> None:
    box = (10, 10, 20, 20)
    truth = truth_of([annotation(1, 3, box), annotation(1, 18, (40, 40, 10, 10))], [1])
    matches = matches_of(truth, [detection(1, 7, 0.9, box)], "bbox")
    assert error_counts(matches).tolist() == [
        [0, 1, 0, 0, 0],
        *[[0] * 5] * 4,
        [0, 0, 1, 0, 0],
    ]


def test_a_class_that_is_missed_altogether_leaves_the_mean() -> None:
    """One class found, one not: without the missed object AP is that of the first. hotcoco says that nothing is won."""
    truth = truth_of([annotation(1, 3, (10, 10, 20, 20)), annotation(1, 7, (40, 40, 10, 10))], [1])
    results = [detection(1, 3, 0.9, (10, 10, 20, 20)), detection(1, 7, 0.8, (60, 0, 9, 9))]
    ours = gains(matches_of(truth, results, "bbox"))
    assert ours["missed"] == ours["false_negatives"] == pytest.approx(50)
    assert by_hotcoco(truth, results, "bbox")["delta_ap"]["Miss"] == 0


def test_an_error_about_a_found_object_goes_even_if_it_is_the_better_one() -> None:
    """By the paper's words the true positive would go: AP 100. By all tools the error goes, and what is left is the
    false positive of score 0.5 before the true one of 0.3: precision 1/2."""
    box = (10, 10, 20, 20)
    truth = truth_of([annotation(1, 3, box)], [1])
    results = [detection(1, 7, 0.9, box), detection(1, 3, 0.5, (60, 40, 9, 9)), detection(1, 3, 0.3, box)]
    matches = matches_of(truth, results, "bbox")
    assert ap50(matches) == pytest.approx(50) and gains(matches)["cls"] == pytest.approx(0)
    assert by_hotcoco(truth, results, "bbox")["delta_ap"]["Cls"] == pytest.approx(0)


def test_a_perfect_result_gains_nothing() -> None:
    truth, _ = random_set(3, crowds=False)
    results = [detection(a["image_id"], a["category_id"], 0.9, a["bbox"]) for a in truth["annotations"]]
    matches = matches_of(truth, results, "bbox")
    assert ap50(matches) == 100
    assert set(gains(matches).values()) == {0.0} and not error_counts(matches).any()


def test_without_objects_there_is_no_ap_to_gain() -> None:
    for results in ([], [detection(1, 3, 0.9, (0, 0, 9, 9))]):
        matches = matches_of(truth_of([], [1]), results, "bbox")
        assert math.isnan(ap50(matches)) and all(map(math.isnan, gains(matches).values()))


def test_without_detections_everything_is_missed() -> None:
    truth, _ = random_set(1)
    matches = matches_of(truth, [], "segm")
    ours = gains(matches)
    assert ap50(matches) == 0
    assert math.isnan(ours.pop("missed")) and math.isnan(ours.pop("false_negatives"))  # no object is left
    assert set(ours.values()) == {0.0}
    assert error_counts(matches)[-1].tolist() == matches.num_objects.tolist()
    assert matches.num_objects.sum() > 0
