"""COCO's matching and TIDE's error types (Bolya et al. 2020, section 2.2) by their definitions, in loops over pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
from coco_sets import SIZE, Rows
from pycocotools import mask as coco_mask


def pixels(segmentation: Any) -> np.ndarray:
    if isinstance(segmentation, list):
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, *SIZE))
    else:
        rle = coco_mask.frPyObjects(segmentation, *SIZE) if isinstance(segmentation["counts"], list) else segmentation
    return coco_mask.decode(rle).astype(bool)


def areas(a: dict[str, Any], b: dict[str, Any], kind: str) -> tuple[float, float, float]:
    """Of the first, of the second, of what they share."""
    if kind == "segm":
        first, second = pixels(a["segmentation"]), pixels(b["segmentation"])
        return float(first.sum()), float(second.sum()), float((first & second).sum())
    (x, y, w, h), (u, v, p, q) = a["bbox"], b["bbox"]
    shared = max(min(x + w, u + p) - max(x, u), 0) * max(min(y + h, v + q) - max(y, v), 0)
    return w * h, p * q, shared


def by_definition(annotations: Rows, results: Rows, kind: str) -> list[tuple[int, int, str, int]]:
    """Of each detection of an image: the object found, the one met, the type of error ("" without), its target."""
    objects = [i for i, a in enumerate(annotations) if not a["iscrowd"] and (kind == "bbox" or a["segmentation"])]

    def iou(r: dict[str, Any], i: int) -> float:
        first, second, shared = areas(r, annotations[i], kind)
        return shared / (first + second - shared)

    def best(r: dict[str, Any], rows: list[int]) -> tuple[float, int]:
        return max(((iou(r, i), i) for i in rows), default=(0.0, -1))

    def in_crowd(r: dict[str, Any]) -> bool:
        regions = [a for a in annotations if a["iscrowd"] and a["category_id"] == r["category_id"]]
        return any(shared >= first / 2 for first, _, shared in (areas(r, region, kind) for region in regions))

    def of_class(r: dict[str, Any], same: bool) -> list[int]:
        return [i for i in objects if (annotations[i]["category_id"] == r["category_id"]) == same]

    found, met, crowd = [-1] * len(results), [-1] * len(results), [False] * len(results)
    for i in sorted(range(len(results)), key=lambda i: -results[i]["score"]):
        value, j = best(results[i], [j for j in of_class(results[i], True) if j not in found])
        found[i] = j if value >= 0.5 else -1
        crowd[i] = found[i] < 0 and in_crowd(results[i])
        if not crowd[i]:
            value, j = best(results[i], [j for j in objects if j not in met])
            met[i] = j if value >= 0.5 else -1
    rows = []
    for i, r in enumerate(results):
        own, own_row = best(r, of_class(r, True))
        other, other_row = best(r, of_class(r, False))
        if found[i] >= 0 or crowd[i]:
            error = "", -1
        elif 0.1 <= own < 0.5:
            error = "loc", own_row
        elif other >= 0.5:
            error = "cls", other_row
        elif own >= 0.5:
            error = "dup", own_row
        elif max(own, other) < 0.1:
            error = "bkg", -1
        else:
            error = "both", other_row
        rows.append((found[i], met[i], *error))
    return rows
