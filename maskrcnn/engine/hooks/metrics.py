"""Numbers of the steps and of evaluations, handed to writers."""

from __future__ import annotations

import logging
import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from maskrcnn.distributed import mean_over_ranks
from maskrcnn.engine.trainer import Hook, Step
from maskrcnn.engine.writers import Writer
from maskrcnn.env import available_cores, peak_memory

LOG_PERIOD = 20  # iterations
WAITING = 0.2  # share of a step that waits for its batch, from which the loader counts as too slow

logger = logging.getLogger(__name__)


class Logging(Hook):
    """Gives writers the means over `period` iterations. Losses stay on the device until then.

    With several processes it belongs into each, with writers in one: the means are those of all. Each process must have
    the same losses, which every head gives even without an object. When training stops in between, by an error or a
    signal, the means of what is left are the writing process's own: the others may be gone.

    Args:
        batch_size: of all processes together.
        num_workers: of this process's loader; for a hint, once, that it is too slow.
    """

    def __init__(
        self,
        writers: Sequence[Writer],
        *,
        batch_size: int,
        num_workers: int,
        device: torch.device,
        period: int = LOG_PERIOD,
    ) -> None:
        self.writers, self.batch_size, self.num_workers = writers, batch_size, num_workers
        self.device, self.period = device, period
        self.steps: list[Step] = []
        self.recent: deque[float] = deque(maxlen=500)  # step times, for the ETA: whose median ignores stalls
        self.waits: deque[float] = deque(maxlen=3)  # shares of the newest periods' time
        self.hinted = False

    def after_step(self, step: Step) -> None:
        self.steps.append(replace(step, samples=[]))  # or images would be kept for a whole period
        self.recent.append(step.time)
        for writer in self.writers:
            writer.advance()
        if (step.iteration + 1) % self.period == 0 or step.is_last:
            values = self.values(step, period_means(self.steps))
            for writer in self.writers:
                writer.write(step.iteration, values)
            self.look_at_the_loader(values["data_time"] / values["time"])
            self.steps.clear()

    def after_evaluation(self, iteration: int, results: dict[str, float]) -> None:
        values = {name: as_float(value) for name, value in results.items()}
        for writer in self.writers:
            writer.write(iteration, values)

    def close(self) -> None:
        if self.writers and self.steps:
            self.write_the_rest(self.steps[-1])
        for writer in self.writers:
            writer.close()

    def write_the_rest(self, last: Step) -> None:
        try:
            names, means = own_means(self.steps)
            values = self.values(last, dict(zip(names, means, strict=True)))
        except Exception as error:  # the device may be what failed, and has an error of its own on its way
            logger.warning("the means of the last %d iterations are lost: %s", len(self.steps), error)
            return
        for writer in self.writers:
            writer.write(last.iteration, values)

    def values(self, step: Step, means: dict[str, float]) -> dict[str, float]:
        memory = peak_memory(self.device)
        return {
            "eta_seconds": statistics.median(self.recent) * (step.max_iter - 1 - step.iteration),
            **means,
            "imgs_per_s": self.batch_size / means["time"],
            "lr": step.learning_rate,
            **({} if memory is None else {"max_mem": round(memory / 2**20)}),
        }

    def look_at_the_loader(self, share: float) -> None:
        """Say once that it is too slow, of the newest two periods after a run's first, in which it warms up."""
        self.waits.append(share)
        newest = list(self.waits)[1:]
        if not self.hinted and len(newest) == 2 and min(newest) > WAITING:
            self.hinted = True
            logger.info(waiting_hint(statistics.fmean(newest), self.num_workers, available_cores()))


def period_means(steps: Sequence[Step]) -> dict[str, float]:
    """The means of the total, of each loss, `time` and `data_time`, over the steps and over all processes.

    One transfer from the device for all of them together.
    """
    names, means = own_means(steps)
    return dict(zip(names, mean_over_ranks(torch.tensor(means, dtype=torch.float64)).tolist(), strict=True))


def own_means(steps: Sequence[Step]) -> tuple[list[str], list[float]]:
    """Names, and means over the steps of this process."""
    names = list(dict.fromkeys(name for step in steps for name in step.losses))
    columns = [[step.total_loss for step in steps]]
    columns += [[step.losses[name] for step in steps if name in step.losses] for name in names]
    means = torch.stack([torch.stack([v.float() for v in column]).mean() for column in columns]).tolist()
    times = [statistics.fmean(step.time for step in steps), statistics.fmean(step.data_time for step in steps)]
    return ["total_loss", *names, "time", "data_time"], [*means, *times]


def as_float(value: Any) -> float:
    """A metric of somebody's own evaluator, which may be NumPy's or a tensor, or no number at all: NaN."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return math.nan


def waiting_hint(share: float, workers: int, cores: int) -> str:
    """What to do about a loader that is slower than the model.

    Args:
        share: of a step's time, spent waiting.
        cores: that this process may use.
    """
    if workers < cores:
        advice = f"more workers would help, try DATALOADER.NUM_WORKERS {min(cores, max(2, 2 * workers))}"
    else:
        advice = "more workers would hardly help, but smaller image files, a disk near by, or more cores would"
    return (
        f"{share:.0%} of each step waits for its batch; DATALOADER.NUM_WORKERS is {workers}, and this process may use "
        f"{cores} cores: {advice}"
    )
