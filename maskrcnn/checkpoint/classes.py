"""Weights of other classes: a class's rows go to the class of the same name, the others' stay out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maskrcnn.checkpoint.importers import Weights


@dataclass(frozen=True)
class ClassRows:
    """Which tensors of a model have rows of classes, and what its classes are called.

    Args:
        per_class: full name of the tensor -> rows of one class. Rows stand class after class; what is left at the end
            are the background's.
        names: the model's classes, by label.
    """

    per_class: Mapping[str, int]
    names: Sequence[str]


@dataclass(frozen=True)
class Taken:
    """Weights whose rows of classes are now the model's, and what became of the classes.

    Args:
        weights: tensors of classes have the model's shape, with fresh rows where nothing is known; a tensor of which no
            row is known is left out.
        shared: classes whose rows were taken over.
        fresh: classes whose rows keep the model's fresh values.
        tensors: those with rows of classes, by name.
    """

    weights: Weights
    shared: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()


def take_classes(weights: Weights, state: Mapping[str, Tensor], rows: ClassRows) -> Taken:
    """Arrange weights by a model's classes. Weights of the same classes, and tensors that no class rows fit, stay.

    Where the weights do not say their classes, equally many are taken for the same; of another number, none is known.

    Args:
        state: the model's `state_dict()`.
    """
    theirs, ours = weights.class_names, tuple(rows.names)
    if theirs == ours:
        return Taken(weights)
    position = _positions(theirs or ())
    shared = tuple(name for name in ours if name in position)
    fresh = tuple(name for name in ours if name not in position)
    to = [label for label, name in enumerate(ours) if name in position]
    origin = [position[name] for name in shared]
    tensors, arranged = dict(weights.tensors), []
    for name, per_class in rows.per_class.items():
        if name not in tensors or name not in state:
            continue
        old, own = tensors[name], state[name]
        background = len(own) - per_class * len(ours)
        count = (len(old) - background) // per_class
        if old.shape[1:] != own.shape[1:] or len(old) != per_class * count + background:
            continue  # of another architecture, not only of other classes
        if theirs is None and count == len(ours) or theirs is not None and count != len(theirs):
            continue
        arranged.append(name)
        if not shared:
            del tensors[name]
            continue
        new = own.detach().to(old.device, old.dtype, copy=True)
        new[_rows_of(to, per_class)] = old[_rows_of(origin, per_class)]
        new[per_class * len(ours) :] = old[per_class * count :]
        tensors[name] = new
    if not arranged:
        return Taken(weights)
    return Taken(replace(weights, tensors=tensors), shared, fresh, tuple(arranged))


def _positions(names: Sequence[str]) -> dict[str, int]:
    """Name -> label; names that several labels have (torchvision's "N/A") are nobody's."""
    counts = Counter(names)
    return {name: label for label, name in enumerate(names) if counts[name] == 1}


def _rows_of(labels: Sequence[int], per_class: int) -> Tensor:
    return (torch.tensor(labels)[:, None] * per_class + torch.arange(per_class)).flatten()
