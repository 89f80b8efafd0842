"""The evaluation loop, and what it asks of an evaluator."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import nn
from tqdm import tqdm

from maskrcnn.distributed import is_main_process, world_size
from maskrcnn.structures.samples import Sample

logger = logging.getLogger(__name__)


class Evaluator(Protocol):
    """One family of metrics. It is fed batch by batch and never runs the model itself."""

    metrics: tuple[str, ...]  # the names that `result` will hold, known before anything runs

    def process(self, samples: Sequence[Sample], outputs: Sequence[Any]) -> None:
        """Take in one batch: the model's inputs and its outputs, one of each per image."""

    def result(self) -> dict[str, float]:
        """The metrics of all that was processed, by all ranks; the same on every rank. Starts afresh afterwards."""


def evaluate(
    model: nn.Module,
    loader: Iterable[list[Sample]],
    evaluators: Sequence[Evaluator],
    *,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    progress: bool = True,
) -> dict[str, float]:
    """Run the model over a test loader and return every metric by name.

    Args:
        model: has `inference(samples)`; it runs in evaluation mode and each of its modules gets its own mode back.
        loader: batches of samples, this rank's share.
        autocast: opens the arithmetic of the model; evaluators work outside of it.
        progress: show a progress bar, where the error output is a terminal.

    Raises:
        ValueError: two evaluators give a metric of the same name.
    """
    names = [name for evaluator in evaluators for name in evaluator.metrics]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two evaluators give the metric {', '.join(repeated)}; name each evaluator once")
    start, images = time.perf_counter(), 0
    hide = None if progress and is_main_process() else True  # None: tqdm looks whether it writes to a terminal
    with evaluation_mode(model), torch.inference_mode():
        for samples in tqdm(loader, desc="evaluating", unit="batch", disable=hide, leave=False, dynamic_ncols=True):
            with autocast():
                outputs = model.inference(samples)  # type: ignore[operator]
            for evaluator in evaluators:
                evaluator.process(samples, outputs)
            images += len(samples)
    seconds = time.perf_counter() - start
    share = f", the share of one of {world_size()} processes," if world_size() > 1 else ""
    each = seconds / max(images, 1)
    logger.info("inference on %d images%s took %.1f s (%.3f s per image)", images, share, seconds, each)
    return {name: value for evaluator in evaluators for name, value in evaluator.result().items()}


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """The model is in evaluation mode within the context; each of its modules gets its own mode back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
