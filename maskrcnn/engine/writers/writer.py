"""What every writer does, and what the numbers are that it gets."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

# Among the values of a training line, those that are no loss; an evaluation's metrics have a slash in their name.
TRAINING_VALUES = ("eta_seconds", "time", "data_time", "imgs_per_s", "lr", "max_mem")


class Writer:
    """Takes a run's numbers and pictures; each method does nothing here."""

    def advance(self) -> None:
        """One more iteration is done."""

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        """Numbers by name: the means of the last iterations, or an evaluation's metrics."""

    def picture(self, iteration: int, name: str, image: np.ndarray) -> None:
        """An RGB image, uint8 (H, W, 3)."""

    def close(self) -> None:
        """No more will come."""


def is_training(values: Mapping[str, float]) -> bool:
    return "total_loss" in values


def losses_of(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name not in TRAINING_VALUES}
