"""True and false positives over the score threshold, and the threshold of the best F1."""

from __future__ import annotations

import numpy as np

from maskrcnn.evaluation.analysis.matches import Matches

NUM_BINS = 101  # thresholds 0, 0.01, ..., 1


def score_bins(scores: np.ndarray, steps: int = 100) -> np.ndarray:
    """floor(steps * score), int64, 0..steps; 0.29 is in bin 29, although 100 * 0.29 is a little less in float64."""
    return np.floor(steps * scores + 1e-9).astype(np.int64).clip(0, steps)


def score_counts(matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives at IoU 0.5 of each class by `score_bins`: two int64 (K, 101).

    Those with a score of b / 100 or more are in the bins from b on. Detections in crowd regions are in neither.
    """
    right = matches.found >= 0
    return _count(matches, right), _count(matches, ~right & ~matches.ignored)


def best_f1(matches: Matches) -> tuple[dict[str, float] | None, list[dict[str, float] | None]]:
    """The score threshold, among all scores that occur, of the highest F1 at IoU 0.5; of equal F1 the highest one.

    Returns:
        over all classes together and of each class: threshold (detections of this score count), f1, precision and
        recall, 0..1; None where there are no objects, or no detections outside crowd regions.
    """
    order = np.argsort(-matches.scores, kind="stable")
    order = order[~matches.ignored[order]]
    scores, right, labels = matches.scores[order], matches.found[order] >= 0, matches.labels[order]
    objects = matches.num_objects
    by_class = np.split(np.argsort(labels, kind="stable"), np.bincount(labels, minlength=len(objects)).cumsum()[:-1])
    return (
        _best(scores, right, objects.sum()),
        [_best(scores[rows], right[rows], count) for rows, count in zip(by_class, objects, strict=True)],
    )


def _count(matches: Matches, detections: np.ndarray) -> np.ndarray:
    cells = matches.labels[detections].astype(np.int64) * NUM_BINS + score_bins(matches.scores[detections])
    return np.bincount(cells, minlength=matches.num_classes * NUM_BINS).reshape(-1, NUM_BINS)


def _best(scores: np.ndarray, right: np.ndarray, num_objects: int) -> dict[str, float] | None:
    """Of detections in descending order of their scores."""
    if not (len(scores) and num_objects):
        return None
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # equal scores pass a threshold together
    true = np.cumsum(right)[last]
    f1 = 2 * true / (last + 1 + num_objects)
    best = f1.argmax()
    return {
        "threshold": float(scores[last[best]]),
        "f1": float(f1[best]),
        "precision": float(true[best] / (last[best] + 1)),
        "recall": float(true[best] / num_objects),
    }
