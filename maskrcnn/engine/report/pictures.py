"""Images of a report: each as WebP, with its objects and detections as plain values in its pixels."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from maskrcnn.data.mappers import read_recorded
from maskrcnn.data.records import ImageRecord
from maskrcnn.engine.report.results import Rows
from maskrcnn.structures.masks import masks_of
from maskrcnn.structures.rle import decode_cut

SIDES = (640, 512, 400, 320, 256)  # longest side of an image, in pixels: the first with which all of them fit
QUALITY = 75  # of WebP, 0..100
NUMBERS = 24  # bytes of text of a mask's rectangle
TO_CENTRE = np.array([0.5, 0.5, 0.0])  # COCO's keypoints are pixel indices


@dataclass(frozen=True)
class Picture:
    """One image of a report before it is encoded: its record, its pixels at the largest size, and what is drawn.

    Args:
        pixels: uint8 (h, w, 3) RGB, no longer than `SIDES[0]`.
        annotations, results: in COCO's form, in the frame of the file.
        judged: what the evaluation made of objects and of detections: fields by name, with a list each.
    """

    record: ImageRecord
    pixels: np.ndarray
    annotations: Rows
    results: Rows
    quality: float | None
    judged: Mapping[str, Mapping[str, Any]]


def read_picture(record: ImageRecord) -> np.ndarray:
    """The pixels of an image, no longer than `SIDES[0]`: uint8 (h, w, 3) RGB.

    Raises:
        DatasetError: the image cannot be read.
    """
    return shrunk(read_recorded(record), SIDES[0])


def shrunk(pixels: np.ndarray, side: int) -> np.ndarray:
    h, w = pixels.shape[:2]
    if max(h, w) <= side:
        return pixels
    size = [max(1, round(length * side / max(h, w))) for length in (w, h)]
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def encode(pictures: Sequence[Picture], label_of: Mapping[int, int], budget: int) -> list[dict[str, Any]]:
    """The pictures as the page reads them, as large as the budget allows.

    Args:
        label_of: labels by category id.
        budget: bytes of text that all images together may take; reached by making them smaller.
    """
    side, images = fitted([picture.pixels for picture in pictures], budget)
    return [
        {
            **described(picture.record, side),
            "objects": {
                **drawn_objects(picture.record, picture.annotations, label_of, side),
                **picture.judged["objects"],
            },
            "detections": {
                **drawn_detections(picture.record, picture.results, label_of, side),
                **picture.judged["detections"],
            },
            "quality": picture.quality,
            "webp": image,
        }
        for picture, image in zip(pictures, images, strict=True)
    ]


def fitted(pixels: Sequence[np.ndarray], budget: int) -> tuple[int, list[str]]:
    """The largest of `SIDES` with which all images together take no more than `budget` bytes as text; these texts."""
    for side in SIDES:
        images = [webp(shrunk(image, side)) for image in pixels]
        if sum(map(len, images)) <= budget:
            break
    return side, images


def webp(pixels: np.ndarray) -> str:
    """uint8 (h, w, 3) RGB as base64 text."""
    done, data = cv2.imencode(".webp", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    assert done, "OpenCV writes WebP"
    return base64.b64encode(data.tobytes()).decode("ascii")


def described(record: ImageRecord, side: int) -> dict[str, Any]:
    """Which image it is, and its size in the page."""
    h, w = shrunk_size(record.size, side)
    return {
        "image": record.image_id,
        "file": record.path.name,
        "size": list(record.size),
        "width": w,
        "height": h,
    }


def drawn_objects(record: ImageRecord, annotations: Rows, label_of: Mapping[int, int], side: int) -> dict[str, Any]:
    """Objects in the pixels of the image at this size."""
    scale = scale_to(record.size, side)
    objects = common(annotations, label_of, record.size, scale)
    objects["crowd"] = [int(row["iscrowd"]) for row in annotations]
    points = [obj.keypoints for obj in record.objects]
    if len(points) == len(annotations) and any(p is not None and p[:, 2].any() for p in points):
        objects["keypoints"] = [scaled_points(p, scale) for p in points]
    return objects


def drawn_detections(record: ImageRecord, results: Rows, label_of: Mapping[int, int], side: int) -> dict[str, Any]:
    """Detections in the pixels of the image at this size."""
    scale = scale_to(record.size, side)
    detections = common(results, label_of, record.size, scale)
    detections["score"] = [round(row["score"], 4) for row in results]
    if any("keypoints" in row for row in results):
        found = [np.reshape(row["keypoints"], (-1, 3)) + TO_CENTRE for row in results]
        detections["keypoints"] = [scaled_points(p, scale) for p in found]
    return detections


def leave_off(sides: Sequence[dict[str, Any]], most: int) -> tuple[int, int]:
    """Take the longest masks out of `sides`, objects or detections, so that the others have `most` bytes of text.

    Returns:
        how many it took, of how many.
    """
    masks = [(side, row) for side in sides for row, mask in enumerate(side["mask"]) if mask]
    lengths = np.array([len(side["mask"][row][-1]) + NUMBERS for side, row in masks], np.int64)
    order = np.argsort(lengths, kind="stable")
    too_much = order[np.cumsum(lengths[order]) > most]
    for i in too_much:
        side, row = masks[i]
        side["mask"][row] = None
    return len(too_much), len(masks)


def scale_to(size: tuple[int, int], side: int) -> tuple[float, float]:
    """Of heights and of widths."""
    h, w = shrunk_size(size, side)
    return h / size[0], w / size[1]


def shrunk_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(h, w) of `shrunk` pixels, which are first brought to the largest size."""
    h, w = size
    for limit in (SIDES[0], side):
        if max(h, w) > limit:
            h, w = (max(1, round(length * limit / max(h, w))) for length in (h, w))
    return h, w


