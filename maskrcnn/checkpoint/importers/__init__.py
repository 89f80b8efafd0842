"""Weights trained by other libraries, one file per family."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from maskrcnn.checkpoint.importers import torchvision
from maskrcnn.checkpoint.importers.weights import ImportFailed, Weights

__all__ = ["ImportFailed", "Weights", "recognise"]

FAMILIES = (torchvision,)


def recognise(state: Mapping[str, Tensor]) -> Weights | None:
    """The weights of a foreign state dict in our names, or None if no family knows its layout.

    Raises:
        ImportFailed: a family knows the layout, but some tensors have no place here.
    """
    for family in FAMILIES:
        if family.recognises(state):
            return family.convert(state)
    return None
