"""A report's data by its schema: drawn ellipses as objects, shifted ones as detections, all counted from these."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_masks

TYPES = ("cls", "loc", "both", "dup", "bkg", "missed")
SIZES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
RECALLS = ("AR@1", "AR@10", "AR@100", "ARs", "ARm", "ARl")


def example_data(
    *,
    title: str = "example",
    classes: Sequence[str] = ("cell", "dog", "oak"),
    sets: int = 1,
    pictures: int = 6,
    objects: int = 4,
    detections: bool = True,
    kinds: Sequence[str] = ("segm", "bbox"),
    keypoints: bool = False,
    points: int = 40,
    evaluations: int = 4,
    seed: int = 0,
) -> dict[str, Any]:
    """The whole page's data; `points` is the length of the training curves."""
    rng = np.random.default_rng(seed)
    options = {"pictures": pictures, "objects": objects, "detections": detections, "keypoints": keypoints}
    return {
        "format": 1,
        "title": title,
        "made": "2026-11-28T18:10:00+00:00",
        "run": _run(),
        "config": [
            ["SOLVER.BASE_LR", "0.02", "command line"],
            ["SOLVER.STEPS", "[60000, 80000]", "configs/<base>.yaml"],
            ["MODEL.BACKBONE.NAME", "ResNet", ""],
        ],
        "training": _training(points),
        "evaluations": _evaluations(evaluations, classes, kinds),
        "sets": [_set(f"set_{i}", classes, kinds, rng, **options) for i in range(sets)],
    }


def _run() -> dict[str, Any]:
    start = {
        "when": "2026-11-28T15:35:44+00:00",
        "iteration": 0,
        "command": "maskrcnn train --config configs/a.yaml OUTPUT_DIR 'runs/a b'",
        "folder": "/home/someone/cells",
        "processes": 1,
        "git": {"commit": "439d09d" + 33 * "0", "branch": "main", "changed": ["a.py"]},
        "environment": [["torch", "2.14.1"], ["GPU", "none"]],
    }
    return {
        "repeat": "maskrcnn train --config /home/someone/a.yaml OUTPUT_DIR again",
        "facts": [["seed", "0"], ["weights", "iteration 699"]],
        "timing": [["training", "5 min 12 s"], ["waiting for data", "1.8 %"]],
        "starts": [start, start | {"iteration": 350, "git": None}],
    }


def _training(points: int) -> dict[str, Any]:
    iterations = [20 * i + 19 for i in range(points)]
    fall = [2 * 0.97**i + 0.3 for i in range(points)]
    series: dict[str, list[float | None]] = {
        "total_loss": list(fall),
        "loss_mask": [0.4 * v for v in fall],
        "loss_cls": [None, *(0.6 * v for v in fall[1:])],
        "lr": [0.02 * min(1, (i + 1) / 10) for i in range(points)],
        "imgs_per_s": [7.3] * points,
        "time": [0.55] * points,
        "data_time": [0.01] * points,
        "max_mem": [1940.0] * points,
    }
    return {"iterations": iterations, "series": series if points else {}}


def _evaluations(count: int, classes: Sequence[str], kinds: Sequence[str]) -> dict[str, Any]:
    grown = [40 * (1 - 0.5**i) for i in range(1, count + 1)]
    series = {f"{kind}/{name}": list(grown) for kind in kinds for name in SIZES}
    series |= {f"{kind}/AP-{name}": [0.9 * v for v in grown] for kind in kinds for name in classes}
    series["val/total_loss"] = [1.0 / (i + 1) for i in range(count)]
    return {"iterations": [200 * (i + 1) - 1 for i in range(count)], "series": series if count else {}}


def _set(name: str, classes: Sequence[str], kinds: Sequence[str], rng: np.random.Generator, **options: Any) -> dict:
    pictures = [_picture(i, len(classes), kinds, rng, **options) for i in range(options.pop("pictures"))]
    per_class = [0] * len(classes)
    for picture in pictures:
        for label, crowd in zip(picture["objects"]["label"], picture["objects"]["crowd"], strict=True):
            per_class[label] += not crowd
    order = sorted(range(len(pictures)), key=lambda i: pictures[i]["quality"])
    return {
        "name": name,
        "images": len(pictures),
        "evaluated": "iteration 699",
        "classes": list(classes),
        "objects": per_class,
        "kinds": {kind: _kind(kind, pictures, per_class, rng) for kind in kinds},
        "pictures": pictures,
        "groups": [{"name": "worst", "pictures": order[:4]}, {"name": "best", "pictures": order[::-1][:4]}]
        if pictures
        else [],
    }


# ---- one picture ----


