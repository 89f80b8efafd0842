"""Which images a report shows: the worst, the best, some at random, examples of each kind of error; what changes."""

from __future__ import annotations

import numpy as np

GROUP = 12  # images of each group
EXAMPLES = 8  # of an error


def groups(quality: np.ndarray, objects: np.ndarray) -> dict[str, list[int]]:
    """Images by name of their group: "worst" and "best" first ones first, and "random", the same ones in every run.

    Args:
        quality: float (N,) of each image; NaN for one in which there is nothing to see.
        objects: int (N,), in each image; of equal quality, those with more objects come first.
    """
    rated = np.isfinite(quality).sum()
    worst = np.lexsort((-objects, quality))[: min(GROUP, rated - rated // 2)]  # NaN last
    best = np.lexsort((-objects, -quality))[:rated]
    best = best[~np.isin(best, worst)][: min(GROUP, rated // 2)]
    return {"worst": worst.tolist(), "best": best.tolist(), "random": drawn(len(quality), GROUP)}


def changes(quality: np.ndarray, size: int) -> dict[str, list[int]]:
    """Images by name of their group: what other runs do "better" or "worse" than the first one, and "random".

    Args:
        quality: float (R, N) of each run and image; NaN where there is nothing to see, which is as right as can be.
        size: of each group. The largest change comes first; of several runs that of the one that changes most counts.
    """
    change = np.nan_to_num(quality, nan=1.0)
    change = change[1:] - change[0]
    gain, loss = change.max(axis=0), -change.min(axis=0)
    found = {}
    for name, by in (("better", gain), ("worse", loss)):
        order = np.argsort(-by, kind="stable")[:size]
        found[name] = order[by[order] > 0].tolist()
    return {**found, "random": drawn(quality.shape[1], size)}


def drawn(images: int, size: int) -> list[int]:
    """Some of so many images, ascending: the same ones whatever the run."""
    return sorted(np.random.default_rng(0).permutation(images)[:size].tolist())


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
