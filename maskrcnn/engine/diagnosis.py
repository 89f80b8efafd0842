"""Where the first NaN or infinity of a batch comes from: its data, the weights, or a part of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn.engine.state import untouched_rng
from maskrcnn.evaluation import evaluation_mode
from maskrcnn.modeling import Model


@torch.no_grad()
def first_non_finite(
    model: Model, batch: Sequence[Any], autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> tuple[str, str]:
    """The first tensor that is not finite, and the cause if that says it: data, then weights, then a forward pass.

    The pass is repeated with other random numbers, and does not change the model: norms use, but do not update, their
    running statistics.

    Returns:
        In words, each "" if there is none.
    """
    for sample in batch:
        if found := next(_bad({"image": sample.image, "boxes": getattr(sample.targets, "boxes", None)}), None):
            return f"{found} of image {sample.image_id}", "The data are at fault: mend or leave out this image."
    if found := next(_bad(model.state_dict()), None):
        return f"{found} in the weights", "They were so when training began: look at MODEL.WEIGHTS."
    outputs: list[str] = []
    hooks = [
        part.register_forward_hook(_recorder(name or "the model", outputs)) for name, part in model.named_modules()
    ]
    try:
        with evaluation_mode(model), untouched_rng(), autocast():
            outputs += [f"{name}, computed from finite outputs" for name in _bad(model.losses(list(batch)))]
    finally:
        for hook in hooks:
            hook.remove()
    return next(iter(outputs), ""), ""


def _recorder(name: str, outputs: list[str]) -> Callable[..., None]:
    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        if any(not torch.isfinite(tensor).all() for tensor in _tensors(output)):
            outputs.append(f"the output of {name} ({type(module).__name__})")

    return record


def _bad(tensors: Mapping[str, Tensor | None]) -> Iterator[str]:
    for name, tensor in tensors.items():
        if tensor is not None and tensor.is_floating_point() and not torch.isfinite(tensor).all():
            yield name


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)
