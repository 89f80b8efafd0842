"""What happens beside the training steps: guarding, saving, logging. A hook has one job and sees what it is given."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskrcnn.checkpoint import Checkpointer
from maskrcnn.engine.trainer import Hook, Step
from maskrcnn.engine.writers import Writer
from maskrcnn.env import peak_memory

LOG_PERIOD = 20  # iterations


class NonFiniteLoss(ValueError):
    """The total loss became NaN or infinite."""


class FiniteGuard(Hook):
    """Stops the run when the total loss is not finite.

    A step's flag is read after the next step was queued: reading it at once would leave a GPU idle in every iteration.
    """

    def __init__(self) -> None:
        self.pending: tuple[Step, Tensor, torch.cuda.Event | None] | None = None

    def after_step(self, step: Step) -> None:
        flag = torch.isfinite(step.total_loss)
        arrived = None
        if flag.is_cuda:
            flag = flag.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self.check()
        self.pending = (step, flag, arrived)
        if arrived is None or step.is_last:
            self.check()

    def check(self) -> None:
        """Look at the newest step now.

        Raises:
            NonFiniteLoss: names the iteration, its losses and its images.
        """
        if self.pending is None:
            return
        (step, flag, arrived), self.pending = self.pending, None
        if arrived is not None:
            arrived.synchronize()
        if not flag:
            losses = ", ".join(f"{name} {value.item():.4g}" for name, value in step.losses.items())
            raise NonFiniteLoss(
                f"iteration {step.iteration}: the total loss is {step.total_loss.item()} ({losses}; learning rate "
                f"{step.learning_rate:.3g}; images {step.image_ids}). Most often the learning rate is too high for the "
                "batch: lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_ITERS, or set SOLVER.CLIP_GRADIENTS"
            )


class Checkpointing(Hook):
    """Saves the state every `period` iterations, and after the last one as model_final.pth.

    Args:
        state: gives the model's, optimizer's and generators' state.
        check: called before; raises when the state is not worth keeping.
    """

    def __init__(
        self, checkpointer: Checkpointer, state: Callable[[], dict[str, Any]], *, period: int, check: Callable[[], None]
    ) -> None:
        self.checkpointer, self.state, self.period, self.check = checkpointer, state, period, check

    def after_step(self, step: Step) -> None:
        due = self.period > 0 and (step.iteration + 1) % self.period == 0
        if due or step.is_last:
            self.check()
            state = self.state()
            if due:
                self.checkpointer.save(step.iteration, state)
            if step.is_last:
                self.checkpointer.save(step.iteration, state, final=True)


class Logging(Hook):
    """Gives writers the means over `period` iterations. Losses stay on the device until then."""

    def __init__(self, writers: Sequence[Writer], *, batch_size: int, device: torch.device, period: int = LOG_PERIOD):
        self.writers, self.batch_size, self.device, self.period = writers, batch_size, device, period
        self.steps: list[Step] = []
        self.recent: deque[float] = deque(maxlen=500)  # step times, for the ETA: whose median ignores stalls

    def after_step(self, step: Step) -> None:
        self.steps.append(step)
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


class Pictures(Hook):
    """Gives writers pictures of what the model predicts, after each evaluation.

    Args:
        draw: yields names and RGB images.
    """

    def __init__(self, writers: Sequence[Writer], draw: Callable[[], Iterable[tuple[str, np.ndarray]]]) -> None:
        self.writers, self.draw = writers, draw

    def after_evaluation(self, iteration: int, results: dict[str, float]) -> None:
        for name, image in self.draw():
            for writer in self.writers:
                writer.picture(iteration, name, image)
