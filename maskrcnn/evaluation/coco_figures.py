"""COCO's figures from the precision and recall that its tool accumulates: overall, by class, as curves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maskrcnn.evaluation.explain import AREAS

BY_CLASS = ("AP", "AP50", "AP75", *(f"AP{size}" for size in AREAS), "AR")
# Keypoints of small people are not labelled, and only the best 20 detections of an image count.
KEYPOINT_FIGURES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
KEYPOINTS_BY_CLASS = ("AP", "AP50", "AP75", "APm", "APl", "AR")
KEYPOINT_LIMITS = (20,)
AT_50, AT_75 = 0, 5  # of the ten IoUs 0.50:0.05:0.95


def figure_names(limits: Sequence[int]) -> tuple[str, ...]:
    """The names of the figures, in the order of the official table."""
    sizes = [f"AP{s}" for s in AREAS], [f"AR{s}" for s in AREAS]
    return ("AP", "AP50", "AP75", *sizes[0], *(f"AR@{k}" for k in limits), *sizes[1])


def summarise(precision: np.ndarray, recall: np.ndarray, limits: Sequence[int]) -> list[float]:
    """COCO's figures in the order of `figure_names`, in percent.

    Args:
        precision: (T, R, K, A, M): 10 IoUs, 101 recalls, categories, areas (all, small, medium, large), limits.
        recall: (T, K, A, M).
    """
    values = [precision[..., 0, -1], precision[AT_50, ..., 0, -1], precision[AT_75, ..., 0, -1]]
    values += [precision[..., area, -1] for area in (1, 2, 3)]
    values += [recall[..., 0, limit] for limit in range(len(limits))]
    values += [recall[..., area, -1] for area in (1, 2, 3)]
    return [mean_known(value) for value in values]


def summarise_keypoints(precision: np.ndarray, recall: np.ndarray) -> list[float]:
    """COCO's figures of keypoints in the order of `KEYPOINT_FIGURES`, in percent.

    Args:
        precision: (T, R, K, A, M): as for `summarise`, but the areas are all, medium, large; the IoUs are OKS.
        recall: (T, K, A, M).
    """
    figures = []
    for values in (precision[..., -1], recall[..., -1]):
        everything = values[..., 0]
        parts = [everything, everything[AT_50], everything[AT_75], values[..., 1], values[..., 2]]
        figures += [mean_known(part) for part in parts]
    return figures


def mean_known(values: np.ndarray) -> float:
    """The mean in percent of what has ground truth; the official tool marks the rest, and a mean of nothing, as -1."""
    known = values[values > -1]
    return 100 * float(known.mean()) if len(known) else -1.0


def by_class(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """The figures `BY_CLASS`, or `KEYPOINTS_BY_CLASS`, of each category: (K, 7 or 6), in percent, -1 without any.

    Args:
        precision, recall: as for `summarise`, or `summarise_keypoints`.
    """
    everything = precision[..., 0, -1]
    columns = [everything, everything[[AT_50]], everything[[AT_75]]]
    columns += [precision[..., area, -1] for area in range(1, precision.shape[3])]
    columns.append(recall[:, None, :, 0, -1])
    return np.array([[mean_known(column[..., k]) for column in columns] for k in range(precision.shape[2])])


def precision_curves(precision: np.ndarray) -> dict[str, list[list[float] | None]]:
    """Precision (0..1) at recall 0, 0.01, ..., 1 of each category, at IoU 0.50, at 0.75, and as the mean over IoUs.

    None for a category without ground truth.
    """
    everything = precision[..., 0, -1]
    curves = {"0.50": everything[AT_50], "0.75": everything[AT_75], "mean": everything.mean(axis=0)}
    return {
        name: [None if (column < 0).any() else column.round(5).tolist() for column in curve.T]
        for name, curve in curves.items()
    }


def number(value: float) -> str:
    return "-" if value < 0 else f"{value:.1f}"
