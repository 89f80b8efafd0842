"""JSON's numbers: which values are some, and lists of them as arrays."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

NUMBERS = frozenset((int, float))  # by exact type: true and false are none
LARGEST = 1e9  # pixels along a side; what is beyond is a mistake, and would overflow float32 or a rasteriser


def is_number(value: Any) -> bool:
    return type(value) in NUMBERS


def number_problem(values: list[Any]) -> str | None:
    """The kind of problem of a list that should hold finite numbers, or None."""
    if not NUMBERS.issuperset(map(type, values)):
        return "wrong-type"
    if not values:
        return None
    # A NaN that is not the first is passed over by min and max, but not by the sum.
    bounded = min(values) >= -LARGEST and max(values) <= LARGEST and not math.isnan(sum(values))
    return None if bounded else "not-finite"


def floats(values: Iterable[float]) -> np.ndarray:
    """Numbers without a problem as float64 (n,)."""
    return np.fromiter(values, np.float64)
