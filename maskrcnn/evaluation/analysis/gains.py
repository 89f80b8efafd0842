"""What each type of error costs: the AP50 that mending all of a type would add (Bolya et al. 2020, section 2.3).

Each type is mended alone, as the paper asks. Where it leaves a question open, or tools give other answers:

- A cls or loc error about an object that is found already goes, whichever of the two has the higher score, as in the
  authors' tool and hotcoco. Taken at its word, the paper would keep the better one.
- Of several errors of the type about one object the best is mended and the others go. In both tools errors of the other
  type count too: a cls error goes if a better loc error, which stays as it is, is about the same object. Their values
  of cls and loc are never higher for it.
- A class of which no object is left once missed ones do not count drops out of the mean, as in pycocotools. hotcoco
  keeps it with an AP of 0, so that missing it altogether would cost nothing; the authors' tool drops it only if it has
  no detections either.
- A class without objects does not count, whatever its detections, as in COCO's mean. In that of the authors' tool it
  has an AP of 0 if there are any.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from maskrcnn.evaluation.analysis.errors import BKG, BOTH, CLS, DUP, ERRORS, LOC, MISSED
from maskrcnn.evaluation.analysis.matches import Matches

RECALLS = np.linspace(0, 1, 101)


def error_counts(matches: Matches) -> np.ndarray:
    """Errors of each type by class, int64 (6, K): a false positive in the class detected."""
    wrong = matches.error >= 0
    cells = matches.error[wrong].astype(np.int64) * matches.num_classes + matches.labels[wrong]
    counts = np.bincount(cells, minlength=len(ERRORS) * matches.num_classes).reshape(len(ERRORS), matches.num_classes)
    counts[MISSED] = matches.per_class(matches.missed)
    return counts


def ap50(matches: Matches) -> float:
    """COCO's AP at IoU 0.5 in percent, over all detections; NaN without objects."""
    return _Ranking.of(matches).ap50()


def gains(matches: Matches) -> dict[str, float]:
    """Points of AP50, 0 to 100, that mending all errors of a type would add.

    cls: gets the object's class, or goes if that object is found already or by a better error so mended.
    loc: gets the object's place, or goes likewise.
    both, dup, bkg: go.
    missed: do not count as objects.
    false_positives: all go. false_negatives: no object that was not found counts.

    Returns:
        the value of each of these names; NaN where no AP is left: there are no objects, or none would count any more.
    """
    now = _Ranking.of(matches)
    free = matches.found_by < 0
    mended = {
        "cls": now.corrected(CLS, matches.object_labels, free),
        "loc": now.corrected(LOC, matches.object_labels, free),
        "both": now.only(now.error != BOTH),
        "dup": now.only(now.error != DUP),
        "bkg": now.only(now.error != BKG),
        "missed": replace(now, num_objects=matches.per_class(matches.counted & ~matches.missed)),
        "false_positives": now.only(now.right),
        "false_negatives": replace(now, num_objects=matches.per_class(~free)),
    }
    base = now.ap50()
    return {name: ranking.ap50() - base for name, ranking in mended.items()}


@dataclass(frozen=True)
class _Ranking:
    """The detections that count, the best score first, and the number of objects of each class."""

    labels: np.ndarray
    right: np.ndarray
    error: np.ndarray
    target: np.ndarray  # rows of the objects of all images
    num_objects: np.ndarray

    @classmethod
    def of(cls, matches: Matches) -> Self:
        order = np.argsort(-matches.scores, kind="stable")
        order = order[~matches.ignored[order]]
        return cls(
            labels=matches.labels[order],
            right=matches.found[order] >= 0,
            error=matches.error[order],
            target=matches.objects_of(matches.target)[order],
            num_objects=matches.num_objects,
        )

    def only(self, keep: np.ndarray) -> Self:
        columns = {name: getattr(self, name)[keep] for name in ("labels", "right", "error", "target")}
        return replace(self, **columns)

    def corrected(self, error: int, object_labels: np.ndarray, free: np.ndarray) -> Self:
        """The best error about each free object becomes its true positive; the others of this type go."""
        rows = np.flatnonzero(self.error == error)
        rows = rows[free[self.target[rows]]]
        objects, first = np.unique(self.target[rows], return_index=True)
        best = rows[first]
        labels, right = self.labels.copy(), self.right.copy()
        labels[best], right[best] = object_labels[objects], True
        return replace(self, labels=labels, right=right).only(right | (self.error != error))

    def ap50(self) -> float:
        order = np.argsort(self.labels, kind="stable")
        stops = np.searchsorted(self.labels[order], np.arange(1, len(self.num_objects)))
        parts = zip(np.split(self.right[order], stops), self.num_objects, strict=True)
        values = [_average_precision(right, count) for right, count in parts if count]
        return 100 * float(np.mean(values)) if values else math.nan


def _average_precision(right: np.ndarray, num_objects: int) -> float:
    """Mean over 101 recalls of the greatest precision at that recall or a higher one; `right`: best score first."""
    true = np.cumsum(right)
    precision = true / np.arange(1, len(true) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(true / num_objects, RECALLS)
    return float(np.append(envelope, 0.0)[reached].mean())
