"""A writer that cannot stop a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from maskrcnn.engine.writers.writer import Writer

logger = logging.getLogger(__name__)


class Guarded(Writer):
    """A writer whose errors are logged and go no further: a full disk costs no run.

    One warning when it starts to fail, one line when it works again.
    """

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.failing: set[str] = set()  # methods: that one works says nothing of another, which may do nothing

    def advance(self) -> None:
        self.call("advance", self.writer.advance)

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        self.call("write", self.writer.write, iteration, values)

    def picture(self, iteration: int, name: str, image: np.ndarray) -> None:
        self.call("picture", self.writer.picture, iteration, name, image)

    def close(self) -> None:
        self.failing.clear()  # what could not be written in the end is worth a second line
        self.call("close", self.writer.close)

    def call(self, name: str, method: Callable[..., None], *arguments: Any) -> None:
        kind = type(self.writer).__name__
        try:
            method(*arguments)
        except Exception as error:  # a tracker's library raises errors of its own
            if not self.failing:
                traceback = None if isinstance(error, OSError) else error  # which says where a disk is full
                logger.warning("%s fails, the run goes on: %s", kind, error or type(error), exc_info=traceback)
            self.failing.add(name)
        else:
            if self.failing == {name}:
                logger.info("%s works again", kind)
            self.failing.discard(name)
