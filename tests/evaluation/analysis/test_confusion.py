"""The confusion matrix at several thresholds against hotcoco's, and by hand."""

import hotcoco
import numpy as np
import pytest
from coco_sets import CATEGORIES, annotation, detection, for_tool, matches_of, random_set, truth_of, without_ties

from maskrcnn.evaluation.analysis import Matches, confusion

BOX, FAR = (10, 10, 20, 20), (50, 40, 9, 9)
K = len(CATEGORIES)


def at(matches: Matches, b: int) -> np.ndarray:
    """The dense matrix (K + 1, K + 1) at threshold b / 100, as the page makes it; the last column: not detected."""
    matrix = np.zeros((K + 1, K + 1), int)
    for of_object, detected, bins in confusion(matches):
        matrix[of_object, detected] = sum(n for i, n in zip(bins[::2], bins[1::2], strict=True) if i >= b)
    matrix[:K, K] = matches.num_objects - matrix[:K].sum(axis=1)
    return matrix


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_matrix_at_each_threshold_is_that_of_hotcoco(kind: str, seed: int) -> None:
    truth, results = random_set(seed, images=30, crowds=False)
    results = without_ties(results, seed)
    matches = matches_of(truth, results, kind)
    annotated, detected = for_tool(truth, results, kind)
    coco = hotcoco.COCO(annotated)
    run = hotcoco.COCOeval(coco, coco.load_res(detected), kind)
    for b in (0, 29, 50, 93):
        theirs = run.confusion_matrix(iou_thr=0.5, max_det=1000, min_score=b / 100)["matrix"]
        assert (at(matches, b) == theirs.astype(int)).all()
    ours = at(matches, 0)
    assert ours[K].any() and ours[:, K].any() and 0 < np.diag(ours).sum() < ours[:K, :K].sum()


def test_a_matrix_by_hand() -> None:
    truth = truth_of([annotation(1, 3, BOX), annotation(1, 7, FAR), annotation(2, 7, BOX)], [1, 2])
    results = [
        detection(1, 3, 0.9, BOX),
        detection(1, 3, 0.3, FAR),
        detection(1, 90, 0.29, (60, 0, 9, 9)),
        detection(2, 3, 0.9, BOX),
        detection(2, 7, 0.3, BOX),  # the better one has the object
        detection(2, 90, 0.29, (60, 0, 9, 9)),
    ]
    assert confusion(matches_of(truth, results, "bbox")) == [
        [0, 0, [90, 1]],
        [1, 0, [30, 1, 90, 1]],
        [K, 1, [30, 1]],
        [K, 4, [29, 2]],
    ]


def test_detections_in_crowd_regions_are_left_out() -> None:
    """The first overlaps an object of another class by half, too; it is neither right nor wrong."""
    truth = truth_of([annotation(1, 3, BOX, crowd=True, form="runs"), annotation(1, 7, (10, 10, 20, 18))], [1])
    results = [detection(1, 3, 0.9, BOX), detection(1, 7, 0.8, BOX)]
    assert confusion(matches_of(truth, results, "segm")) == [[1, 1, [80, 1]]]


def test_without_detections_the_matrix_is_empty() -> None:
    assert confusion(matches_of(truth_of([annotation(1, 3, BOX)], [1]), [], "bbox")) == []
    assert confusion(Matches.of([], K)) == []
