"""No step with NaN or infinite losses goes unnoticed."""

from __future__ import annotations

import torch
from torch import Tensor

from maskrcnn.engine.trainer import Hook, Step


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
