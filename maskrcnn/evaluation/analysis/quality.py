"""One number for an image: panoptic quality (Kirillov et al. 2019), by which the best and the worst are chosen."""

from __future__ import annotations

import numpy as np

from maskrcnn.evaluation.analysis.matches import Matches


def panoptic_quality(matches: Matches, threshold: float) -> np.ndarray:
    """Sum of the IoUs of true positives / (TP + FP / 2 + FN / 2) of each image, over all classes together.

    Args:
        threshold: detections of this score or more count.

    Returns:
        float64 (N,), 0..1; NaN of an image with neither objects nor detections that count. Crowd regions, and
        detections in them, do not count.
    """
    shown = (matches.scores >= threshold) & ~matches.ignored
    right = shown & (matches.found >= 0)
    image, n = matches.image, matches.num_images
    overlap = np.bincount(image[right], matches.overlap[right], minlength=n)
    detections = np.bincount(image[shown], minlength=n)
    objects = np.bincount(matches.object_image[matches.counted], minlength=n)
    total = (detections + objects) / 2  # TP + FP is the first, TP + FN the second
    return np.divide(overlap, total, out=np.full(n, np.nan), where=total > 0)
