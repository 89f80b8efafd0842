"""Lines in the log."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping

from maskrcnn.engine.logs import METRICS_LOGGER
from maskrcnn.engine.writers.writer import Writer, is_per_class, is_training, losses_of

logger = logging.getLogger(__name__)


class LogLines(Writer):
    """One line for each set of numbers, in the form that people grep for; metrics of single classes stay out of it."""

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        if is_training(values):
            logging.getLogger(METRICS_LOGGER).info(training_line(iteration, values))
        else:
            metrics = "  ".join(f"{name}: {value:.2f}" for name, value in values.items() if not is_per_class(name))
            logger.info("evaluation after iter: %d  %s", iteration, metrics)


def training_line(iteration: int, values: Mapping[str, float]) -> str:
    """`eta: 0:01:40  iter: 19  total_loss: 2.3  loss_cls: ...  time: 0.5  data_time: 0.003  ...  max_mem: 812M`."""
    parts = [f"eta: {datetime.timedelta(seconds=int(values['eta_seconds']))}", f"iter: {iteration}"]
    parts += [f"{name}: {value:.4g}" for name, value in losses_of(values).items()]
    parts += [f"time: {values['time']:.4f}", f"data_time: {values['data_time']:.4f}"]
    parts += [f"imgs_per_s: {values['imgs_per_s']:.3g}", f"lr: {values['lr']:.5g}"]
    if "max_mem" in values:
        parts.append(f"max_mem: {values['max_mem']:.0f}M")
    return "  ".join(parts)
