"""Whether a score is the probability of being right: reliability by score, and the expected calibration error."""

from __future__ import annotations

from typing import Any

import numpy as np

from maskrcnn.evaluation.analysis.matches import Matches
from maskrcnn.evaluation.analysis.thresholds import score_bins

NUM_BINS = 10


def calibration(matches: Matches) -> dict[str, Any]:
    """Detections, right ones at IoU 0.5, and the sum of scores in the score bins [0, 0.1), ..., [0.9, 1].

    Detections in crowd regions are left out. The error (Guo et al. 2017, Eq. 5) is the mean over the detections of
    |share of right ones - mean score| of their bin: "all" with the bins of all classes together, as in hotcoco.

    Returns:
        `count` and `true`: K lists of 10 ints, `score`: K lists of 10 floats; `error`: `all` and `by_class`, 0..1, None
        without detections.
    """
    use = ~matches.ignored
    scores, right = matches.scores[use], matches.found[use] >= 0
    bins = score_bins(scores, NUM_BINS).clip(max=NUM_BINS - 1)
    cells, shape = matches.labels[use].astype(np.int64) * NUM_BINS + bins, (matches.num_classes, NUM_BINS)
    count, true, score = (
        np.bincount(cells, weights, minlength=shape[0] * shape[1]).reshape(shape)
        for weights in (np.ones(len(scores)), right, scores)
    )
    return {
        "count": count.astype(int).tolist(),
        "true": true.astype(int).tolist(),
        "score": score.tolist(),
        "error": {
            "all": _expected_error(count.sum(0), true.sum(0), score.sum(0)),
            "by_class": [_expected_error(*rows) for rows in zip(count, true, score, strict=True)],
        },
    }


def _expected_error(count: np.ndarray, true: np.ndarray, score: np.ndarray) -> float | None:
    """Weights of the bins by their counts cancel the counts of the means."""
    return float(np.abs(true - score).sum() / count.sum()) if count.any() else None
