"""What an annotation says of its object, but for the mask: box, area, crowd, keypoints.

Fields are gathered from all annotations and tested at once; Python looks at each annotation only for its types.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from maskrcnn.data.checking.entries import as_integer
from maskrcnn.data.checking.masks import mask_extent
from maskrcnn.data.checking.numbers import LARGEST, floats, is_number, number_problem
from maskrcnn.data.checking.policies import Entry, Found, replaced
from maskrcnn.data.checking.problems import show
from maskrcnn.data.records import NUM_KEYPOINTS

SLACK = 1.0  # pixels: how far a box may reach beyond its image by rounding
DIFFER, AGREE, FITS = 0.5, 0.75, 0.9  # IoU of a box and its mask's extent
APART = 0.1  # of the smaller of the two in the larger one
SMALLEST = 2.0  # pixels: conventions of what a box encloses differ by as much, which is half of a tiny object

FORM = "[x, y, width, height]"
CORNERS = "read as two corners, x1, y1, x2, y2, it would be"


def boxes_of(annotations: Sequence[Entry], sizes: np.ndarray) -> tuple[np.ndarray, list[Found]]:
    """The boxes and what is wrong with their form.

    Args:
        sizes: float64 (n, 2), (h, w) of each annotation's image, NaN where it is not known.

    Returns:
        float64 (n, 4) XYXY, not clipped; NaN for the boxes that something is wrong with.
    """
    found, sound = [], []
    for i, annotation in enumerate(annotations):
        bbox = annotation.get("bbox")
        if problem := _form_problem(annotation, bbox):
            found.append(Found(i, *problem, partial(box_from_mask, size=_size(sizes, i))))
        else:
            sound.append(i)
    boxes = np.full((len(annotations), 4), np.nan)
    boxes[sound] = floats(chain.from_iterable(annotations[i]["bbox"] for i in sound)).reshape(-1, 4)
    negative = (boxes[:, 2:] < 0).any(axis=1)
    for i in np.flatnonzero(negative).tolist():
        message = f"'bbox' is {show(annotations[i]['bbox'])}: it must be {FORM}, none of the sides negative"
        found.append(Found(i, "bbox-negative-side", message, corners_in_order))
    boxes[negative] = np.nan
    boxes[:, 2:] += boxes[:, :2]
    return boxes, found


def _form_problem(annotation: Entry, bbox: Any) -> tuple[str, str] | None:
    if "bbox" not in annotation:
        return "missing-field", "no 'bbox'"
    if type(bbox) is not list:
        return "wrong-type", f"'bbox' is {show(bbox)}, but must be a list {FORM}"
    if kind := number_problem(bbox):
        return kind, f"'bbox' is {show(bbox)}: it must be four finite numbers {FORM}"
    if len(bbox) != 4:
        return "bbox-length", f"'bbox' is {show(bbox)}: it must be four numbers {FORM}"
    return None


def placement(annotations: Sequence[Entry], boxes: np.ndarray, sizes: np.ndarray) -> Iterator[Found]:
    """Boxes without area, and outside their image.

    Args:
        boxes: XYXY, as `boxes_of` gives them.
    """
    limits = np.concatenate([np.zeros_like(sizes), sizes[:, ::-1]], axis=1)
    empty = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) <= 0
    beyond = np.concatenate([limits[:, :2] - boxes[:, :2], boxes[:, 2:] - limits[:, 2:]], axis=1).max(axis=1)
    outside = (boxes[:, 2:].min(axis=1) <= 0) | ((limits[:, 2:] - boxes[:, :2]).min(axis=1) <= 0)
    corners = could_be_corners(boxes, sizes)
    for i in np.flatnonzero(empty | outside | (beyond > SLACK)).tolist():
        bbox, size = annotations[i]["bbox"], _size(sizes, i)
        hint = f" ({CORNERS} inside)" if corners[i] else ""
        if empty[i]:
            repair = partial(box_from_mask, size=size)
            yield Found(i, "bbox-without-area", f"'bbox' is {show(bbox)}, which has no area", repair)
        elif outside[i]:
            message = f"'bbox' is {show(bbox)}, outside the image, which is {_described(size)}{hint}"
            yield Found(i, "bbox-outside", message, partial(box_from_mask, size=size))
        else:
            message = (
                f"'bbox' is {show(bbox)}, which reaches {beyond[i]:.4g} pixels beyond the image, which is "
                f"{_described(size)}{hint}"
            )
            yield Found(i, "bbox-partly-outside", message, partial(clipped, size=size))


def agreement(
    annotations: Sequence[Entry], boxes: np.ndarray, extents: np.ndarray, sizes: np.ndarray
) -> Iterator[Found]:
    """Boxes that are not about the mask beside them.

    Args:
        boxes, extents: float64 (n, 4) XYXY of boxes and masks, NaN where there is none to compare.
    """
    limits = np.tile(sizes[:, ::-1], 2)
    corners = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    extents = np.clip(extents, 0, limits)
    as_corners = (iou(corners, extents)[0] > FITS) & (iou(boxes, extents)[0] < AGREE)
    boxes = np.clip(boxes, 0, limits)
    overlap, covered = iou(boxes, extents)
    has_area = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) > 0
    wrong = ((overlap < DIFFER) & has_area) | as_corners
    for i in np.flatnonzero(wrong & (np.abs(boxes - extents).max(axis=1) > SMALLEST)).tolist():
        bbox, size = annotations[i]["bbox"], _size(sizes, i)
        x1, y1, x2, y2 = extents[i].tolist()
        message = (
            f"'bbox' is {show(bbox)}, but its mask extends over "
            f"[{x1:.6g}, {y1:.6g}, {x2 - x1:.6g}, {y2 - y1:.6g}], IoU {overlap[i]:.2f}"
        )
        hint = f" ({CORNERS} around it)" if as_corners[i] else ""
        kind = "box-mask-apart" if covered[i] < APART or as_corners[i] else "box-mask-differ"
        yield Found(i, kind, message + hint, partial(box_from_mask, size=size))


def iou(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of boxes (n, 4) XYXY, one by one: the overlap over the union, and over the smaller of the two.

    0 where that has no area, NaN where a coordinate is NaN.
    """
    sides = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None)
    first, second = (np.prod(np.clip(c[:, 2:] - c[:, :2], 0, None), axis=1) for c in (a, b))
    shared = np.prod(sides, axis=1)
    over = [np.where(area == 0, 1, area) for area in (first + second - shared, np.minimum(first, second))]
    return shared / over[0], shared / over[1]


