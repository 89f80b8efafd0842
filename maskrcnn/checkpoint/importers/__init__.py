"""Weights trained by other libraries, one file per family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from maskrcnn.checkpoint.importers import caffe2, detectron2, maskrcnn_benchmark, mmdet, torchvision
from maskrcnn.checkpoint.importers.weights import ImportFailed, Weights

__all__ = ["ImportFailed", "Weights", "recognise"]

FAMILIES = (
    detectron2,
    caffe2,
    maskrcnn_benchmark,
    mmdet,
    torchvision,
)  # torchvision's body has maskrcnn-benchmark's names too


def recognise(state: Mapping[str, Tensor], content: Mapping[str, Any] | None = None) -> Weights | None:
    """The weights of a foreign state dict in our names, or None if no family knows its layout.

    Args:
        content: what else stands in the file beside the tensors: who wrote it, what of.

    Raises:
        ImportFailed: a family knows the layout, but some tensors have no place here.
    """
    for family in FAMILIES:
        if family.recognises(state):
            return family.convert(state, content or {})
    return None
