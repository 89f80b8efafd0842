"""Which images a report shows: the worst, the best, some at random, examples of each kind of error; what changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

GROUP = 12  # images of each group
SMALLEST = 3  # where there is much to draw in each
EXAMPLES = 8  # of an error, with groups of GROUP images

T = TypeVar("T")
Groups = dict[str, list[int]]  # images by name
Cases = dict[str, tuple[list[int], list[int]]]  # by type of error: images, and rows in them


def fitting(choose: Callable[[int], tuple[T, list[int]]], weights: np.ndarray, most: int) -> tuple[T, list[int], int]:
    """What `choose` gives for the largest groups in whose images there is no more than `most` to draw.

    Args:
        choose: something, and the images in it, by the size of a group, GROUP to SMALLEST; the last one has to do.
        weights: (N,), what there is to draw in each image.

    Returns:
        these two, and the size.
    """
    for size in range(GROUP, SMALLEST - 1, -1):
        found, images = choose(size)
        if weights[images].sum() <= most:
            break
    return found, images, size


def left_off(size: int, masks: int, of: int) -> list[str]:
    """What a reader is told of groups smaller than GROUP, and of masks that are not there, so many of so many."""
    told = []
    if size < GROUP:
        told.append(f"There is much to draw in each picture, so a group has at most {size} of them instead of {GROUP}.")
    if masks:
        told.append(f"{masks:,} of {of:,} masks are left off, the most intricate ones; their boxes are drawn instead.")
    return told


def groups(quality: np.ndarray, objects: np.ndarray, size: int = GROUP) -> Groups:
    """Images by name of their group: "worst" and "best" first ones first, and "random", the same ones in every run.

    Args:
        quality: float (N,) of each image; NaN for one in which there is nothing to see.
        objects: int (N,), in each image; of equal quality, those with more objects come first.
        size: of each group.
    """
    rated = np.isfinite(quality).sum()
    worst = np.lexsort((-objects, quality))[: min(size, rated - rated // 2)]  # NaN last
    best = np.lexsort((-objects, -quality))[:rated]
    best = best[~np.isin(best, worst)][: min(size, rated // 2)]
    return {"worst": worst.tolist(), "best": best.tolist(), "random": drawn(len(quality), size)}


def changes(quality: np.ndarray, size: int) -> Groups:
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


def spread(images: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
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
