"""What an importer returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


class ImportFailed(ValueError):
    """A layout was recognised, but not all of it; the message says what is left over or missing."""


@dataclass(frozen=True)
class Weights:
    """Weights in our names, and what they need to answer as in the library that trained them.

    Args:
        tensors: by our parameter names; a backbone alone is fine.
        class_names, category_ids: of the K foreground classes, by label; None when the file does not say.
        needs: config keys and values with which these weights give their own library's answers.
        source: the file, or the layout, for messages.
        presumed: those of the needs that the file does not tell, so that a config which gives them is right.
    """

    tensors: Mapping[str, Tensor]
    source: str
    class_names: tuple[str, ...] | None = None
    category_ids: tuple[int, ...] | None = None
    needs: Mapping[str, Any] = field(default_factory=dict)
    presumed: frozenset[str] = frozenset()


class Renamed(dict[str, Tensor]):
    """Tensors in our names. To ask for one that is not there is an ImportFailed, which names it."""

    def __missing__(self, name: str) -> Tensor:
        raise ImportFailed(f"the file is not complete: {name} is missing (in our names)")
