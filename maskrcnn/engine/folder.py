"""What stands where in a run's folder: its config, and the results of its last evaluation."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

CONFIG_FILE = "config.yaml"
INFERENCE = "inference"  # the folder of results within a run's


def config_file(folder: Path) -> Path:
    """The config that a run's folder was last evaluated with; of one that never was, the config of its training.

    `--eval-only` may have other test sets and values than the training. That in the folder itself is the training's: a
    folder that has one counts as used and is not trained in.
    """
    evaluated = folder / INFERENCE / CONFIG_FILE
    return evaluated if evaluated.exists() else folder / CONFIG_FILE


def results_folder(inference: Path, name: str, names: Collection[str]) -> Path:
    """Where the results of one of a run's test sets are: of several sets, each has its own folder."""
    return inference / name if len(names) > 1 else inference
