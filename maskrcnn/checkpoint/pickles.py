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


class _ArrayType:
    """Stands for `np.ndarray`, which a pickle names but must not call: given a buffer, it takes bytes for objects."""


def _empty_array(kind: Any, shape: Any, code: Any) -> np.ndarray[Any, Any]:
    """An array to be filled in, as `multiarray._reconstruct(np.ndarray, (0,), b"b")` makes it; nothing else."""
    if not isinstance(kind, _ArrayType):
        raise RefusedError(f"an array of the type {kind!r}")
    return np.ndarray((0,), np.int8)


ARRAY_TYPE = _ArrayType()
CORES = ("core", "_core")  # of numpy 1 and 2
ADMITTED: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _empty_array for core in CORES},
    **{(f"numpy.{core}.multiarray", "scalar"): multiarray.scalar for core in CORES},
    # protocol 5; it makes no array of objects
    **{(f"numpy.{core}.numeric", "_frombuffer"): getattr(numeric, "_frombuffer") for core in CORES},  # noqa: B009
    ("numpy", "ndarray"): ARRAY_TYPE,
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
