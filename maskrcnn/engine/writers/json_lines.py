"""metrics.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from maskrcnn.checkpoint import write_atomically
from maskrcnn.engine.writers.writer import Writer


class JSONLines(Writer):
    """metrics.json: one JSON object a line. A number that is not finite, which JSON does not know, is null.

    Args:
        start: the first iteration to come; lines of a run that had gone further before it was resumed are dropped.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _iteration(line) < start]
            write_atomically(path, "".join(f"{line}\n" for line in kept).encode())
        self.file = path.open("a", encoding="utf-8")

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self.file.write(json.dumps({"iteration": iteration, **finite}) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def _iteration(line: str) -> float:
    try:
        return float(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError):  # a line that a power cut left unfinished
        return math.inf
