"""No step with NaN or infinity goes unnoticed."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from maskrcnn.distributed import all_gather_object
from maskrcnn.engine.trainer import Hook, Step

USUAL_CAUSE = (
    "Most often the learning rate is too high for the batch: lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_ITERS, or "
    "set SOLVER.CLIP_GRADIENTS."
)

logger = logging.getLogger(__name__)


class NonFiniteLoss(ValueError):
    """Loss or gradient became NaN or infinite."""


class FiniteGuard(Hook):
    """Counts the steps whose loss or gradient was not finite, says what is known of each, and stops at one too many.

    Their updates have been left out already, on the device (`Trainer`). A step's flag is read after the next step was
    queued: reading it at once would leave a GPU idle in every iteration. The flag is the same in all processes.

    Args:
        parameters: the names of the trained parameters, in the order of `Step.gradient_norms`.
        diagnose: of a batch, the first tensor in the forward pass that is not finite, and the cause if it is known.
        limit: steps that may be left out in a run.
        skipped: of which so many have been.
        loss_scale: the scale of fp16's gradients, None in other arithmetic. They overflow now and then until it is
            found, which is no failure where the loss is finite, and the scale more than 1 still.
    """

    def __init__(
        self,
        parameters: Sequence[str],
        diagnose: Callable[[Sequence[Any]], tuple[str, str]],
        *,
        limit: int = 0,
        skipped: int = 0,
        loss_scale: Callable[[], float] | None = None,
    ) -> None:
        self.parameters, self.diagnose, self.limit, self.skipped = parameters, diagnose, limit, skipped
        self.loss_scale = loss_scale
        self.pending: tuple[Step, Tensor, torch.cuda.Event | None] | None = None

    def after_step(self, step: Step) -> None:
        flag, arrived = step.finite, None
        if flag.is_cuda:
            flag = flag.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self.check()
        self.pending = (step, flag, arrived)
        if arrived is None or step.is_last:
            self.check()

    def after_training(self, iteration: int) -> None:
        self.check()

    def check(self) -> None:
        """Look at the newest step now.

        Raises:
            NonFiniteLoss: it was one too many; names the iteration, its losses, its images and what was not finite.
        """
        if self.pending is None:
            return
        (step, flag, arrived), self.pending = self.pending, None
        if arrived is not None:
            arrived.synchronize()
        if flag:
            return
        loss_is_finite = all(all_gather_object(math.isfinite(step.total_loss.item())))
        if loss_is_finite and self.loss_scale is not None and self.loss_scale() > 1:
            logger.debug("iteration %d: gradients overflowed, and their scale is halved", step.iteration)
            return
        self.skipped += 1
        message = self.message(step)
        if self.skipped > self.limit:
            if self.limit:
                message += f" Before it {self.limit} such steps were left out, as SOLVER.SKIP_NON_FINITE allows."
            raise NonFiniteLoss(message)
        logger.warning("%s The step was left out (%d of at most %d)", message, self.skipped, self.limit)

    def message(self, step: Step) -> str:
        """What is known of the step, from the processes whose own loss is not finite, else from the main one."""
        total = step.total_loss.item()
        losses = ", ".join(f"{name} {value.item():.4g}" for name, value in step.losses.items())
        where = f"the total loss is {total:.4g} ({losses}; images {step.image_ids}); "
        if math.isfinite(total):
            where += f"the loss is finite, but not the gradient, first in the backward pass that of {self.first(step)}"
            cause = ""
        else:
            tensor, cause = self.diagnose(step.samples)
            where += f"first not finite: {tensor}" if tensor else "a repeated forward pass is finite, by other chances"
        told = all_gather_object((math.isfinite(total), where, cause))
        ranks = [r for r, (finite, _, _) in enumerate(told) if not finite] or [0]
        each = [told[r][1] if len(told) == 1 else f"rank {r}: {told[r][1]}" for r in ranks]
        cause = next((told[r][2] for r in ranks if told[r][2]), USUAL_CAUSE)
        return f"iteration {step.iteration}, learning rate {step.learning_rate:.3g}: {'; '.join(each)}. {cause}"

    def first(self, step: Step) -> str:
        """Gradients go backwards: the last layer in the model's order is where they went wrong first."""
        bad = (~torch.isfinite(step.gradient_norms)).nonzero()[:, 0].tolist()
        return self.parameters[bad[-1]] if bad else "none alone, but of all together"
