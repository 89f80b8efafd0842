"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import record_function

from maskrcnn.engine.memory import naming_what_fills_the_memory
from maskrcnn.engine.precision import Precision
from maskrcnn.engine.statistics import RunningStatistics


@dataclass(frozen=True)
class Step:
    """One finished iteration, as hooks see it.

    Tensors stay on the device: reading one makes the host wait for it. With gradient accumulation losses are the means
    over the passes. Losses and samples are those of this process.
    """

    iteration: int  # from 0
    max_iter: int
    total_loss: Tensor
    losses: dict[str, Tensor]
    finite: Tensor  # bool: the weights were updated; else loss or gradient were not finite, and they stay as they were
    gradient_norms: Tensor  # (P,) of each trained parameter, over all processes, before any clipping
    learning_rate: float
    time: float  # seconds since the end of the last step or evaluation: also of hooks, which may wait for a GPU
    data_time: float  # of which the step waited for its samples
    samples: list[Any]

    @property
    def is_last(self) -> bool:
        return self.iteration + 1 == self.max_iter

    @property
    def image_ids(self) -> list[Any]:
        return [getattr(sample, "image_id", -1) for sample in self.samples]


def is_due(iteration: int, period: int) -> bool:
    """Whether something that happens every `period` iterations (0: never) follows this one, counted from 0."""
    return period > 0 and (iteration + 1) % period == 0


class Hook:
    """Called by the trainer; each method does nothing here. Every process has its hooks, and calls them alike."""

    stop = False  # whether training should end, asked after each evaluation and at the start

    def after_step(self, step: Step) -> None:
        """After every iteration."""

    def after_evaluation(self, iteration: int, results: dict[str, float]) -> None:
        """After an evaluation, with its metrics; `iteration` is the last finished one."""

    def after_training(self, iteration: int) -> None:
        """Once, when training has reached its end; `iteration` is the last finished one."""

    def close(self) -> None:
        """Once, when training ends, also by an error."""


