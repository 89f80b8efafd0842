"""Which images a report shows: the worst, the best, some at random, and examples of each kind of error."""

from __future__ import annotations

import numpy as np

GROUP = 12  # images of each group
EXAMPLES = 8  # of an error


def groups(quality: np.ndarray) -> dict[str, list[int]]:
    """Images by name of their group: "worst" and "best" first ones first, and "random", the same ones in every run.

    Args:
        quality: float (N,) of each image; NaN for one in which there is nothing to see.
    """
    order = np.argsort(quality, kind="stable")  # NaN last
    rated = order[: np.isfinite(quality).sum()]
    drawn = np.random.default_rng(0).permutation(len(quality))[:GROUP]
    best = rated[::-1][: min(GROUP, len(rated) // 2)]
    worst = rated[: min(GROUP, len(rated) - len(best))]
    return {"worst": worst.tolist(), "best": best.tolist(), "random": np.sort(drawn).tolist()}


def spread(images: np.ndarray, weights: np.ndarray, count: int = EXAMPLES) -> np.ndarray:
    """Indices of `count` cases with the largest weights, of different images as far as there are such.

    Args:
        images: int (C,), of each case.
        weights: float (C,); such as the score of a detection.
    """
    order = np.argsort(-weights, kind="stable")
    _, first = np.unique(images[order], return_index=True)  # each image's own first
    is_first = np.zeros(len(order), bool)
    is_first[first] = True
    chosen = np.concatenate([np.flatnonzero(is_first), np.flatnonzero(~is_first)])[:count]
    return order[np.sort(chosen)]
