"""When checkpoints are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from maskrcnn.checkpoint import Checkpointer
from maskrcnn.engine.trainer import Hook, Step


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