class Trainer:
    """Runs the steps from one iteration to another; everything beside the steps themselves is a hook's job.

    A step whose loss or gradient is not finite touches neither weights, nor statistics of norms, nor the state of the
    optimizer. That is decided on the device, so that the host need not wait: the optimizer skips by a flag, which is
    the same in all processes, since a loss that is not finite is passed on as gradients that are not.

    Args:
        model: `model(batch)` gives losses; those whose name starts with "loss_" are summed and minimised. Several
            processes have it in DistributedDataParallel.
        batches: infinite; `accumulate` of them make a step.
        optimizer: a fused one, which has such a flag.
        learning_rate: of an iteration.
        scaler: of `precision`, handed in because a checkpoint holds its state.
        clip_gradients: largest total norm of the gradient; 0: no clipping.
        accumulate: forward and backward passes of a step, whose gradients are averaged.
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
        accumulate: int = 1,
        evaluate: Callable[[], dict[str, float]] | None = None,
        eval_period: int = 0,
    ) -> None:
        self.model, self.batches, self.optimizer, self.learning_rate = model, batches, optimizer, learning_rate
        self.hooks, self.precision, self.scaler, self.clip_gradients = hooks, precision, scaler, clip_gradients
        self.accumulate, self.evaluate, self.eval_period = accumulate, evaluate, eval_period
        self.trained = [p for group in optimizer.param_groups for p in group["params"]]
        self.statistics = RunningStatistics(model)
        self.ended: float | None = None  # of the last step, or of what took its time after it

    def train(self, start: int, max_iter: int, *, known: Mapping[str, float] | None = None) -> dict[str, float]:
        """Run iterations `start` to `max_iter` - 1; the last evaluation's metrics, empty without one.

        Args:
            known: the metrics after iteration `start` - 1, if they were evaluated. If not, and an evaluation was due
                there, or nothing is left to train, it is made up for: the run was stopped just before.
        """
        results = dict(known or {})
        self.model.train()
        with ExitStack() as stack:
            for hook in reversed(self.hooks):
                stack.callback(hook.close)  # each, whatever the others raise
            last = start - 1
            if known is None and (start >= max_iter or (start > 0 and is_due(last, self.eval_period))):
                results = self.evaluation_after(last)
            while last + 1 < max_iter and not any(hook.stop for hook in self.hooks):
                last += 1
                step = self.step(last, max_iter)
                for hook in self.hooks:
                    hook.after_step(step)
                if step.is_last or is_due(last, self.eval_period):
                    results = self.evaluation_after(last)
                    self.ended = None
            for hook in self.hooks:
                hook.after_training(last)
        return results

    def evaluation_after(self, iteration: int) -> dict[str, float]:
        if self.evaluate is None:
            return {}
        results = self.evaluate()
        for hook in self.hooks:
            hook.after_evaluation(iteration, results)
        return results

    def step(self, iteration: int, max_iter: int) -> Step:
        """Batches, losses, gradients, update."""
        started = time.perf_counter() if self.ended is None else self.ended
        rate = self.learning_rate(iteration)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_factor", 1.0)
        self.optimizer.zero_grad()
        self.statistics.keep()
        passes: list[dict[str, Tensor]] = []
        samples: list[Any] = []
        data_time = 0.0
        for i in range(self.accumulate):
            asked = time.perf_counter()
            with record_function("data"):
                batch = next(self.batches)
            data_time += time.perf_counter() - asked
            samples += batch
            with naming_what_fills_the_memory(batch), self._gradients_kept_here(until_last=i + 1 < self.accumulate):
                passes.append(self._forward_backward(batch))
        with record_function("optimizer"), naming_what_fills_the_memory(samples):
            finite, norms = self._update()
            self.statistics.settle(finite)
        losses = passes[0]
        if len(passes) > 1:
            losses = {name: torch.stack([found[name] for found in passes]).mean() for name in losses}
        self.ended = time.perf_counter()
        return Step(
            iteration=iteration,
            max_iter=max_iter,
            total_loss=losses.pop("total_loss"),
            losses=losses,
            finite=finite,
            gradient_norms=norms,
            learning_rate=rate,
            time=self.ended - started,
            data_time=data_time,
            samples=samples,
        )

    def _gradients_kept_here(self, *, until_last: bool) -> AbstractContextManager[Any]:
        """Before a step's last pass the processes need not exchange gradients."""
        return self.model.no_sync() if until_last and isinstance(self.model, DistributedDataParallel) else nullcontext()

    def _forward_backward(self, batch: list[Any]) -> dict[str, Tensor]:
        """Adds the gradients of one pass; its losses, detached, and their "total_loss"."""
        with record_function("forward"), self.precision.autocast():
            losses = self.model(batch)
        total = torch.stack([value.float() for name, value in losses.items() if name.startswith("loss_")]).sum()
        # NaN for a loss that is not finite, which need not show in its own gradient (that of infinity is often 0)
        seed = torch.where(torch.isfinite(total), 1 / self.accumulate, torch.nan)
        with record_function("backward"):
            self.scaler.scale(total).backward(seed)
        return {"total_loss": total.detach(), **{name: value.detach() for name, value in losses.items()}}

    @torch.no_grad()
    def _update(self) -> tuple[Tensor, Tensor]:
        """Apply the gradients if they are finite: whether they are, and their norms (P,)."""
        self.scaler.unscale_(self.optimizer)
        gradients = [p.new_zeros(()) if p.grad is None else p.grad for p in self.trained]
        norms = torch.stack(torch._foreach_norm(gradients))
        total = torch.linalg.vector_norm(norms.float())
        finite = torch.isfinite(total)
        if self.clip_gradients:
            nn.utils.clip_grads_with_norm_(self.trained, self.clip_gradients, total)
        self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        del self.optimizer.found_inf  # type: ignore[attr-defined]
        self.scaler.update()
        return finite, norms
