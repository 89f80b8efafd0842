"""Equality bit for bit."""

from typing import Any

import torch


def identical(a: Any, b: Any) -> bool:
    """Bit for bit, through nested containers."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(identical, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