def _picture(
    index: int,
    num_classes: int,
    kinds: Sequence[str],
    rng: np.random.Generator,
    *,
    objects: int,
    detections: bool,
    keypoints: bool,
    pictures: int = 0,
) -> dict[str, Any]:
    height, width = (120, 160) if index % 2 else (150, 110)
    image = rng.integers(30, 60, (height, width, 3), dtype=np.uint8)
    truth = [_Ellipse.random(height, width, int(rng.integers(num_classes)), rng) for _ in range(objects)]
    for ellipse in truth:
        image[ellipse.mask(height, width) > 0] = rng.integers(100, 250, 3)
    found = []
    for row, ellipse in enumerate(truth if detections else []):
        shift = (0.0, 0.55, 0.02, 0.05)[row % 4]  # 0.55: IoU 0.49 as masks, 0.57 as boxes
        found.append((ellipse.shifted(shift), "loc" if shift == 0.55 else "", row))
        if row % 3 == 2:
            found.append((ellipse.shifted(0.1), "dup", row))
        if row % 5 == 4 and num_classes > 1:
            found.append((ellipse.labelled((ellipse.label + 1) % num_classes), "cls", row))
    if detections:
        found.append((_Ellipse.random(height, width, int(rng.integers(num_classes)), rng), "bkg", -1))
        found = found[:1] + found[2:] if index % 3 == 0 else found  # the second object is missed there
    crowd = [int(row == 3 and index == 1) for row in range(len(truth))]
    errors = {kind: [_error(error, row, crowd, kind) for _, error, row in found] for kind in kinds}
    right = {kind: {row: at for at, (_, _, row) in enumerate(found) if errors[kind][at] == ""} for kind in kinds}
    # Right ones have higher scores, and no score is a hundredth, so that a threshold is never a question of rounding.
    scores = [
        round(int(100 * (s if error else 0.3 + 0.7 * s)) / 100 + 0.005, 3)
        for s, (_, error, _) in zip(rng.uniform(0.05, 0.9, len(found)), found, strict=True)
    ]
    _, encoded = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, 80])
    return {
        "image": index,
        "file": f'picture <{index}> & "x" 🙂.png',
        "size": [2 * height, 2 * width],
        "width": width,
        "height": height,
        "webp": base64.b64encode(encoded.tobytes()).decode(),
        "quality": round(float(rng.uniform()), 3),
        "objects": {
            **_instances(truth, height, width, "segm" in kinds, keypoints),
            "crowd": crowd,
            "found_by": {kind: [right[kind].get(row, -1) for row in range(len(truth))] for kind in kinds},
            "counted": {kind: [1 - one for one in crowd] for kind in kinds},
        },
        "detections": {
            **_instances([ellipse for ellipse, _, _ in found], height, width, "segm" in kinds, keypoints),
            "score": scores,
            "error": errors,
            "about": {
                kind: [-1 if e == "crowd" else row for e, (_, _, row) in zip(errors[kind], found, strict=True)]
                for kind in kinds
            },
            "iou": {kind: [_iou(error, row, kind) for _, error, row in found] for kind in kinds},
        },
    }


def _error(error: str, row: int, crowd: list[int], kind: str) -> str:
    """Of a detection that was made from the object `row` (-1: from none)."""
    if row >= 0 and crowd[row]:
        return "crowd"
    return "" if error == "loc" and kind == "bbox" else error


def _iou(error: str, row: int, kind: str) -> float:
    if row < 0:
        return 0.0
    return (0.57 if kind == "bbox" else 0.49) if error == "loc" else 0.9


class _Ellipse:
    def __init__(self, x: float, y: float, a: float, b: float, label: int) -> None:
        self.x, self.y, self.a, self.b, self.label = x, y, a, b, label

    @classmethod
    def random(cls, height: int, width: int, label: int, rng: np.random.Generator) -> _Ellipse:
        a, b = rng.uniform(6, 22), rng.uniform(6, 22)
        return cls(rng.uniform(a, width - a), rng.uniform(b, height - b), a, b, label)

    def shifted(self, by: float) -> _Ellipse:
        return _Ellipse(self.x + by * self.a, self.y, self.a, self.b, self.label)

    def labelled(self, label: int) -> _Ellipse:
        return _Ellipse(self.x, self.y, self.a, self.b, label)

    def mask(self, height: int, width: int) -> np.ndarray:
        y, x = np.mgrid[:height, :width] + 0.5
        inside = ((x - self.x) / self.a) ** 2 + ((y - self.y) / self.b) ** 2 <= 1
        hole = ((x - self.x) / self.a) ** 2 + ((y - self.y) / self.b) ** 2 <= 0.04  # so that outlines have one
        return (inside & ~hole).astype(np.uint8)


