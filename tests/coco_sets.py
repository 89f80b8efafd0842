"""Small random data sets and detections in COCO's form, with everything that makes matching hard."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from maskrcnn.evaluation.analysis import Matches, match_image

SIZE = (60, 80)
CATEGORIES = {3: "cat", 7: "dog", 18: "horse", 40: "bottle", 90: "toothbrush"}  # nobody annotated a toothbrush
LABEL_OF = {category: label for label, category in enumerate(CATEGORIES)}
Rows = list[dict[str, Any]]


def compressed(bitmap: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def rectangle(x: float, y: float, w: float, h: float) -> np.ndarray:
    bitmap = np.zeros(SIZE, bool)
    bitmap[max(round(y), 0) : max(round(y + h), 0), max(round(x), 0) : max(round(x + w), 0)] = True
    return bitmap


def run_lengths(bitmap: np.ndarray) -> dict[str, Any]:
    """Uncompressed RLE, as COCO writes crowd regions."""
    flat = bitmap.T.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *changes, flat.size]).tolist()
    return {"size": list(SIZE), "counts": [0, *runs] if flat[0] else runs}


def annotation(
    image: int, category: int, box: tuple[float, ...], *, crowd: bool = False, form: str = "polygon"
) -> dict[str, Any]:
    """`form`: how its mask is written; "none" is an annotation without one."""
    x, y, w, h = map(float, box)
    forms = {
        "polygon": lambda: [[x, y, x + w / 2, y, x + w / 2, y + h, x, y + h], [x + w / 2, y, x + w, y, x + w, y + h]],
        "rle": lambda: compressed(rectangle(*box)),
        "runs": lambda: run_lengths(rectangle(*box)),
        "none": lambda: None,
    }
    return {
        "image_id": image,
        "category_id": category,
        "bbox": [x, y, w, h],
        "area": w * h,
        "iscrowd": int(crowd),
        "segmentation": forms[form](),
    }


def detection(image: int, category: int, score: float, box: tuple[float, ...]) -> dict[str, Any]:
    return {
        "image_id": image,
        "category_id": category,
        "bbox": [float(v) for v in box],
        "score": score,
        "segmentation": compressed(rectangle(*box)),
    }


def random_set(seed: int, *, images: int = 12, crowds: bool = True) -> tuple[dict[str, Any], Rows]:
    """Ground truth and results: doubled, shifted and renamed detections, few different scores, empty images."""
    rng = np.random.default_rng(seed)
    annotations: Rows = []
    results: Rows = []
    for image in range(images):
        boxes = [random_box(rng) for _ in range(rng.integers(1, 7))] if image % 5 else []  # every fifth is empty
        for box in boxes:
            crowd = crowds and rng.random() < 0.15
            form = "runs" if crowd else str(rng.choice(["polygon", "rle", "none"], p=[0.5, 0.4, 0.1]))
            annotations.append(annotation(image, int(rng.choice(list(CATEGORIES)[:4])), box, crowd=crowd, form=form))
        if image % 4 == 3:
            continue  # no detections
        own = [a for a in annotations if a["image_id"] == image]
        for a in (own[i] for i in rng.integers(0, len(own), 3 * len(own))):
            shift = rng.normal(0, rng.choice([0, 0.05, 0.25]), 4) * np.tile(a["bbox"][2:], 2)
            x, y, w, h = np.round(np.array(a["bbox"]) + shift, 1)
            category = a["category_id"] if rng.random() < 0.7 else int(rng.choice(list(CATEGORIES)))
            results.append(detection(image, category, score(rng), (max(x, 0), max(y, 0), max(w, 1), max(h, 1))))
        results += [detection(image, int(rng.choice(list(CATEGORIES))), score(rng), random_box(rng)) for _ in range(3)]
    return truth_of(annotations, range(images)), results


def random_box(rng: np.random.Generator) -> tuple[float, ...]:
    w, h = rng.integers(8, 45, 2)
    return tuple(float(v) for v in (rng.integers(0, SIZE[1] - w), rng.integers(0, SIZE[0] - h), w, h))


def score(rng: np.random.Generator) -> float:
    return float(rng.integers(1, 21)) / 20


def without_ties(results: Rows, seed: int) -> Rows:
    """The same with scores that all differ and are on no edge of a bin: tools choose freely what comes first."""
    ranks = np.random.default_rng(seed).permutation(len(results)).tolist()
    return [{**r, "score": (rank + 0.317) / len(results)} for r, rank in zip(results, ranks, strict=True)]


def truth_of(annotations: Rows, images: Any) -> dict[str, Any]:
    return {
        "images": [{"id": image, "height": SIZE[0], "width": SIZE[1]} for image in images],
        "annotations": [{**a, "id": i + 1} for i, a in enumerate(annotations)],
        "categories": [{"id": category, "name": name} for category, name in CATEGORIES.items()],
    }


def by_image(truth: dict[str, Any], results: Rows) -> list[tuple[Rows, Rows]]:
    """Annotations and results of each image, in the order of the ids."""
    objects, found = defaultdict(list), defaultdict(list)
    for a in truth["annotations"]:
        objects[a["image_id"]].append(a)
    for r in results:
        found[r["image_id"]].append(r)
    return [(objects[image["id"]], found[image["id"]]) for image in truth["images"]]


def matches_of(truth: dict[str, Any], results: Rows, kind: str) -> Matches:
    images = [match_image(*rows, kind, SIZE, LABEL_OF) for rows in by_image(truth, results)]
    return Matches.of(images, len(CATEGORIES))


def for_tool(truth: dict[str, Any], results: Rows, kind: str) -> tuple[dict[str, Any], Rows]:
    """Copies for an evaluation tool: of one kind only, without annotations that it has no mask of."""
    own, other = ("bbox", "segmentation") if kind == "bbox" else ("segmentation", "bbox")
    annotations = [dict(a) for a in truth["annotations"] if a[own]]
    if kind == "bbox":
        annotations = [{k: v for k, v in a.items() if k != other} for a in annotations]
    return {**truth, "annotations": annotations}, [{k: v for k, v in r.items() if k != other} for r in results]
