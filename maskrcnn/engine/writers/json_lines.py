"""metrics.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from maskrcnn.checkpoint import write_atomically
from maskrcnn.engine.writers.appended import AppendedFile
from maskrcnn.engine.writers.writer import Writer


class JSONLines(Writer):
    """metrics.json: one JSON object a line. A number that is not finite, which JSON does not know, is null.

    No line is lost, and none is half there: see `AppendedFile`.

    Args:
        start: the first iteration to come; lines of a run that had gone further before it was resumed are dropped.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        if path.exists():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            kept = [line for line in lines if _iteration(line) < start]
            write_atomically(path, "".join(f"{line}\n" for line in kept).encode())
        self.file = AppendedFile(path)

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self.file.append((json.dumps({"iteration": iteration, **finite}) + "\n").encode())

    def close(self) -> None:
        self.file.flush()


def _iteration(line: str) -> float:
    try:
        return float(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError):  # a line that a power cut left unfinished
        return math.inf
