"""Walking through nested mappings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(
    tree: Mapping[str, Any], prefix: str = "", *, section: type[Mapping[str, Any]] = Mapping
) -> Iterator[tuple[str, Any]]:
    """Full keys and values: `SOLVER.BASE_LR`, 0.02. A section without anything in it is a value.

    Args:
        section: the type of what is gone into.
    """
    for key, value in tree.items():
        if isinstance(value, section) and value:
            yield from leaves(value, f"{prefix}{key}.", section=section)
        else:
            yield f"{prefix}{key}", value
