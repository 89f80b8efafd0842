"""When checkpoints are written, and what happens when they cannot be."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from maskrcnn.checkpoint import Checkpointer
from maskrcnn.distributed import all_gather_object, is_main_process
from maskrcnn.engine.trainer import Hook, Step, is_due

RETRY_AFTER = 100  # iterations
FINAL_TRIES, FINAL_PAUSE = 30, 60.0  # seconds in between: half an hour for somebody to make room on the disk

logger = logging.getLogger(__name__)


class CheckpointingFailed(ValueError):
    """The final checkpoint could not be written."""


class Checkpointing(Hook):
    """Saves the state every `period` iterations, before each evaluation, and after the last iteration.

    The state before an evaluation is model_latest.pth, which the next one replaces: an evaluation takes long, and a
    run that is killed meanwhile loses nothing. A checkpoint that cannot be written costs neither the run nor the one
    before it: it is tried again after 100 iterations.

    Args:
        state: gives what is saved; called by every process at once.
        eval_period: iterations between evaluations, 0 for none.
        saved: the iteration that the folder's newest checkpoint was written after, in a run that goes on.
        finished: that one is the final checkpoint of a run that had ended.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        state: Callable[[], dict[str, Any]],
        *,
        period: int,
        eval_period: int = 0,
        saved: int | None = None,
        finished: bool = False,
    ) -> None:
        self.checkpointer, self.state, self.period = checkpointer, state, period
        self.eval_period, self.saved = eval_period, saved
        self.finished = finished
        self.retry_at: int | None = None

    def after_step(self, step: Step) -> None:
        iteration, self.finished = step.iteration, False
        if is_due(iteration, self.period):
            self.save(iteration, f"model_{iteration:07d}.pth")
        elif iteration == self.retry_at or (is_due(iteration, self.eval_period) and not step.is_last):
            self.save_latest(iteration)
        if step.is_last:
            self.save_final(iteration)

    def after_training(self, iteration: int) -> None:
        if not self.finished:  # training ended before its last iteration
            self.save_final(iteration)

    def save_latest(self, iteration: int) -> bool:
        """The state after an iteration, in the place of the last such one."""
        return self.save(iteration, self.checkpointer.LATEST)

    def save_final(self, iteration: int) -> None:
        """Raises CheckpointingFailed: it could not be written for half an hour."""
        for attempt in range(FINAL_TRIES):
            if attempt:
                time.sleep(FINAL_PAUSE)
            if self.save(iteration, self.checkpointer.FINAL):
                self.finished = True
                return
        raise CheckpointingFailed(
            f"{self.checkpointer.folder / self.checkpointer.FINAL} could not be written, see above; go on from the "
            "last checkpoint with --resume when there is room"
        )

    def save(self, iteration: int, name: str) -> bool:
        """Whether it was written. Every process calls this, and gets the main one's answer."""
        state, failure = self.state(), ""
        if is_main_process():
            try:
                self.checkpointer.save(iteration, state, name)
            except OSError as error:
                failure = f"{type(error).__name__}: {error}"
                logger.error("cannot write the checkpoint %s after iteration %d (%s)", name, iteration, failure)
        failed = bool(all_gather_object(failure)[0])
        self.retry_at = iteration + RETRY_AFTER if failed else None
        self.saved = self.saved if failed else iteration
        return not failed

    def keep_best(self, iteration: int) -> bool:
        """The state after `iteration`, which was just evaluated and, before that, saved, is the best; if it is kept.

        The main process keeps it, and is the one whose answer counts.
        """
        if not is_main_process():
            return True
        try:
            if self.saved != iteration:
                raise OSError("its checkpoint could not be written")
            self.checkpointer.keep_best()
        except OSError as error:
            logger.error("cannot keep the best state so far, after iteration %d (%s)", iteration, error)
            return False
        return True
