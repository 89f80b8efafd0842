"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn.engine.precision import Precision


@dataclass(frozen=True)
class Step:
    """One finished iteration, as hooks see it.

    Tensors are scalars that stay on the device: reading one makes the host wait for it.
    """

    iteration: int  # from 0
    max_iter: int
    total_loss: Tensor
    losses: dict[str, Tensor]
    learning_rate: float
    time: float  # seconds, all of the step
    data_time: float  # of which the step waited for its batch
    image_ids: list[int]

    @property
    def is_last(self) -> bool:
        return self.iteration + 1 == self.max_iter


class Hook:
    """Called by the trainer; each method does nothing here."""

    def after_step(self, step: Step) -> None:
        """After every iteration."""

    def after_evaluation(self, iteration: int, results: dict[str, float]) -> None:
        """After an evaluation, with its metrics; `iteration` is the last finished one."""

    def close(self) -> None:
        """Once, when training ends, also by an error."""


class Trainer:
    """Runs the steps from one iteration to another; everything beside the steps themselves is a hook's job.

    Args:
        model: `model(batch)` gives losses; those whose name starts with "loss_" are summed and minimised.
        batches: infinite.
        learning_rate: of an iteration.
        scaler: of `precision`, handed in because a checkpoint holds its state.
        clip_gradients: largest total norm of the gradient; 0: no clipping.
        evaluate: gives metrics by name; called every `eval_period` iterations (0: never) and after the last one.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterator[list[Any]],
        optimizer: torch.optim.Optimizer,
        learning_rate: Callable[[int], float],
        hooks: Sequence[Hook],
        *,
        precision: Precision,
        scaler: torch.amp.GradScaler,
        clip_gradients: float = 0.0,
        evaluate: Callable[[], dict[str, float]] | None = None,
        eval_period: int = 0,
    ) -> None:
        self.model, self.batches, self.optimizer, self.learning_rate = model, batches, optimizer, learning_rate
        self.hooks, self.precision, self.scaler, self.clip_gradients = hooks, precision, scaler, clip_gradients
        self.evaluate, self.eval_period = evaluate, eval_period

    def train(self, start: int, max_iter: int) -> dict[str, float]:
        """Run iterations `start` to `max_iter` - 1; the last evaluation's metrics, empty without one.

        When nothing is left to train, the model is evaluated once: the run may have been stopped just before that.
        """
        results: dict[str, float] = {}
        self.model.train()
        try:
            for iteration in range(start, max_iter):
                step = self.step(iteration, max_iter)
                for hook in self.hooks:
                    hook.after_step(step)
                due = self.eval_period and (iteration + 1) % self.eval_period == 0
                if due or step.is_last:
                    results = self.evaluation_after(iteration)
            if start >= max_iter:
                results = self.evaluation_after(start - 1)
        finally:
            for hook in self.hooks:
                hook.close()
        return results

    def evaluation_after(self, iteration: int) -> dict[str, float]:
        if self.evaluate is None:
            return {}
        results = self.evaluate()
        for hook in self.hooks:
            hook.after_evaluation(iteration, results)
        return results

    def step(self, iteration: int, max_iter: int) -> Step:
        """Batch, losses, gradients, update."""
        started = time.perf_counter()
        batch = next(self.batches)
        data_time = time.perf_counter() - started

        rate = self.learning_rate(iteration)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_factor", 1.0)

        with self.precision.autocast():
            losses = self.model(batch)
        total = torch.stack([value.float() for name, value in losses.items() if name.startswith("loss_")]).sum()

        self.optimizer.zero_grad()
        self.scaler.scale(total).backward()
        if self.clip_gradients:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_gradients)
        self.scaler.step(self.optimizer)
        self.scaler.update()

        return Step(
            iteration=iteration,
            max_iter=max_iter,
            total_loss=total.detach(),
            losses={name: value.detach() for name, value in losses.items()},
            learning_rate=rate,
            time=time.perf_counter() - started,
            data_time=data_time,
            image_ids=[getattr(sample, "image_id", -1) for sample in batch],
        )
