"""TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from maskrcnn.engine.writers.writer import Writer, is_training


class TensorBoard(Writer):
    """TensorBoard events: losses under train/, metrics under their own names, pictures."""

    def __init__(self, folder: Path, start: int = 0) -> None:
        self.events = SummaryWriter(str(folder), purge_step=start or None)

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        prefix = "train/" if is_training(values) else ""
        for name, value in values.items():
            self.events.add_scalar(prefix + name, value, iteration)
        self.events.flush()

    def picture(self, iteration: int, name: str, image: np.ndarray) -> None:
        self.events.add_image(name, torch.from_numpy(np.ascontiguousarray(image)), iteration, dataformats="HWC")

    def close(self) -> None:
        self.events.close()
