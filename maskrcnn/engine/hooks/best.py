"""The best checkpoint so far, and an end to training that no longer gets better."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

from maskrcnn.engine.trainer import Hook

logger = logging.getLogger(__name__)


class KeepBest(Hook):
    """Keeps the checkpoint with the best value of one metric, and asks to stop when there is no better one for long.

    Args:
        metric: by its name in the results. Less is better if it is a loss, as its name says.
        keep: called with the iteration after an evaluation that was better than the one that is kept; whether it
            could be kept now.
        patience: evaluations without a better value after which to stop; 0: never.
        history: (iteration, value) of the evaluations before, in a run that goes on.
        is_there: whether the best of these is kept; it may not have been possible.
    """

    def __init__(
        self,
        metric: str,
        keep: Callable[[int], bool],
        *,
        patience: int = 0,
        history: Sequence[tuple[int, float]] = (),
        is_there: bool = True,
    ) -> None:
        self.metric, self.keep, self.patience = metric, keep, patience
        self.sign = -1 if "loss" in metric.rsplit("/", 1)[-1] else 1
        self.best: tuple[int, float] | None = None
        self.since = 0
        for iteration, value in history:
            self.take(iteration, value)
        # less than the best, where that could not be written
        self.kept: float | None = self.best[1] if self.best and is_there else None

    def take(self, iteration: int, value: float) -> bool:
        """Whether this is the best value so far. One that is not finite never is."""
        if self.is_better(value, self.best and self.best[1]):
            self.best, self.since = (iteration, value), 0
            return True
        self.since += 1
        return False

    def is_better(self, value: float, than: float | None) -> bool:
        return math.isfinite(value) and (than is None or self.sign * value > self.sign * than)

    def after_evaluation(self, iteration: int, results: dict[str, float]) -> None:
        before, value = self.best, results[self.metric]
        if self.take(iteration, value):
            was = "" if before is None else f", before {before[1]:.4g} after iteration {before[0]}"
            logger.info("%s is %.4g, the best so far%s", self.metric, value, was)
        elif self.best is not None:
            logger.info(
                "%s is %.4g; the best was %.4g after iteration %d, %d evaluations ago",
                *(self.metric, value, self.best[1], self.best[0], self.since),
            )
        if self.is_better(value, self.kept) and self.keep(iteration):
            self.kept = value
        if self.stop:
            logger.info("training ends: %d evaluations without a better %s (TEST.PATIENCE)", self.since, self.metric)

    @property
    def stop(self) -> bool:  # type: ignore[override]
        return 0 < self.patience <= self.since
