"""Calibration against hotcoco and a case by hand."""

import hotcoco
import numpy as np
import pytest
from coco_sets import CATEGORIES, annotation, detection, for_tool, matches_of, random_set, truth_of, without_ties

from maskrcnn.evaluation.analysis import calibration

BOX, FAR = (10, 10, 20, 20), (50, 40, 9, 9)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_calibration_is_that_of_hotcoco(kind: str, seed: int) -> None:
    truth, results = random_set(seed, images=30)
    results = without_ties(results, seed)
    ours = calibration(matches_of(truth, results, kind))
    annotated, detected = for_tool(truth, results, kind)
    coco = hotcoco.COCO(annotated)
    run = hotcoco.COCOeval(coco, coco.load_res(detected), kind)
    run.evaluate()
    theirs = run.calibration(n_bins=10, iou_threshold=0.5)
    count, true, score = (np.array(ours[key]).sum(axis=0) for key in ("count", "true", "score"))
    assert count.tolist() == [b["count"] for b in theirs["bins"]] and count.min() > 0
    assert true / count == pytest.approx([b["avg_accuracy"] for b in theirs["bins"]])
    assert score / count == pytest.approx([b["avg_confidence"] for b in theirs["bins"]])
    assert ours["error"]["all"] == pytest.approx(theirs["ece"])
    by_class = dict(zip(CATEGORIES.values(), ours["error"]["by_class"], strict=True))
    assert by_class == pytest.approx(theirs["per_category"])


def test_calibration_by_hand() -> None:
    """Three detections of 0.8 and 0.85, two of them right: |2 - 2.45| / 3; one of 0.3 in its bin, wrong; one of 1."""
    truth = truth_of(
        [annotation(1, 3, BOX), annotation(1, 3, FAR), annotation(1, 7, BOX, crowd=True, form="runs")], [1]
    )
    results = [
        detection(1, 3, 0.8, BOX),
        detection(1, 3, 0.8, FAR),
        detection(1, 3, 0.85, (60, 0, 9, 9)),
        detection(1, 3, 0.3, (60, 20, 9, 9)),
        detection(1, 7, 0.5, BOX),  # in a crowd region
        detection(1, 18, 1.0, (0, 40, 9, 9)),
    ]
    ours = calibration(matches_of(truth, results, "bbox"))
    assert ours["count"] == [[0, 0, 0, 1, 0, 0, 0, 0, 3, 0], [0] * 10, [0] * 9 + [1], [0] * 10, [0] * 10]
    assert ours["true"][0] == [0, 0, 0, 0, 0, 0, 0, 0, 2, 0]
    assert ours["score"][0] == pytest.approx([0, 0, 0, 0.3, 0, 0, 0, 0, 2.45, 0])
    expected = [(0.45 + 0.3) / 4, None, 1.0, None, None]
    assert ours["error"]["by_class"] == [e if e is None else pytest.approx(e) for e in expected]
    assert ours["error"]["all"] == pytest.approx((0.45 + 0.3 + 1.0) / 5)


def test_without_detections_there_is_no_error() -> None:
    ours = calibration(matches_of(truth_of([annotation(1, 3, BOX)], [1]), [], "bbox"))
    assert ours["error"] == {"all": None, "by_class": [None] * 5} and ours["count"] == [[0] * 10] * 5
