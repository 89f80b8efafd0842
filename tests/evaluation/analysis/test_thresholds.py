"""Counts and best F1 against brute force: detections cut at each threshold and matched anew."""

import numpy as np
import pytest
from coco_sets import CATEGORIES, LABEL_OF, annotation, by_image, detection, matches_of, random_set, truth_of
from matching_by_definition import by_definition

from maskrcnn.evaluation.analysis import best_f1, score_counts
from maskrcnn.evaluation.analysis.thresholds import score_bins

BOX, FAR = (10, 10, 20, 20), (50, 40, 9, 9)


def test_scores_of_two_decimals_are_in_their_own_bin() -> None:
    scores = np.arange(101) / 100
    assert score_bins(scores).tolist() == list(range(101))
    assert score_bins(scores[1:] - 1e-7).tolist() == list(range(100))  # results have seven decimals
    assert score_bins(scores + 1e-7).tolist() == list(range(101))
    assert score_bins(np.array([-0.5, 1.5])).tolist() == [0, 100]


def counts_from(truth: dict, results: list[dict], kind: str, threshold: float) -> np.ndarray:
    """True and false positives by class, (2, K), of the detections from a score on, matched without the others."""
    counts = np.zeros((2, len(CATEGORIES)), int)
    for annotations, found in by_image(truth, [r for r in results if r["score"] >= threshold]):
        for r, row in zip(found, by_definition(annotations, found, kind), strict=True):
            if row[0] >= 0 or row[2]:
                counts[0 if row[0] >= 0 else 1, LABEL_OF[r["category_id"]]] += 1
    return counts


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_counts_from_a_threshold_on_are_those_of_the_detections_from_it_on(kind: str) -> None:
    truth, results = random_set(3)
    counts = score_counts(matches_of(truth, results, kind))
    assert all(c.shape == (len(CATEGORIES), 101) for c in counts)
    for b in (0, 5, 29, 30, 57, 95, 100):
        ours = np.stack([c[:, b:].sum(axis=1) for c in counts])
        assert (ours == counts_from(truth, results, kind, b / 100)).all()
    assert ours[0].sum() > 0  # some have a score of 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_best_f1_is_the_best_of_all_thresholds(kind: str, seed: int) -> None:
    truth, results = random_set(seed, images=8)
    objects = [
        sum(
            a["category_id"] == category and not a["iscrowd"] and (kind == "bbox" or a["segmentation"] is not None)
            for a in truth["annotations"]
        )
        for category in CATEGORIES
    ]
    table = {t: counts_from(truth, results, kind, t) for t in sorted({r["score"] for r in results}, reverse=True)}
    overall, by_class = best_f1(matches_of(truth, results, kind))

    def check(ours: dict | None, rows: dict[float, tuple[int, int]], count: int) -> None:
        rows = {t: (true, false) for t, (true, false) in rows.items() if true + false}
        if not rows or not count:
            assert ours is None
            return
        assert ours is not None
        # Of equal ones the highest threshold: the first, as they descend.
        f1 = {t: 2 * true / (true + false + count) for t, (true, false) in rows.items()}
        threshold = max(f1, key=lambda t: f1[t])
        true, false = rows[threshold]
        expected = {"threshold": threshold, "f1": f1[threshold]}
        assert ours == pytest.approx({**expected, "precision": true / (true + false), "recall": true / count})

    check(overall, {t: tuple(c.sum(axis=1)) for t, c in table.items()}, sum(objects))
    for label, ours in enumerate(by_class):
        check(ours, {t: tuple(c[:, label]) for t, c in table.items()}, objects[label])
    assert by_class[-1] is None and overall and len(by_class) == len(CATEGORIES)


def test_best_f1_by_hand() -> None:
    """Two objects; right at 0.9 and 0.6, wrong at 0.6 and 0.3: at 0.6 precision 2/3, recall 1, F1 0.8."""
    other = (40, 10, 20, 20)
    truth = truth_of([annotation(1, 3, BOX), annotation(1, 3, other)], [1])
    results = [detection(1, 3, s, b) for s, b in ((0.3, FAR), (0.6, FAR), (0.9, BOX), (0.6, other))]
    overall, by_class = best_f1(matches_of(truth, results, "bbox"))
    assert overall == by_class[0] == pytest.approx({"threshold": 0.6, "f1": 0.8, "precision": 2 / 3, "recall": 1.0})


def test_without_objects_or_detections_there_is_no_best_f1() -> None:
    objects = [annotation(1, 3, BOX)]
    for truth, results in ((truth_of(objects, [1]), []), (truth_of([], [1]), [detection(1, 3, 0.5, BOX)])):
        assert best_f1(matches_of(truth, results, "bbox")) == (None, [None] * 5)
    crowd = truth_of([annotation(1, 3, BOX, crowd=True, form="runs"), annotation(1, 3, FAR)], [1])
    assert best_f1(matches_of(crowd, [detection(1, 3, 0.5, BOX)], "bbox"))[0] is None  # ignored
    nothing = score_counts(matches_of(truth_of([], [1]), [], "bbox"))
    assert [c.shape for c in nothing] == [(5, 101)] * 2 and not nothing[0].any() and not nothing[1].any()
