"""What a training run is in between two iterations: weights, optimizer, random generators; saved and restored."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from maskrcnn.checkpoint import CheckpointError, ClassRows, Fit, Weights, fit
from maskrcnn.distributed import all_gather_object, rank
from maskrcnn.engine.ema import WeightAverage
from maskrcnn.modeling import Model


def agree_on_seed(seed: int) -> int:
    """The seed of a run: as given, or, if negative, drawn by the main process for all of them."""
    return all_gather_object(random.SystemRandom().randrange(2**31) if seed < 0 else seed)[0]


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # all that numpy takes
    torch.manual_seed(seed)


def seed_of_rank(seed: int, iteration: int = 0) -> int:
    """A seed of this process's own: all drawing the same random numbers would sample RoIs in the same way."""
    return int(np.random.SeedSequence([seed, rank(), iteration]).generate_state(1)[0])


def load_weights(model: Model, weights: Weights, *, strict: bool, class_names: Sequence[str] | None = None) -> Fit:
    """Put weights into a model.

    Args:
        class_names: the model's classes by label, if those of the weights may be others, or in another order.

    Raises:
        CheckpointError: they do not fit; see `checkpoint.fit`.
    """
    if strict:
        without = getattr(model, "without", ())
        tensors = {name: tensor for name, tensor in weights.tensors.items() if not name.startswith(without)}
    else:  # they may be a whole trunk's
        tensors = {model.place(name): tensor for name, tensor in weights.tensors.items()}
    weights = replace(weights, tensors=tensors)
    rows = None if class_names is None else ClassRows(model.class_rows(), class_names)
    fitted = fit(weights, model.state_dict(), strict=strict, rows=rows)
    model.load_state_dict(fitted.tensors, strict=False)
    return fitted


@dataclass(frozen=True)
class TrainingState:
    """All that the next iteration depends on besides its number: saved as tensors and plain values, and restored.

    Args:
        ema: the averaged weights, if there are any.
    """

    model: Model
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: WeightAverage | None = None

    def save(self) -> dict[str, Any]:
        """What a checkpoint holds; every process must call it, since each has random generators of its own."""
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": all_gather_object(rng_state()),
            **({} if self.ema is None else {"ema": self.ema.state_dict()}),
        }

    def restore(self, state: dict[str, Any], source: str) -> None:
        """Put a checkpoint's state back. Rates and decays stay those of the config, which may have changed on purpose.

        A process that the run did not have before gets generators of its own.

        Raises:
            CheckpointError: it is one of another model.
        """
        load_weights(self.model, Weights(tensors=state["model"], source=source), strict=True)
        options = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise CheckpointError(
                f"{source}: its optimizer trained other parameters than this config does (frozen layers?): {error}"
            ) from error
        for group, own in zip(self.optimizer.param_groups, options, strict=True):
            group.update(own)
        if state["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state.get("ema", state["model"]), updates=state["iteration"] + 1)
        if rank() < len(state["rng"]):
            set_rng_state(state["rng"][rank()])
        else:
            seed_everything(seed_of_rank(state["seed"], state["iteration"]))


def check_resumable(content: dict[str, Any], source: str) -> None:
    """Raises CheckpointError: a checkpoint without a run's state."""
    needed = {"model", "optimizer", "scaler", "rng", "iteration", "seed", "class_names", "config"}
    if absent := needed - content.keys():
        raise CheckpointError(
            f"{source} has no {', '.join(sorted(absent))}: it holds weights, but not a run that could go on. "
            "Start from it with MODEL.WEIGHTS, without --resume"
        )


def rng_state() -> dict[str, Any]:
    """The states of every generator that training may draw from, as tensors and plain values."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        # of the GPU in use alone: asking for all would start a context on each of them, in each process
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Inverse of `rng_state`; where there was no GPU then, or is none now, its generator stays as it is."""
    name, keys, *rest = state["numpy"]
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_initialized() and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def untouched_rng() -> Iterator[None]:
    """What is drawn within the context does not count: training goes on as if it had not been there."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)
