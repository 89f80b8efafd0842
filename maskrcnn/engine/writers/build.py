"""The writers of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from yacs.config import CfgNode

from maskrcnn.config import dump
from maskrcnn.engine.history import METRICS_FILE
from maskrcnn.engine.writers.bar import ProgressBar
from maskrcnn.engine.writers.guarded import Guarded
from maskrcnn.engine.writers.json_lines import JSONLines
from maskrcnn.engine.writers.log_lines import LogLines
from maskrcnn.engine.writers.writer import Writer
from maskrcnn.registry import WRITERS


def check_writers(names: Sequence[str]) -> None:
    """Raises ValueError: WRITERS names one that does not exist, or one whose library is not installed."""
    for name in names:
        WRITERS.get(name).check()  # type: ignore[attr-defined]


def build_writers(cfg: CfgNode, folder: Path, start: int, *, bar: bool) -> list[Writer]:
    """Log lines and metrics.json, those that WRITERS names, and a progress bar; none of them can stop the run.

    Args:
        folder: of the run.
        start: first iteration.
    """
    config = yaml.safe_load(dump(cfg))
    writers: list[Writer] = [LogLines(), JSONLines(folder / METRICS_FILE, start)]
    writers += [WRITERS.get(name)(folder=folder, start=start, config=config) for name in cfg.WRITERS]
    if bar:
        writers.append(ProgressBar(start, cfg.SOLVER.MAX_ITER))
    return [Guarded(writer) for writer in writers]
