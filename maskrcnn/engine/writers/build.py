"""The writers of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import yaml
from yacs.config import CfgNode

from maskrcnn.config import dump
from maskrcnn.engine.writers.bar import ProgressBar
from maskrcnn.engine.writers.guarded import Guarded
from maskrcnn.engine.writers.json_lines import METRICS_FILE, JSONLines
from maskrcnn.engine.writers.log_lines import LogLines
from maskrcnn.engine.writers.writer import Writer
from maskrcnn.registry import WRITERS

logger = logging.getLogger(__name__)


def check_writers(names: Sequence[str]) -> None:
    """Raises ValueError: WRITERS names one that does not exist, or one whose library is not installed."""
    for name in names:
        WRITERS.get(name).check()  # type: ignore[attr-defined]


def build_writers(cfg: CfgNode, folder: Path, start: int, *, bar: bool) -> list[Writer]:
    """Log lines and metrics.json, those that WRITERS names, and a progress bar; none of them can stop the run.

    One that cannot even be made is left out, with an error in the log.

    Args:
        folder: of the run.
        start: first iteration.
    """
    config = yaml.safe_load(dump(cfg))
    makers: dict[str, Callable[[], Writer]] = {
        "the log": LogLines,
        METRICS_FILE: partial(JSONLines, folder / METRICS_FILE, start),
        **{name: partial(WRITERS.get(name), folder=folder, start=start, config=config) for name in cfg.WRITERS},
    }
    if bar:
        makers["the progress bar"] = partial(ProgressBar, start, cfg.SOLVER.MAX_ITER)
    writers: list[Writer] = []
    for name, make in makers.items():
        try:
            writers.append(Guarded(make()))
        except Exception as error:  # a tracker's library raises errors of its own
            logger.error("%s cannot be written to, the run goes on without it: %s", name, error, exc_info=error)
    return writers
