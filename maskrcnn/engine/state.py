"""What a training run is in between two iterations: weights, optimizer, random generators; saved and restored."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from maskrcnn.checkpoint import CheckpointError, ClassRows, Fit, Weights, fit
from maskrcnn.modeling import Model


def seed_everything(seed: int) -> int:
    """Seed Python's, numpy's and torch's generators; a negative seed draws one. The seed that was used."""
    if seed < 0:
        seed = random.SystemRandom().randrange(2**31)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # all that numpy takes
    torch.manual_seed(seed)
    return seed


def load_weights(model: Model, weights: Weights, *, strict: bool, class_names: Sequence[str] | None = None) -> Fit:
    """Put weights into a model.

    Args:
        class_names: the model's classes by label, if those of the weights may be others, or in another order.

    Raises:
        CheckpointError: they do not fit; see `checkpoint.fit`.
    """
    rows = None if class_names is None else ClassRows(model.class_rows(), class_names)
    fitted = fit(weights, model.state_dict(), strict=strict, rows=rows)
    model.load_state_dict(fitted.tensors, strict=False)
    return fitted


def training_state(model: Model, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> dict[str, Any]:
    """All that the next iteration depends on besides its number, as tensors and plain values."""
    return {
        "model": dict(model.state_dict()),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "rng": rng_state(),
    }


def check_resumable(content: dict[str, Any], source: str) -> None:
    """Raises CheckpointError: a checkpoint without a run's state."""
    needed = {"model", "optimizer", "scaler", "rng", "iteration", "seed", "class_names", "config"}
    if absent := needed - content.keys():
        raise CheckpointError(
            f"{source} has no {', '.join(sorted(absent))}: it holds weights, but not a run that could go on. "
            "Start from it with MODEL.WEIGHTS, without --resume"
        )


def restore(
    state: dict[str, Any],
    source: str,
    model: Model,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    """Put a checkpoint's state back. Rates and decays stay those of the config, which may have changed on purpose.

    Raises:
        CheckpointError: it is one of another model.
    """
    load_weights(model, Weights(tensors=state["model"], source=source), strict=True)
    options = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state["optimizer"])
    except ValueError as error:
        raise CheckpointError(
            f"{source}: its optimizer trained other parameters than this config does (frozen layers?): {error}"
        ) from error
    for group, own in zip(optimizer.param_groups, options, strict=True):
        group.update(own)
    if state["scaler"] and scaler.is_enabled():
        scaler.load_state_dict(state["scaler"])
    set_rng_state(state["rng"])


def rng_state() -> dict[str, Any]:
    """The states of every generator that training may draw from, as tensors and plain values."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Inverse of `rng_state`; on a machine with another number of GPUs theirs stay as they are."""
    name, keys, *rest = state["numpy"]
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def untouched_rng() -> Iterator[None]:
    """What is drawn within the context does not count: training goes on as if it had not been there."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)
