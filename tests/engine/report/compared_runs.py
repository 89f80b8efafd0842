"""Runs on the same data: one with random detections, one that is right on every other image and silent on the rest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coco_sets import compressed, rectangle
from evaluated_run import EvaluatedRun, evaluated_run, make_evaluated_run

from maskrcnn.engine.report.compare import ComparedRun
from maskrcnn.evaluation.coco import ground_truth

CHANGED = ("SOLVER.BASE_LR", "0.007", "SEED", "5", "OUTPUT_DIR", "elsewhere")


@dataclass(frozen=True)
class Pair:
    first: EvaluatedRun
    other: EvaluatedRun

    @property
    def runs(self) -> list[ComparedRun]:
        return [compared(self.first), compared(self.other)]


def compared(run: EvaluatedRun) -> ComparedRun:
    return ComparedRun(run.folder, run.test_sets)


def make_pair(folder: Path, *, images: int = 20, masks: bool = True) -> Pair:
    """The other run is right on images of an even id."""
    first = make_evaluated_run(folder / "first", images=images, masks=masks)
    return Pair(first, evaluated_run(folder / "other", first.dataset, right_ones(first, masks=masks), CHANGED))


def right_ones(run: EvaluatedRun, *, masks: bool = True) -> list[dict[str, Any]]:
    rows = [a for a in ground_truth(run.dataset)["annotations"] if a["image_id"] % 2 == 0 and not a["iscrowd"]]
    return [
        {
            **{key: row[key] for key in ("image_id", "category_id", "bbox")},
            "score": 0.9,
            **({"segmentation": compressed(rectangle(*row["bbox"]))} if masks else {}),
        }
        for row in rows
    ]
