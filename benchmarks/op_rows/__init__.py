"""What `benchmarks/ops.py` times: one file per group of operators, each with `rows()`.

A file whose rows also make sense on a GPU says so by a parameter: `rows(device: str = "cpu")`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        name: operator, sizes, dtype, layout.
        ours, peer: do the same work once; the peer is torchvision or pycocotools, or None where no peer has it.
        target: how many times as fast as the peer we mean to be; None where the row only informs.
        bytes_moved: what any implementation must read and write once, for the share of the memory's bandwidth.
    """

    name: str
    ours: Callable[[], object]
    peer: Callable[[], object] | None
    target: float | None
    bytes_moved: int | None = None