def could_be_corners(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Whether the four numbers [x, y, w, h] are two corners inside the image, too: bool (n,)."""
    xy, far = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    inside: np.ndarray = ((xy >= 0) & (far > xy) & (far <= sizes[:, ::-1] + SLACK)).all(axis=1)
    return inside


def wrong_convention(boxes: np.ndarray, sizes: np.ndarray) -> tuple[str, str] | None:
    """Kind and message if the boxes as a whole are fractions of the image, or corners."""
    known = ~np.isnan(boxes).any(axis=1) & ~np.isnan(sizes).any(axis=1)
    boxes, sizes = boxes[known], sizes[known]
    if not len(boxes):
        return None
    numbers = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    if 0 <= numbers.min() and numbers.max() <= 1 and (numbers % 1 != 0).any():
        return "boxes-normalised", f"all {len(boxes)} boxes lie in 0..1, but must be in pixels"
    beyond = (boxes[:, 2:] > 1.1 * sizes[:, ::-1]).any(axis=1)
    if len(boxes) >= 4 and beyond.mean() > 0.25 and could_be_corners(boxes, sizes).all():
        return (
            "boxes-as-corners",
            f"{beyond.sum()} of {len(boxes)} boxes reach far beyond their image, and all of them would be inside if "
            f"they were two corners, but 'bbox' must be {FORM}",
        )
    return None


def areas(annotations: Sequence[Entry]) -> Iterator[Found]:
    for i, annotation in enumerate(annotations):
        area = annotation.get("area", 0)
        if not is_number(area):
            yield Found(i, "wrong-type", f"'area' is {show(area)}, but must be a number", with_area_of_box)
        elif not -(LARGEST**2) <= area <= LARGEST**2:  # NaN is not
            yield Found(i, "not-finite", f"'area' is {show(area)}: it must be a finite number", with_area_of_box)
        elif area < 0:
            yield Found(i, "area-negative", f"'area' is {show(area)}: it must not be negative", with_area_of_box)


def crowds(annotations: Sequence[Entry]) -> Iterator[Found]:
    for i, annotation in enumerate(annotations):
        crowd = annotation.get("iscrowd", 0)
        if crowd not in (0, 1):
            number = 0 if crowd is None else as_integer(crowd)
            repair = partial(replaced, key="iscrowd", value=number if number in (0, 1) else None)
            yield Found(i, "iscrowd-value", f"'iscrowd' is {show(crowd)}: it must be 0 or 1", repair)


def keypoints(annotations: Sequence[Entry]) -> Iterator[Found]:
    sound = []
    for i, annotation in enumerate(annotations):
        if "keypoints" not in annotation:
            continue
        values = annotation["keypoints"]
        must = f"it must be {NUM_KEYPOINTS} times x, y, visibility, all finite"
        if type(values) is not list:
            yield Found(i, "wrong-type", f"'keypoints' is {show(values)}: {must}", without_keypoints)
        elif kind := number_problem(values):
            yield Found(i, kind, f"'keypoints' is {show(values)}: {must}", without_keypoints)
        elif len(values) != 3 * NUM_KEYPOINTS:
            message = f"'keypoints' is {show(values)}, {len(values)} numbers: {must}"
            yield Found(i, "keypoint-count", message, without_keypoints)
        else:
            sound.append(i)
    triples = floats(chain.from_iterable(annotations[i]["keypoints"] for i in sound)).reshape(-1, NUM_KEYPOINTS, 3)
    seen = triples[:, :, 2]
    wrong = np.isin(seen, (0, 1, 2)).sum(axis=1) < NUM_KEYPOINTS
    counts = (seen > 0).sum(axis=1).tolist()
    for k in np.flatnonzero(wrong).tolist():
        message = f"'keypoints' has a visibility of {seen[k][~np.isin(seen[k], (0, 1, 2))][0]:g}: it must be 0, 1 or 2"
        yield Found(sound[k], "keypoint-visibility", message, without_keypoints)
    for i, count, bad in zip(sound, counts, wrong.tolist(), strict=True):
        said = annotations[i].get("num_keypoints", count)
        if said != count and not bad:
            message = f"'num_keypoints' is {show(said)}, but 'keypoints' has {count} of visibility 1 or 2"
            yield Found(i, "num-keypoints", message, partial(replaced, key="num_keypoints", value=count))


def box_from_mask(annotation: Entry, size: tuple[int, int] | None) -> Entry | None:
    """With the extent of the mask inside the image as box; None if there is none."""
    extent = mask_extent(annotation.get("segmentation"), size)
    if extent is None or size is None:
        return None
    x1, y1, x2, y2 = np.clip(extent, 0, [*size[::-1], *size[::-1]]).round(3).tolist()
    return {**annotation, "bbox": [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)]} if x1 < x2 and y1 < y2 else None


def corners_in_order(annotation: Entry) -> Entry:
    """With the lower of each two coordinates first, as of a box that was drawn from right to left."""
    x, y, w, h = annotation["bbox"]
    return {**annotation, "bbox": [min(x, x + w), min(y, y + h), abs(w), abs(h)]}


def clipped(annotation: Entry, size: tuple[int, int] | None) -> Entry:
    """With the part of the box that is inside the image."""
    assert size is not None
    x, y, w, h = annotation["bbox"]
    x1, y1, x2, y2 = np.clip([x, y, x + w, y + h], 0, [*size[::-1], *size[::-1]]).round(3).tolist()
    return {**annotation, "bbox": [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)]}


def with_area_of_box(annotation: Entry) -> Entry:
    return {**annotation, "area": annotation["bbox"][2] * annotation["bbox"][3]}


def without_keypoints(annotation: Entry) -> Entry:
    return {key: value for key, value in annotation.items() if key not in ("keypoints", "num_keypoints")}


def _size(sizes: np.ndarray, i: int) -> tuple[int, int] | None:
    return None if np.isnan(sizes[i]).any() else (int(sizes[i, 0]), int(sizes[i, 1]))


def _described(size: tuple[int, int] | None) -> str:
    return f"{size[0]} high and {size[1]} wide" if size else "of unknown size"
