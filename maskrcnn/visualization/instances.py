"""Instances drawn on an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from maskrcnn.structures.instances import Detections, Instances
from maskrcnn.structures.rle import RLE
from maskrcnn.visualization.canvas import INK, PAPER, Colour, as_array, check_image, colour_of, pixels_of, scaled
from maskrcnn.visualization.masks import Masklike, cutouts_of, draw_mask
from maskrcnn.visualization.tags import draw_tags, tag_texts

# COCO's skeleton, by index of the 17 keypoints: head, shoulders, arms, trunk, legs.
SKELETON = (
    *((0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6), (1, 2), (5, 6), (5, 7), (7, 9)),
    *((6, 8), (8, 10), (5, 11), (6, 12), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16)),
)
LEFT, RIGHT, MIDDLE = (64, 200, 90), (255, 140, 40), (60, 170, 255)  # limbs of the left and the right side


def draw_instances(
    image: np.ndarray,
    boxes: np.ndarray | Tensor,
    labels: np.ndarray | Tensor | Sequence[int],
    *,
    scores: np.ndarray | Tensor | Sequence[float] | None = None,
    masks: Masklike = None,
    keypoints: np.ndarray | Tensor | None = None,
    crowd: np.ndarray | Sequence[bool] | None = None,
    class_names: Sequence[str] | None = None,
    color_by: str = "class",
    opacity: float = 0.45,
    line_width: int | None = None,
    show_labels: bool = True,
    mask_only: bool = False,
    keypoint_threshold: float = 0.0,
    scale: float = 1.0,
) -> np.ndarray:
    """Draw instances on an image: masks with their outlines, boxes, names with scores, keypoints with a skeleton.

    Args:
        image: uint8 (H, W, 3) RGB.
        boxes: (D, 4) XYXY in pixels of `image`; D may be 0.
        labels: (D,), which also pick the colours.
        scores: (D,) probabilities, written as percentages.
        masks: bool (D, H, W); or D COCO RLEs; or the masks of `Instances`; or float (D, m, m), probabilities that fill
            the boxes.
        keypoints: (D, 17, 3): x, y and visibility or score; those above `keypoint_threshold` are drawn.
        crowd: (D,) bool: regions of many objects, hatched and named as such.
        class_names: by label; without them the label itself is written.
        color_by: "class" or "instance".
        opacity: of the masks' areas, 0 (outlines only) to 1.
        line_width: in pixels of the result; None fits it to the result's size.
        show_labels: write names and scores.
        mask_only: draw masks alone, without boxes, names and keypoints.
        scale: the result is this many times as large as `image`; small images want more than 1 for their text.

    Returns:
        uint8 (H * scale, W * scale, 3).

    Raises:
        ValueError: the image is not uint8 (H, W, 3), the lengths differ, or an option is out of its range.
    """
    check_image(image)
    boxes = as_array(boxes).astype(np.float64).reshape(-1, 4) * scale
    labels = as_array(labels).astype(np.int64).reshape(-1)
    count = len(boxes)
    for name, values in {
        "labels": labels,
        "scores": scores,
        "masks": masks,
        "keypoints": keypoints,
        "crowd": crowd,
    }.items():
        if values is not None and len(values) != count:
            raise ValueError(f"there are {count} boxes, but {len(values)} {name}")
    if color_by not in ("class", "instance"):
        raise ValueError(f"color_by is {color_by!r}; choose 'class' or 'instance'")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity is {opacity}; it goes from 0 to 1")
    if line_width is not None and line_width < 1:
        raise ValueError(f"line_width is {line_width}; it is a number of pixels, at least 1")
    canvas = scaled(image, scale)
    width = line_width or max(1, round(min(canvas.shape[:2]) / 350))
    colours = [colour_of(int(n)) for n in (labels if color_by == "class" else range(count))]
    crowds = np.zeros(count, bool) if crowd is None else as_array(crowd).astype(bool)
    areas = np.nan_to_num(_areas(boxes))
    large_first = np.argsort(-areas, kind="stable")  # so that small objects end up on top
    if masks is not None:
        cutouts = cutouts_of(masks, boxes, image.shape[:2], scale)
        for i in large_first:
            draw_mask(canvas, cutouts[i], colours[i], opacity, width, hatched=bool(crowds[i]))
    if mask_only:
        return canvas
    for i in large_first:
        _draw_box(canvas, boxes[i], colours[i], width)
    if keypoints is not None:
        points = as_array(keypoints).astype(np.float64) * (scale, scale, 1.0)
        for i in large_first:
            thin = int(np.clip(math.sqrt(areas[i]) / 40, 1, width + 1))  # a small figure would vanish under its joints
            _draw_keypoints(canvas, points[i], keypoint_threshold, thin)
    if show_labels:
        texts = tag_texts(labels, None if scores is None else as_array(scores), crowds, class_names)
        draw_tags(canvas, boxes, texts, colours)
    return canvas


def draw_detections(
    image: np.ndarray,
    detections: Detections,
    class_names: Sequence[str] | None = None,
    *,
    score_threshold: float = 0.0,
    **style: Any,
) -> np.ndarray:
    """Draw a model's detections of at least `score_threshold`; `style` goes to `draw_instances`."""
    shown = detections.to("cpu")[detections.scores.cpu() >= score_threshold]
    return draw_instances(
        image,
        shown.boxes,
        shown.labels,
        scores=shown.scores,
        masks=shown.masks,
        keypoints=shown.keypoints,
        class_names=class_names,
        **style,
    )


