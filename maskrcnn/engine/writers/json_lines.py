"""metrics.json: written line by line, and read again when a run goes on."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path

from maskrcnn.engine.writers.appended import AppendedFile
from maskrcnn.engine.writers.writer import Writer, is_training

METRICS_FILE = "metrics.json"


class JSONLines(Writer):
    """metrics.json: one JSON object a line. A number that is not finite, which JSON does not know, is null.

    No line is lost, and none is half there: see `AppendedFile`.

    Args:
        start: the first iteration to come; of a run that had gone further before it was resumed, the file is cut where
            that begins.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        if path.exists():
            lines = path.read_bytes().splitlines(keepends=True)
            kept = list(takewhile(lambda line: _iteration(line) < start, lines))
            if len(kept) < len(lines):  # cutting needs no room on a full disk
                os.truncate(path, sum(map(len, kept)))
        self.file = AppendedFile(path)

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self.file.append((json.dumps({"iteration": iteration, **finite}) + "\n").encode())

    def close(self) -> None:
        self.file.flush()


def _iteration(line: bytes) -> float:
    if not line.endswith(b"\n"):  # a power cut left it unfinished
        return math.inf
    try:
        return float(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError):  # somebody else's: what follows it is worth more than a clean file
        return -math.inf


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, float | None]]]:
    """The iteration and the numbers of each line, in the order of the file; nothing without the file.

    What is `null`, not finite or no number is None. A line that a power cut left unfinished is left out, and so is one
    that is somebody else's.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                values = json.loads(line)
                iteration = int(values.pop("iteration"))
                numbers = {name: _number(value) for name, value in values.items()}
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
                continue
            yield iteration, numbers


def _number(value: object) -> float | None:
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def evaluations(path: Path, *, before: int) -> dict[int, dict[str, float]]:
    """The metrics of each evaluation by its iteration, of iterations less than `before`; none without the file.

    A metric without a value is NaN.
    """
    return {
        iteration: {name: math.nan if value is None else value for name, value in values.items()}
        for iteration, values in read_lines(path)
        if not is_training(values) and iteration < before
    }
