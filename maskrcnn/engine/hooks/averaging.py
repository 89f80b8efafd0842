"""The moving average of the weights, kept up to date."""

from __future__ import annotations

from maskrcnn.engine.ema import WeightAverage
from maskrcnn.engine.trainer import Hook, Step


class Averaging(Hook):
    """Takes the weights into their average after each step."""

    def __init__(self, ema: WeightAverage) -> None:
        self.ema = ema

    def after_step(self, step: Step) -> None:
        self.ema.update()
