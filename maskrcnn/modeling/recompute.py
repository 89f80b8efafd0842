"""Gradient checkpointing (Chen et al., 2016): the backward pass computes activations again, so that none is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint


def recompute_in_backward(block: nn.Module) -> None:
    """Have a block keep only its inputs when it trains, and run a second time in the backward pass; in place.

    Gradients are the same bits. Randomness and autocast are those of the first time, and batch norms' running
    statistics move in the first one alone. Names and weights stay, and nothing changes without gradients.
    """
    block.forward = MethodType(_forward, block)


def _forward(block: nn.Module, *args: Any) -> Any:
    forward = partial(type(block).forward, block)
    if not (block.training and torch.is_grad_enabled()):
        return forward(*args)
    if torch.compiler.is_compiling():  # a compiled backward pass repeats no change of a buffer
        return checkpoint(forward, *args, use_reentrant=False)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=partial(_first_and_second_time, block))


def _first_and_second_time(block: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), on_copies_of_statistics(block)


@contextmanager
def on_copies_of_statistics(block: nn.Module) -> Iterator[None]:
    """Within the context the norms' running statistics are copies, whose changes are lost."""
    norms = [module for module in block.modules() if isinstance(module, _NormBase)]
    kept = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers(recurse=False)]
    for norm, name, buffer in kept:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in kept:
            setattr(norm, name, buffer)
