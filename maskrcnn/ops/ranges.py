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
