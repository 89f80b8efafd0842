"""Masks of annotations: polygons and RLE, and how far each extends."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
from pycocotools import mask as coco_mask

from maskrcnn.data.checking.numbers import floats, is_number, number_problem
from maskrcnn.data.checking.policies import Entry, Found, Repair, dropped
from maskrcnn.data.checking.problems import show
from maskrcnn.ops.rle import decompress_counts

CHUNK = 20_000  # annotations whose coordinates are held as an array at a time
MAX_PIXELS = 2**31  # of a mask that pycocotools, which counts in 32 bits, can be asked about


def masks_of(annotations: Sequence[Entry], sizes: np.ndarray) -> tuple[np.ndarray, list[Found]]:
    """How far the masks extend, and what is wrong with them.

    Args:
        sizes: float64 (n, 2), (h, w) of each annotation's image, NaN where it is not known.

    Returns:
        float64 (n, 4) XYXY; NaN for annotations without a mask and for masks that something is wrong with.
    """
    extents = np.full((len(annotations), 4), np.nan)
    found: list[Found] = []
    for start in range(0, len(annotations), CHUNK):
        part = slice(start, start + CHUNK)
        found += [item._replace(at=item.at + start) for item in _chunk(annotations[part], sizes[part], extents[part])]
    return extents, found


def _chunk(annotations: Sequence[Entry], sizes: np.ndarray, extents: np.ndarray) -> Iterator[Found]:
    """Fills in `extents`."""
    with_polygons, with_rle = [], []
    for i, annotation in enumerate(annotations):
        mask = annotation.get("segmentation")
        if not has_mask(annotation):
            continue
        size = sizes[i].tolist()
        problems = list(_problems_of_form(mask, size))
        yield from (Found(i, *problem) for problem in problems)
        if problems:
            continue
        if isinstance(mask, list):
            with_polygons.append(i)
        elif size[0] * size[1] <= MAX_PIXELS:  # of unknown size (NaN), or too large to look at, is not
            with_rle.append(i)
    if with_polygons:
        extents[with_polygons] = polygon_extents([annotations[i]["segmentation"] for i in with_polygons])
    rles = [annotations[i]["segmentation"] for i in with_rle]
    faults = decoding_faults(rles)
    for i, fault in zip(with_rle, faults, strict=True):
        if fault:
            yield Found(i, "rle-counts", f"'segmentation' is not whole RLE: {fault}")
    if sound := [i for i, fault in zip(with_rle, faults, strict=True) if not fault]:
        extents[sound] = rle_extents([annotations[i]["segmentation"] for i in sound])
    empty = (extents[:, 2:] <= extents[:, :2]).any(axis=1)
    for i in np.flatnonzero(empty).tolist():
        mask = annotations[i]["segmentation"]
        yield Found(i, "mask-without-area", f"'segmentation' is {show(mask)}, which has no area", with_sound_parts)
    extents[empty] = np.nan


def missing_masks(annotations: Sequence[Entry]) -> Iterator[Found]:
    """Objects without a mask in a file where others have one."""
    without = [i for i, a in enumerate(annotations) if not has_mask(a) and a.get("iscrowd", 0) != 1]
    if len(without) < len(annotations) and any(map(has_mask, annotations)):
        for i in without:
            yield Found(i, "mask-missing", "no 'segmentation', which other annotations have")


def has_mask(annotation: Entry) -> bool:
    return annotation.get("segmentation") not in (None, [])


def mask_extent(mask: Any, size: tuple[int, int] | None) -> list[float] | None:
    """XYXY of one mask, not clipped; None if it has a problem or no area."""
    annotation = {"segmentation": mask}
    known = np.array([size or (np.nan, np.nan)], dtype=float)
    extents, found = masks_of([annotation], known)
    return None if found or np.isnan(extents).any() else extents[0].tolist()


Problem: TypeAlias = tuple[str, str, Repair]


def _problems_of_form(mask: Any, size: Sequence[float]) -> Iterator[Problem]:
    """Kind, message and repair of what is wrong with a mask, without decoding it; each kind once."""
    if isinstance(mask, list) and is_number(mask[0]):
        message = f"'segmentation' is {show(mask)}: each polygon must be a list [x1, y1, x2, y2, ...] of its own"
        yield "segmentation-flat", message, _in_a_list
    elif isinstance(mask, list):
        seen = set()
        for points in mask:
            kind = polygon_problem(points)
            if kind and kind not in seen:
                seen.add(kind)
                yield kind, f"'segmentation' is {show(mask)}: {_reason(kind, points)}", with_sound_parts
    elif isinstance(mask, dict):
        yield from _rle_problems(mask, size)
    else:
        message = f"'segmentation' is {show(mask)}: it must be a list of polygons, or RLE {{size, counts}}"
        yield "wrong-type", message, dropped


def polygon_problem(points: Any) -> str | None:
    """The kind of problem of one polygon, or None."""
    if type(points) is not list:
        return "wrong-type"
    if kind := number_problem(points):
        return kind
    if len(points) < 6:
        return "polygon-four-numbers" if len(points) == 4 else "polygon-too-few-points"
    return "polygon-odd-count" if len(points) % 2 else None


def _reason(kind: str, points: Any) -> str:
    if kind in ("wrong-type", "not-finite"):
        return "each polygon must be a list [x1, y1, x2, y2, ...] of finite numbers"
    return (
        f"a polygon in it has {len(points)} numbers, but at least three points, six numbers, are needed, and an even "
        "count"
    )


def _rle_problems(rle: Entry, size: Sequence[float]) -> Iterator[Problem]:
    unknown = any(map(math.isnan, size))
    if not unknown and rle.get("size") != size:
        wanted = [int(side) for side in size]
        message = (
            f"'segmentation': the RLE's 'size' is {show(rle.get('size'))}, but its image has [height, width] {wanted}"
        )
        yield "rle-size", message, dropped
    counts = rle.get("counts")
    text = isinstance(counts, str) and counts.isascii()
    if not text and not (isinstance(counts, list) and set(map(type, counts)) == {int}):
        message = (
            f"'segmentation': the RLE's 'counts' is {show(counts)}: 'counts' must be a list of run lengths, or a text "
            "in COCO's compressed form"
        )
        yield "rle-counts", message, dropped


def decoding_faults(rles: Sequence[Entry]) -> list[str | None]:
    """Why each RLE does not decode to as many pixels as its size has; None where it does."""
    faults = [_fault_of_runs(rle["counts"], rle["size"]) if isinstance(rle["counts"], list) else None for rle in rles]
    texts = [i for i, rle in enumerate(rles) if isinstance(rle["counts"], str)]
    for i, fault in zip(texts, _faults_of_texts([rles[i] for i in texts]), strict=True):
        faults[i] = fault
    return faults


def _fault_of_runs(counts: Sequence[int], size: Sequence[int]) -> str | None:
    if min(counts) < 0:
        return f"it has a run of negative length {min(counts)}"
    return _fault_of_total(sum(counts), size)


def _fault_of_total(total: int, size: Sequence[int]) -> str | None:
    height, width = (int(side) for side in size)
    if total == height * width:
        return None
    return f"runs add up to {total} pixels, but its size {height}x{width} has {height * width}"


def _faults_of_texts(rles: Sequence[Entry]) -> list[str | None]:
    if not rles:
        return []
    try:
        counts, lengths = decompress_counts([rle["counts"].encode() for rle in rles])
    except ValueError:
        if len(rles) == 1:
            return [f"{show(rles[0]['counts'])} is not COCO's compressed text, or not all of it"]
        return [fault for rle in rles for fault in _faults_of_texts([rle])]
    owner = np.repeat(np.arange(len(rles)), lengths)
    total = np.zeros(len(rles), np.int64)
    np.add.at(total, owner, np.clip(counts, 0, MAX_PIXELS + 1))  # clipped, so that no sum can wrap around
    negative = np.bincount(owner[counts < 0], minlength=len(rles)) > 0
    return [
        "it has a run of negative length" if bad else _fault_of_total(pixels, rle["size"])
        for rle, pixels, bad in zip(rles, total.tolist(), negative.tolist(), strict=True)
    ]


def polygon_extents(masks: Sequence[list[list[float]]]) -> np.ndarray:
    """XYXY (n, 4) of masks of polygons without problems, at least one each."""
    points = np.array([sum(map(len, parts)) // 2 for parts in masks])
    starts = np.concatenate([[0], points.cumsum()[:-1]])
    xy = floats(chain.from_iterable(chain.from_iterable(masks))).reshape(-1, 2)
    return np.concatenate([np.minimum.reduceat(xy, starts), np.maximum.reduceat(xy, starts)], axis=1)


def rle_extents(rles: Sequence[Entry]) -> np.ndarray:
    """XYXY (n, 4) of RLE that decodes; zeros of empty masks."""
    boxes = np.array(coco_mask.toBbox([_compressed(rle) for rle in rles]), dtype=float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _compressed(rle: Entry) -> Entry:
    whole = {"size": [int(side) for side in rle["size"]], "counts": rle["counts"]}
    if isinstance(rle["counts"], str):
        return whole
    compressed: Entry = coco_mask.frPyObjects(whole, *whole["size"])
    return compressed


def with_sound_parts(annotation: Entry) -> Entry | None:
    """Without the polygons that have a problem or no area; None if no other is left."""
    mask = annotation["segmentation"]
    parts = [p for p in mask if not polygon_problem(p)] if isinstance(mask, list) else []
    extents = polygon_extents([[part] for part in parts]) if parts else np.zeros((0, 4))
    kept = [part for part, e in zip(parts, extents, strict=True) if (e[2:] > e[:2]).all()]
    return {**annotation, "segmentation": kept} if kept else None


def _in_a_list(annotation: Entry) -> Entry:
    return {**annotation, "segmentation": [annotation["segmentation"]]}