def _instances(ellipses: list[_Ellipse], height: int, width: int, masks: bool, keypoints: bool) -> dict[str, Any]:
    boxes = [[e.x - e.a, e.y - e.b, e.x + e.a, e.y + e.b] for e in ellipses]
    points = [
        [[e.x + (k % 5 - 2) * e.a / 3, e.y + (k // 5 - 1.5) * e.b / 2, k % 3] for k in range(17)] for e in ellipses
    ]
    return {
        "box": [[round(float(v), 1) for v in box] for box in boxes],
        "label": [e.label for e in ellipses],
        "mask": [_rle(e.mask(height, width)) for e in ellipses] if masks else [None] * len(ellipses),
        "keypoints": points if keypoints else None,
    }


def _rle(mask: np.ndarray) -> list[Any] | None:
    """A mask cut to its bounding rectangle: [x, y, w, h, counts]; None if it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if rows.size == 0:
        return None
    x, y, w, h = int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1
    counts = coco_masks.encode(np.asfortranarray(mask[y : y + h, x : x + w]))["counts"]
    return [x, y, w, h, counts.decode("ascii")]


# ---- what was counted over the pictures ----


def _kind(kind: str, pictures: list[dict], objects: list[int], rng: np.random.Generator) -> dict[str, Any]:
    num_classes = len(objects)
    right, wrong = (np.zeros((num_classes, 101), int) for _ in range(2))
    calibration = np.zeros((3, num_classes, 10))
    confusion: dict[tuple[int, int], dict[int, int]] = {}
    for picture in pictures:
        found = picture["detections"]
        for label, score, error in zip(found["label"], found["score"], found["error"][kind], strict=True):
            if error == "crowd":
                continue
            bin_ = min(100, int(np.floor(100 * score)))
            (wrong if error else right)[label, bin_] += 1
            calibration[:, label, min(9, int(10 * score))] += (1, not error, score)
            object_class = {"": label, "cls": (label - 1) % num_classes}.get(error, num_classes)
            pairs = confusion.setdefault((object_class, label), {})
            pairs[bin_] = pairs.get(bin_, 0) + 1
    some = [k for k in range(num_classes) if objects[k]]
    curve = [
        [round(1 - (r / 100) ** (2 + k % 3), 3) for r in range(101)] if k in some else None for k in range(num_classes)
    ]
    figures = {name: round(float(rng.uniform(20, 80)), 1) if some else -1 for name in (*SIZES, *RECALLS)} | {"APl": -1}
    best = [_best_f1(right[k], wrong[k], objects[k]) for k in range(num_classes)]
    return {
        "figures": figures,
        "by_class": {
            "columns": [*SIZES, "AR"],
            "rows": [
                [round(float(v), 1) for v in rng.uniform(0, 90, 7)] if k in some else [-1] * 7
                for k in range(num_classes)
            ],
        },
        "precision": {"0.50": curve, "0.75": curve, "mean": curve},
        "counts": {"true": right.tolist(), "false": wrong.tolist()},
        "best_f1": {"all": _best_f1(right.sum(0), wrong.sum(0), sum(objects)), "by_class": best},
        "calibration": {
            "count": calibration[0].astype(int).tolist(),
            "true": calibration[1].astype(int).tolist(),
            "score": calibration[2].tolist(),
            "error": {"all": 0.05, "by_class": [0.05 if k in some else None for k in range(num_classes)]},
        },
        "confusion": [
            [o, d, [n for pair in sorted(pairs.items()) for n in pair]] for (o, d), pairs in confusion.items()
        ],
        "errors": _errors(kind, pictures, num_classes),
    }


def _best_f1(right: np.ndarray, wrong: np.ndarray, objects: int) -> dict[str, float] | None:
    if not objects:
        return None
    candidates = []
    for b in range(101):
        t, f = int(right[b:].sum()), int(wrong[b:].sum())
        candidates.append((2 * t / (t + f + objects), b, t / (t + f) if t + f else 0.0, t / objects))
    f1, b, precision, recall = max(candidates)  # of equal ones the highest threshold
    return {"threshold": b / 100, "f1": f1, "precision": precision, "recall": recall}


def _errors(kind: str, pictures: list[dict], num_classes: int) -> dict[str, Any]:
    types = []
    for name in TYPES:
        by_class, examples = [0] * num_classes, []
        for index, picture in enumerate(pictures):
            side = picture["objects" if name == "missed" else "detections"]
            for row, label in enumerate(side["label"]):
                is_missed = name == "missed" and side["found_by"][kind][row] < 0 and not side["crowd"][row]
                if is_missed or (name != "missed" and side["error"][kind][row] == name):
                    by_class[label] += 1
                    examples.append([index, row])
        gain = round(0.7 * sum(by_class), 1)
        types.append(
            {"name": name, "count": sum(by_class), "gain": gain, "by_class": by_class, "examples": examples[:12]}
        )
    return {"ap50": 74.6, "types": types, "gain_false": 3.6, "gain_missed": 20.2}
