"""Detections in COCO's form, both ways, and JSON files that are whole or not there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask

from maskrcnn.atomic import WholeFile
from maskrcnn.ops.outlines import outlines
from maskrcnn.structures.instances import Detections
from maskrcnn.structures.masks import Masks, masks_of
from maskrcnn.structures.rle import RLE, decode_cut


def detections_to_coco(
    detections: Detections, image_id: int | str, category_ids: Sequence[int], *, mask_threshold: float = 0.5
) -> list[dict[str, Any]]:
    """One image's detections in the form of COCO's results files, which the official server takes.

    Args:
        detections: in the frame of the original image; soft masks become RLE here, so that no dense mask is kept.
        category_ids: the data set's own ids, by label.

    Returns:
        One dict per detection: image_id, category_id, bbox (x, y, width, height to 1/1000 pixel), score and, of
        detections with masks, segmentation (RLE with counts as text), with keypoints, keypoints (x, y, score in turn).

    Raises:
        ValueError: a box or score is not a finite number, or a label has no category id.
    """
    if not len(detections):
        return []
    boxes, scores = detections.boxes.detach().double().cpu(), detections.scores.detach().double().cpu()
    if not (torch.isfinite(boxes).all() and torch.isfinite(scores).all()):
        raise ValueError(f"image {image_id}: a detection's box or score is not a finite number; the model has diverged")
    labels = detections.labels.tolist()
    if max(labels) >= len(category_ids):
        raise ValueError(
            f"image {image_id}: a detection has label {max(labels)}, but there are {len(category_ids)} categories"
        )
    xywh = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)
    rows = zip(labels, xywh.numpy().round(3).tolist(), scores.numpy().round(7).tolist(), strict=True)
    results: list[dict[str, Any]] = [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score}
        for label, box, score in rows
    ]
    if (rles := detections.to_rle(threshold=mask_threshold)) is not None:
        for result, rle in zip(results, rles, strict=True):
            result["segmentation"] = rle
    if detections.keypoints is not None:
        points = detections.keypoints.detach().double().cpu() - torch.tensor([0.5, 0.5, 0.0])  # COCO: pixel indices
        for result, row in zip(results, points.flatten(1).numpy().round(3).tolist(), strict=True):
            result["keypoints"] = row
    return results


def detections_to_annotations(
    detections: Detections,
    image_id: int | str,
    category_ids: Sequence[int],
    *,
    first_id: int,
    polygons: bool = False,
) -> list[dict[str, Any]]:
    """One image's detections as annotations of a COCO data set: numbered, with their area, and a `score` each.

    Args:
        first_id: of the first annotation; the others count up from it.
        polygons: masks as polygons of the same pixels instead of RLE. Detections without a single pixel, which no
            polygon can say, are left out.
    """
    annotations: list[dict[str, Any]] = []
    for result in detections_to_coco(detections, image_id, category_ids):
        rle = result.get("segmentation")
        area = float(coco_mask.area(rle)) if rle else result["bbox"][2] * result["bbox"][3]
        if polygons and rle:
            if not area:
                continue
            result["segmentation"] = rle_to_polygons(rle)
        annotations.append({**result, "id": first_id + len(annotations), "area": area, "iscrowd": 0})
    return annotations


def rle_to_polygons(rle: RLE) -> list[list[float]]:
    """A mask as COCO's polygons, x1, y1, x2, y2, ... for each part, along the edges of its pixels; see `outlines`."""
    bitmap, corner = decode_cut(rle)
    return [(ring + corner).astype(float).flatten().tolist() for ring in outlines(bitmap)]


def detections_from_coco(
    results: Sequence[Mapping[str, Any]], category_ids: Sequence[int], size: tuple[int, int]
) -> Detections:
    """One image's results, or annotations with scores, as detections: undoes `detections_to_coco`.

    Args:
        results: with bbox, score and category_id; all or none with a segmentation (RLE or polygons), and keypoints.
        category_ids: the data set's own ids, by label.
        size: (h, w) of the image.

    Returns:
        Detections in the order of `results`. Their masks are `PolygonMasks` or `BitmapMasks`, exact to the pixel.

    Raises:
        ValueError: the results are of several images, or one of them lacks a field that it should have, has a category
            that is not among `category_ids`, or a segmentation that cannot be read.
    """
    if len(images := {result.get("image_id") for result in results}) > 1:
        raise ValueError(f"the results are of {len(images)} images; give those of one")
    label_of = {category: label for label, category in enumerate(category_ids)}
    optional = {field for result in results for field in ("segmentation", "keypoints") if field in result}
    for i, result in enumerate(results):
        if missing := {"bbox", "score", "category_id", *optional} - set(result):
            raise ValueError(f"result {i} has no {', '.join(sorted(missing))}")
        if result["category_id"] not in label_of:
            raise ValueError(f"result {i} has category_id {result['category_id']}, which is not in {[*category_ids]}")
    boxes = np.array([result["bbox"] for result in results], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks: Masks | None = None
    keypoints = None
    if "segmentation" in optional:
        masks = masks_of([result["segmentation"] for result in results], size)
    if "keypoints" in optional:
        points = torch.tensor([result["keypoints"] for result in results], dtype=torch.float64)
        keypoints = (points.view(len(results), -1, 3) + torch.tensor([0.5, 0.5, 0.0])).float()
    return Detections(
        boxes=torch.from_numpy(boxes).float(),
        scores=torch.tensor([result["score"] for result in results], dtype=torch.float32),
        labels=torch.tensor([label_of[result["category_id"]] for result in results], dtype=torch.int64),
        size=size,
        masks=masks,
        keypoints=keypoints,
    )


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that is either whole or not there; NaN, which JSON does not know, is refused."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with WholeFile(path) as part:
        part.write_text(json.dumps(value, allow_nan=False), encoding="utf-8")
