"""Plain pickles (Detectron, Detectron2's model zoo), read without running anything that is in them."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray, numeric
from torch import Tensor

# What a pickle of arrays and plain containers names. numpy's functions here only make an array of bytes and a type.
ARRAYS = {
    (f"numpy.{core}.multiarray", name): getattr(multiarray, name)
    for core in ("core", "_core")
    for name in ("_reconstruct", "scalar")
}
for core in ("core", "_core"):  # protocol 5
    ARRAYS[f"numpy.{core}.numeric", "_frombuffer"] = getattr(numeric, "_frombuffer")  # noqa: B009 - typeshed lacks it


class RefusedError(pickle.UnpicklingError):
    """The pickle names something besides arrays and plain containers."""


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 writes bytes in protocol 2: as text in latin1."""
    if encoding not in ("latin1", "latin-1"):
        raise RefusedError(f"bytes in the encoding {encoding}")
    return text.encode("latin1")


def _dtype(*arguments: Any) -> np.dtype[Any]:
    """`np.dtype` of numbers and text; an array of objects could hold anything."""
    kind: np.dtype[Any] = np.dtype(*arguments)
    if kind.hasobject:
        raise RefusedError("an array of Python objects")
    return kind


ADMITTED: dict[tuple[str, str], Any] = {
    **ARRAYS,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
}


class ArrayUnpickler(pickle.Unpickler):
    """Admits numpy arrays, containers, text and numbers; anything else is refused by its name, before it is called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise RefusedError(f"the Python object {module}.{name}")
        return ADMITTED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise RefusedError("references to other files")


def read_pickle(path: Path) -> Any:
    """The content of a pickle, arrays as tensors. Text that Python 2 wrote is read as latin1.

    Raises:
        RefusedError: it names something besides arrays and plain containers; says what.
        Exception: it is damaged; of which kind depends on where.
    """
    with path.open("rb") as file:
        return _tensors(ArrayUnpickler(file, encoding="latin1").load())


def _tensors(value: Any) -> Any:
    """Arrays of numbers -> tensors, in dicts, lists and tuples; names that are bytes -> text."""
    if isinstance(value, dict):
        return {_text(key): _tensors(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_tensors, value))
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return _tensor(value)
    return value


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))  # its own, writable


def _text(key: Any) -> Any:
    return key.decode("latin1") if isinstance(key, bytes) else key
