"""What every writer does, and what the numbers are that it gets."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

# Among the values of a training line, those that are no loss; an evaluation's metrics have a slash in their name.
TRAINING_VALUES = ("eta_seconds", "time", "data_time", "imgs_per_s", "lr", "max_mem")


class Writer:
    """Takes a run's numbers and pictures; each method does nothing here.

    One that WRITERS names is built as `cls(folder=..., start=..., config=...)`: the run's folder, the first iteration
    to come, and the whole config as a plain dictionary. What its methods raise is logged and stops no run (`Guarded`).
    """

    @classmethod
    def check(cls) -> None:
        """Called before a run starts. Raises ValueError: something that it needs is not installed."""

    def advance(self) -> None:
        """One more iteration is done."""

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        """Numbers by name: the means of the last iterations, or an evaluation's metrics."""

    def picture(self, iteration: int, name: str, image: np.ndarray) -> None:
        """An RGB image, uint8 (H, W, 3)."""

    def close(self) -> None:
        """No more will come."""


def is_training(values: Mapping[str, float | None]) -> bool:
    return "total_loss" in values


def losses_of(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name not in TRAINING_VALUES}


def by_purpose(values: Mapping[str, float]) -> dict[str, float]:
    """With `train/` before the names of a training line, as a tracker groups them; metrics keep their names."""
    return {f"train/{name}": value for name, value in values.items()} if is_training(values) else dict(values)


def is_per_class(metric: str) -> bool:
    """Whether this is one class's metric, `segm/AP-person`: a hyphen in a part behind the first slash."""
    return re.search(r"/[^/]+-", metric) is not None
