"""Ranges of packed values: many lists in one tensor, told apart by offsets."""

from __future__ import annotations

import torch
from torch import Tensor


def expand_ranges(starts: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """range(starts[i], starts[i] + counts[i]) for every i, concatenated.

    Args:
        starts, counts: int64 (N,).

    Returns:
        the i of each element and the element, int64 (counts.sum(),) each.
    """
    owner = torch.repeat_interleave(counts)
    before = counts.cumsum(0) - counts
    return owner, torch.arange(len(owner), device=counts.device) + (starts - before)[owner]


def check_packed(index: Tensor, **levels: tuple[Tensor, int]) -> None:
    """That owners and their elements are there; on the CPU alone, since elsewhere looking would wait for the device.

    Args:
        index: int64 (R,), owners of the last level.
        levels: by the argument's name, offsets int64 (owners + 1,) and how many elements they point into.

    Raises:
        ValueError: names the argument, its element and what was expected.
    """
    if index.device.type != "cpu":
        return
    for name, (offsets, elements) in levels.items():
        least = torch.cat([offsets.new_zeros(1), offsets])[:-1]
        for i in ((offsets < least) | (offsets > elements)).nonzero()[:1, 0].tolist():
            raise ValueError(f"{name}: element {i} is {offsets[i]}; expected {least[i]} to {elements}")
    objects = len(offsets) - 1  # of the last level
    for r in ((index < 0) | (index >= objects)).nonzero()[:1, 0].tolist():
        raise ValueError(f"index: element {r} is {index[r]}, but there are {objects} objects")
