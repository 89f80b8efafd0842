"""What a run's metrics.json says of its evaluations so far."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.json"


def evaluations(path: Path, *, before: int) -> dict[int, dict[str, float]]:
    """The metrics of each evaluation by its iteration, of iterations less than `before`; none without the file.

    A metric without a value (`null`) is NaN. A line that a power cut left unfinished is left out.
    """
    found: dict[int, dict[str, float]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            values: dict[str, Any] = json.loads(line)
            iteration = int(values.pop("iteration"))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if "total_loss" not in values and iteration < before:
            found[iteration] = {name: float("nan") if value is None else value for name, value in values.items()}
    return found