def draw_targets(
    image: np.ndarray,
    targets: Instances,
    class_names: Sequence[str] | None = None,
    *,
    crowd: Instances | None = None,
    **style: Any,
) -> np.ndarray:
    """Draw ground truth, and the crowd regions that are not trained on; `style` goes to `draw_instances`."""
    groups = [targets] if crowd is None else [targets, crowd]
    return draw_instances(
        image,
        torch.cat([group.boxes for group in groups]),
        torch.cat([group.labels for group in groups]),
        masks=_masks_together(groups),
        keypoints=_keypoints_together(groups),
        crowd=[group is crowd for group in groups for _ in range(len(group))],
        class_names=class_names,
        **style,
    )


def _masks_together(groups: Sequence[Instances]) -> list[RLE] | None:
    rles: list[RLE] = []
    for group in groups:
        if group.masks is not None:
            rles += group.masks.to_rle(group.size)
        elif len(group):
            return None
    return rles


def _keypoints_together(groups: Sequence[Instances]) -> Tensor | None:
    """Those without keypoints among others have 17 invisible ones."""
    if all(group.keypoints is None for group in groups):
        return None
    shape = next(group.keypoints.shape[1:] for group in groups if group.keypoints is not None)
    return torch.cat([g.boxes.new_zeros(len(g), *shape) if g.keypoints is None else g.keypoints for g in groups])


def _draw_box(canvas: np.ndarray, box: np.ndarray, colour: Colour, width: int) -> None:
    x1, y1, x2, y2 = pixels_of(box, canvas.shape[:2])
    cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, width)  # not smoothed: its sides lie on pixels


def _draw_keypoints(canvas: np.ndarray, points: np.ndarray, threshold: float, width: int) -> None:
    seen = (points[:, 2] > threshold) & np.isfinite(points).all(axis=1)
    limit = 4 * max(canvas.shape)  # what lies farther out is invisible, and would overflow OpenCV's integers
    places = [(round(x), round(y)) for x, y in np.nan_to_num(points[:, :2]).clip(-limit, limit)]
    limbs = [(a, b) for a, b in SKELETON if len(points) == 17 and seen[a] and seen[b]]
    for dark in (True, False):  # a dark rim below lets the lines stand out on any background
        for a, b in limbs:
            colour = MIDDLE if (a + b) % 2 and a else LEFT if a % 2 or (a == 0 and b == 1) else RIGHT
            cv2.line(canvas, places[a], places[b], INK if dark else colour, width + 2 if dark else width, cv2.LINE_AA)
    for i in np.flatnonzero(seen):
        cv2.circle(canvas, places[i], width + 2, INK, -1, cv2.LINE_AA)
        cv2.circle(canvas, places[i], width + 1, PAPER, -1, cv2.LINE_AA)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]).clip(0) * (boxes[:, 3] - boxes[:, 1]).clip(0)
