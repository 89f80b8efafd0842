"""Results looked at before they are scored, and figures of 0 and -1 in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

AREAS = {
    "s": "small",
    "m": "medium",
    "l": "large",
}  # below 32^2, up to 96^2, and above, in pixels of the original image
LOOKED_AT = 200  # images in which the boxes of detections and objects are compared
HALF = 0.5  # the IoU that AP50 asks for

Rows = Sequence[Mapping[str, Any]]


def doubts(truth: Mapping[str, Any], results: Rows) -> list[str]:
    """What is odd about results in COCO's form, before they are compared with the ground truth: one line each.

    Ids of images and categories that the ground truth does not have, scores outside of 0..1, boxes outside their image
    or in fractions of it.
    """
    if not results:
        return []
    sizes = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
    lines = [
        *_unknown("image_id", "images", results, sizes),
        *_unknown("category_id", "categories", results, {category["id"] for category in truth["categories"]}),
    ]
    scores = np.array([result["score"] for result in results], dtype=float)
    if (wrong := ~((scores >= 0) & (scores <= 1))).any():
        lines.append(f"{wrong.sum()} of {len(scores)} scores are not in 0..1, such as {scores[wrong][0]:g}")
    return lines + _odd_boxes(results, sizes)


def explain(truth: Mapping[str, Any], results: Rows, figures: Mapping[str, float]) -> list[str]:
    """What figures of 0 and -1 come from: one line for each cause.

    Args:
        truth: in COCO's form, as `ground_truth` gives it.
        results: in COCO's form.
        figures: by name, such as "bbox/AP50".
    """
    objects = [a for a in truth["annotations"] if not a["iscrowd"]]
    num_images = len(truth["images"])
    if not objects:
        crowds = len(truth["annotations"])
        return [
            f"the ground truth of {num_images} images has no objects ({crowds} crowd regions), so every figure is -1, "
            "COCO's mark for nothing to find"
        ]
    lines = []
    if absent := [name for name, value in figures.items() if value == -1 and name[-1] in AREAS]:
        sizes = ", ".join(dict.fromkeys(AREAS[name[-1]] for name in absent))
        lines.append(f"the ground truth has no {sizes} objects, so {', '.join(absent)} are -1")
    if not results:
        lines.append(
            f"there is not one detection in {num_images} images, so every AP is 0: no score reached the model's "
            "threshold, as after too few iterations, with diverged weights, or without loading any"
        )
    elif figures.get("bbox/AP50") == 0:
        best = max(result["score"] for result in results)
        lines.append(
            f"box AP50 is 0 although there are {len(results)} detections, with scores up to {best:.3f}: "
            f"{_why_nothing_matches(objects, results)}"
        )
    elif figures.get("segm/AP50") == 0:
        lines.append(
            "mask AP50 is 0 although boxes were found: no mask overlaps that of an object of its category by half"
        )
    for kind, word in (("bbox", "box"), ("segm", "mask")):
        if figures.get(f"{kind}/AP50", 0) > 0:
            missed = [AREAS[s] for s in AREAS if figures.get(f"{kind}/AP{s}") == 0]
            if missed:
                lines.append(f"{word} AP of {' and '.join(missed)} objects is 0: none of these was found")
    return lines


def _unknown(key: str, section: str, results: Rows, known: Iterable[Any]) -> list[str]:
    found, wanted = {result[key] for result in results}, set(known)
    if found <= wanted:
        return []
    strange = sum(result[key] not in wanted for result in results)
    none = "" if found & wanted else ", so nothing can match"
    return [
        f"{strange} of {len(results)} detections have a '{key}' that the ground truth's {section} lack, such as "
        f"{sorted(found - wanted)[0]} (it has {_some(wanted)}){none}"
    ]


def _odd_boxes(results: Rows, sizes: Mapping[Any, tuple[int, int]]) -> list[str]:
    placed = [result for result in results if "bbox" in result and result["image_id"] in sizes]
    if not placed:
        return []
    boxes = np.array([result["bbox"] for result in placed], dtype=float)
    limits = np.array([sizes[result["image_id"]] for result in placed], dtype=float)
    if 0 <= boxes.min() and boxes.max() <= 1 and limits.min() > 1:
        return [f"all {len(boxes)} boxes lie in 0..1: they seem to be fractions of the image, but must be in pixels"]
    outside = ((boxes[:, :2] >= limits) | (boxes[:, :2] + boxes[:, 2:] <= 0)).any(axis=1)
    if not outside.any():
        return []
    i = int(outside.argmax())
    w, h = limits[i].astype(int).tolist()
    return [
        f"{outside.sum()} of {len(boxes)} boxes lie outside their images, such as {boxes[i].tolist()} in image "
        f"{placed[i]['image_id']}, which is {h} high and {w} wide"
    ]


def _why_nothing_matches(objects: Rows, results: Rows) -> str:
    images = [{row["image_id"] for row in rows} for rows in (results, objects)]
    if not images[0] & images[1]:
        return f"they are in images {_some(images[0])}, the objects in {_some(images[1])}"
    categories = [{row["category_id"] for row in rows} for rows in (results, objects)]
    if not categories[0] & categories[1]:
        return f"they name categories {sorted(categories[0])}, the ground truth {sorted(categories[1])}"
    if _some_box_fits(objects, results):
        return "there are boxes that fit objects, but of other categories: are the class ids in another order?"
    return "none overlaps an object of its category by half"


def _some_box_fits(objects: Rows, results: Rows) -> bool:
    """Whether any box overlaps any object by half, whatever their categories; in the first images only."""
    by_image: dict[Any, list[list[float]]] = defaultdict(list)
    for row in objects:
        by_image[row["image_id"]].append(row["bbox"])
    found: dict[Any, list[list[float]]] = defaultdict(list)
    for result in results:
        if result["image_id"] in by_image and "bbox" in result:
            found[result["image_id"]].append(result["bbox"])
    for image in list(found)[:LOOKED_AT]:
        boxes, truth = (np.array(rows, dtype=float) for rows in (found[image], by_image[image]))
        if (coco_mask.iou(boxes, truth, [0] * len(truth)) >= HALF).any():
            return True
    return False


def _some(values: Iterable[Any]) -> str:
    ordered = sorted(values)
    return f"{ordered}" if len(ordered) <= 12 else f"{len(ordered)} ids from {ordered[0]} to {ordered[-1]}"
