"""Panoptic quality by hand, and against its definition on random sets."""

import numpy as np
import pytest
from coco_sets import annotation, by_image, detection, matches_of, random_set, truth_of
from matching_by_definition import areas, by_definition

from maskrcnn.evaluation.analysis import Matches, panoptic_quality

BOX, FAR = (10, 10, 20, 20), (50, 40, 9, 9)


def test_quality_by_hand() -> None:
    truth = truth_of(
        [
            annotation(1, 3, BOX),
            annotation(2, 3, BOX),
            annotation(2, 7, FAR),
            annotation(4, 3, BOX),
            annotation(6, 3, BOX, crowd=True, form="runs"),
        ],
        range(1, 7),
    )
    results = [
        detection(1, 3, 0.9, BOX),
        detection(2, 3, 0.9, (10, 10, 20, 16)),  # IoU 0.8; the other object is not found: 0.8 / (1 + 1/2)
        detection(2, 3, 0.4, (60, 0, 9, 9)),  # below the threshold
        detection(3, 3, 0.9, BOX),  # nothing there: 0 / (1/2)
        detection(5, 3, 0.4, BOX),
        detection(6, 3, 0.9, BOX),  # in a crowd region
    ]
    quality = panoptic_quality(matches_of(truth, results, "bbox"), 0.5)
    assert quality == pytest.approx([1, 0.8 / 1.5, 0, 0, np.nan, np.nan], nan_ok=True)
    all_shown = panoptic_quality(matches_of(truth, results, "bbox"), 0.0)
    assert all_shown == pytest.approx([1, 0.8 / 2, 0, 0, 0, np.nan], nan_ok=True)
    at_the_score = panoptic_quality(matches_of(truth, results, "bbox"), 0.4)
    assert at_the_score == pytest.approx(all_shown, nan_ok=True)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("threshold", [0.0, 0.45, 1.1])
def test_quality_is_that_of_the_definition(threshold: float, kind: str) -> None:
    truth, results = random_set(4)
    expected = []
    for annotations, found in by_image(truth, [r for r in results if r["score"] >= threshold]):
        rows = by_definition(annotations, found, kind)
        pairs = [(r, annotations[row[0]]) for r, row in zip(found, rows, strict=True) if row[0] >= 0]
        overlaps = [s / (a + b - s) for a, b, s in (areas(r, o, kind) for r, o in pairs)]
        false = sum(row[2] != "" for row in rows)
        objects = sum(not a["iscrowd"] and (kind == "bbox" or a["segmentation"] is not None) for a in annotations)
        total = len(pairs) + false / 2 + (objects - len(pairs)) / 2
        expected.append(sum(overlaps) / total if total else np.nan)
    ours = panoptic_quality(matches_of(truth, results, kind), threshold)
    assert ours == pytest.approx(expected, nan_ok=True)
    assert np.isnan(expected).any() == (threshold > 1)


def test_no_images() -> None:
    assert panoptic_quality(Matches.of([], 3), 0.5).shape == (0,)
