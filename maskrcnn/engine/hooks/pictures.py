"""Pictures of predictions, handed to writers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from maskrcnn.engine.trainer import Hook
from maskrcnn.engine.writers import Writer


class Pictures(Hook):
    """Gives writers pictures of what the model predicts, after each evaluation.

    Args:
        draw: yields names and RGB images.
    """

    def __init__(self, writers: Sequence[Writer], draw: Callable[[], Iterable[tuple[str, np.ndarray]]]) -> None:
        self.writers, self.draw = writers, draw

    def after_evaluation(self, iteration: int, results: dict[str, float]) -> None:
        for name, image in self.draw() if self.writers else ():
            for writer in self.writers:
                writer.picture(iteration, name, image)