def common(
    rows: Rows, label_of: Mapping[int, int], size: tuple[int, int], scale: tuple[float, float]
) -> dict[str, Any]:
    """What objects and detections have in common: boxes, labels, masks."""
    boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes *= [scale[1], scale[0]] * 2
    return {
        "box": boxes.round(1).tolist(),
        "label": [label_of[row["category_id"]] for row in rows],
        "mask": [cut_mask(row.get("segmentation"), size, scale) for row in rows],
        "keypoints": None,
    }


def cut_mask(segmentation: Any, size: tuple[int, int], scale: tuple[float, float]) -> list[Any] | None:
    """A mask, resized, as x, y, width and height of its rectangle, and COCO's compressed counts within that.

    None where there is no mask, or no pixel of it.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, list):
        (segmentation,) = masks_of([segmentation], size).to_rle(size)
    bitmap, (x, y) = decode_cut(segmentation)
    if scale != (1.0, 1.0) and bitmap.size:
        rows, y = resampled(y, bitmap.shape[0], scale[0])
        columns, x = resampled(x, bitmap.shape[1], scale[1])
        bitmap = bitmap[np.ix_(rows, columns)]
    if not bitmap.any():
        return None
    counts = coco_mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))["counts"].decode("ascii")
    return [x, y, bitmap.shape[1], bitmap.shape[0], counts]


def resampled(start: int, length: int, scale: float) -> tuple[np.ndarray, int]:
    """The pixels of a stretch that are nearest to those of the resized grid within it, and where it starts there."""
    first = int(np.ceil(start * scale - 0.5))
    last = int(np.ceil((start + length) * scale - 0.5))
    if last <= first:  # thinner than a pixel: still to be seen
        first = last = int(start * scale)
        last += 1
    centres = (np.arange(first, last) + 0.5) / scale
    return np.clip(centres.astype(int) - start, 0, length - 1), first


def scaled_points(points: np.ndarray | None, scale: tuple[float, float]) -> list[list[float]] | None:
    """Keypoints (17, 3) in the pixels of the resized image; None where none is labelled."""
    if points is None or not points[:, 2].any():
        return None
    scaled: list[list[float]] = (points * [scale[1], scale[0], 1]).round(2).tolist()
    return scaled
