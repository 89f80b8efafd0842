"""Where a run's numbers go: the terminal, the log, metrics.json, TensorBoard."""

from __future__ import annotations

import datetime
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from maskrcnn.checkpoint import write_atomically
from maskrcnn.engine.logs import METRICS_LOGGER

logger = logging.getLogger(__name__)

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


class LogLines(Writer):
    """One line for each set of numbers, in the form that people grep for."""

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        if is_training(values):
            logging.getLogger(METRICS_LOGGER).info(training_line(iteration, values))
        else:
            metrics = "  ".join(f"{name}: {value:.2f}" for name, value in values.items())
            logger.info("evaluation after iter: %d  %s", iteration, metrics)


def training_line(iteration: int, values: Mapping[str, float]) -> str:
    """`eta: 0:01:40  iter: 19  total_loss: 2.3  loss_cls: ...  time: 0.5  data_time: 0.003  ...  max_mem: 812M`."""
    parts = [f"eta: {datetime.timedelta(seconds=int(values['eta_seconds']))}", f"iter: {iteration}"]
    parts += [f"{name}: {value:.4g}" for name, value in losses_of(values).items()]
    parts += [f"time: {values['time']:.4f}", f"data_time: {values['data_time']:.4f}"]
    parts += [f"imgs_per_s: {values['imgs_per_s']:.3g}", f"lr: {values['lr']:.5g}"]
    if "max_mem" in values:
        parts.append(f"max_mem: {values['max_mem']:.0f}M")
    return "  ".join(parts)


class ProgressBar(Writer):
    """A live bar on a terminal: iterations, elapsed time and ETA, then loss, speed, rate, memory, and each loss."""

    def __init__(self, start: int, max_iter: int) -> None:
        shape = "{percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}"
        self.bar = tqdm(
            total=max_iter, initial=start, unit="it", bar_format=shape, dynamic_ncols=True, smoothing=0.05, miniters=1
        )

    def advance(self) -> None:
        self.bar.update()

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        if is_training(values):
            self.bar.set_postfix_str(bar_text(values), refresh=False)

    def close(self) -> None:
        self.bar.close()


def bar_text(values: Mapping[str, float]) -> str:
    """`loss 2.31  4.1 img/s  lr 0.0004  data 3 ms  812M  cls 1.2 box 0.4 mask 0.7`: a narrow terminal cuts the end."""
    parts = [f"loss {values['total_loss']:.3g}", f"{values['imgs_per_s']:.3g} img/s", f"lr {values['lr']:.3g}"]
    parts.append(f"data {1000 * values['data_time']:.0f} ms")
    if "max_mem" in values:
        parts.append(f"{values['max_mem']:.0f}M")
    losses = [f"{name.removeprefix('loss_')} {v:.3g}" for name, v in values.items() if name.startswith("loss_")]
    return "  ".join([*parts, " ".join(losses)])


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
