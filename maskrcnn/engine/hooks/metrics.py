"""Numbers of the steps and of evaluations, handed to writers."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import torch

from maskrcnn.engine.trainer import Hook, Step
from maskrcnn.engine.writers import Writer
from maskrcnn.env import peak_memory

LOG_PERIOD = 20  # iterations


class Logging(Hook):
    """Gives writers the means over `period` iterations. Losses stay on the device until then."""

    def __init__(self, writers: Sequence[Writer], *, batch_size: int, device: torch.device, period: int = LOG_PERIOD):
        self.writers, self.batch_size, self.device, self.period = writers, batch_size, device, period
        self.steps: list[Step] = []
        self.recent: deque[float] = deque(maxlen=500)  # step times, for the ETA: whose median ignores stalls

    def after_step(self, step: Step) -> None:
        self.steps.append(replace(step, samples=[]))  # or images would be kept for a whole period
        self.recent.append(step.time)
        for writer in self.writers:
            writer.advance()
        if (step.iteration + 1) % self.period == 0 or step.is_last:
            values = self.values(step)
            for writer in self.writers:
                writer.write(step.iteration, values)
            self.steps.clear()

    def after_evaluation(self, iteration: int, results: dict[str, float]) -> None:
        for writer in self.writers:
            writer.write(iteration, results)

    def close(self) -> None:
        for writer in self.writers:
            writer.close()

    def values(self, step: Step) -> dict[str, float]:
        losses = mean_losses(self.steps)
        seconds = statistics.fmean(s.time for s in self.steps)
        memory = peak_memory(self.device)
        return {
            "eta_seconds": statistics.median(self.recent) * (step.max_iter - 1 - step.iteration),
            **losses,
            "time": seconds,
            "data_time": statistics.fmean(s.data_time for s in self.steps),
            "imgs_per_s": self.batch_size / seconds,
            "lr": step.learning_rate,
            **({} if memory is None else {"max_mem": round(memory / 2**20)}),
        }


def mean_losses(steps: Sequence[Step]) -> dict[str, float]:
    """The mean of the total and of each loss, with one transfer from the device for all of them together."""
    names = list(dict.fromkeys(name for step in steps for name in step.losses))
    columns = [[step.total_loss for step in steps]]
    columns += [[step.losses[name] for step in steps if name in step.losses] for name in names]
    means = torch.stack([torch.stack([v.float() for v in column]).mean() for column in columns]).tolist()
    return dict(zip(["total_loss", *names], means, strict=True))
