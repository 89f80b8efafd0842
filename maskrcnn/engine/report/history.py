"""The curves of a run, from its metrics.json."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from maskrcnn.engine.writers.json_lines import read_lines
from maskrcnn.engine.writers.writer import is_training

MOST_POINTS = 2000  # more than a screen has columns
MOST_VALUES = 50_000  # of all curves: a megabyte of text
NO_CURVES = ("eta_seconds",)

Series = list[float | None]


class Curves(TypedDict):
    """Series by name over the same iterations, ascending; None where there is no value."""

    iterations: list[int]
    series: dict[str, Series]


def read_history(path: Path) -> tuple[Curves, Curves]:
    """Every line of training and of evaluation in a metrics.json; empty ones without the file.

    Of two lines for one iteration, as a run that was resumed may have left them in an old file, the later one counts.
    """
    training: dict[int, Mapping[str, float | None]] = {}
    evaluations: dict[int, Mapping[str, float | None]] = {}
    for iteration, values in read_lines(path):
        (training if is_training(values) else evaluations)[iteration] = values
    return _curves(training), _curves(evaluations)


def thinned(curves: Curves, *, most: int = MOST_POINTS) -> Curves:
    """Curves of at most so many points, and fewer where there are many: an evaluation has one of each category.

    A point is the mean over equal numbers of neighbouring ones, fewer in the last group.

    A point stands at the last iteration of its group. Its learning rate, which is no mean in a single line either, is
    the last one of the group.
    """
    iterations = curves["iterations"]
    most = max(min(most, MOST_VALUES // max(len(curves["series"]), 1)), 1)
    size = max(-(-len(iterations) // most), 1)
    groups = [slice(i, min(i + size, len(iterations))) for i in range(0, len(iterations), size)]
    return {
        "iterations": [iterations[group][-1] for group in groups],
        "series": {
            name: [(_last if name == "lr" else _mean)(values[group]) for group in groups]
            for name, values in curves["series"].items()
        },
    }


def _curves(lines: Mapping[int, Mapping[str, float | None]]) -> Curves:
    iterations = sorted(lines)
    names = dict.fromkeys(name for i in iterations for name in lines[i] if name not in NO_CURVES)
    return {"iterations": iterations, "series": {name: [lines[i].get(name) for i in iterations] for name in names}}


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return statistics.fmean(numbers) if numbers else None


def _last(values: Sequence[float | None]) -> float | None:
    return next((value for value in reversed(values) if value is not None), None)
