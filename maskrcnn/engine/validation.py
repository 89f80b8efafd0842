"""The losses of training, on data that are not trained on."""

from __future__ import annotations

import logging
import math
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from tqdm import tqdm

from maskrcnn.distributed import all_gather_object, is_main_process
from maskrcnn.engine.state import seed_everything, untouched_rng
from maskrcnn.evaluation import evaluation_mode
from maskrcnn.modeling import Model
from maskrcnn.structures import Sample

logger = logging.getLogger(__name__)

PREFIX = "val/"
TOTAL_LOSS = f"{PREFIX}total_loss"  # the one name that is known before any loss is


def validation_losses(
    model: Model,
    loader: Iterable[list[Sample]],
    *,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    progress: bool = True,
) -> dict[str, float]:
    """The means over all images, of all ranks: `val/total_loss`, then what the model calls its losses (`val/loss_cls`).

    Images go through the model one by one, and what it draws (samplers do) depends on the image's id alone: batches,
    order and number of processes do not change the result. The model is in evaluation mode, so that no statistics move;
    each of its modules gets its own mode back, and the random generators their states. A loss that is not finite makes
    its mean so, and without images the total is NaN.

    Args:
        loader: batches of samples with targets, this rank's share.
        autocast: opens the arithmetic of the model.
        progress: show a progress bar, where the error output is a terminal.
    """
    start = time.perf_counter()
    found: dict[str, list[float]] = defaultdict(list, total_loss=[])  # of each image: part sums would be rounded
    hide = None if progress and is_main_process() else True  # None: tqdm looks whether it writes to a terminal
    with evaluation_mode(model), untouched_rng(), torch.no_grad():
        for samples in tqdm(loader, desc="losses", unit="batch", disable=hide, leave=False, dynamic_ncols=True):
            for sample in samples:
                seed_everything(zlib.crc32(repr(sample.image_id).encode()))
                with autocast():
                    losses = model.losses([sample])
                values = torch.stack([value.float() for value in losses.values()]).tolist()
                for name, value in zip(losses, values, strict=True):
                    found[name].append(value)
                found["total_loss"].append(sum(found[name][-1] for name in losses if name.startswith("loss_")))
    logger.info("losses of %d images took %.1f s", len(found["total_loss"]), time.perf_counter() - start)
    shares = all_gather_object(dict(found))
    images = sum(len(share["total_loss"]) for share in shares) or math.nan
    names = dict.fromkeys(name for share in shares for name in share)
    return {PREFIX + name: _sum([v for share in shares for v in share.get(name, ())]) / images for name in names}


def _sum(values: Sequence[float]) -> float:
    """Rounded once, so that their order does not matter."""
    return math.fsum(values) if all(map(math.isfinite, values)) else sum(values)
