"""Checkpoint files: written whole or not at all, and read without running anything that is in them."""

from __future__ import annotations

import difflib
import json
import os
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from maskrcnn.atomic import WholeFile
from maskrcnn.checkpoint.pickles import RefusedError, read_pickle

JSON_KEYS = ("class_names", "category_ids", "needs")  # in a .safetensors file's metadata, whose values are strings
PLAIN = (bool, int, float, str, type(None))
PLACEHOLDERS = (b"<", b"version https://git-lfs")  # how what a failed download leaves begins


class CheckpointError(ValueError):
    """A weights file that cannot be used; the message names the file and what is wrong with it."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new one and nothing between."""
    with WholeFile(path) as part, part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # before the rename, or a power cut could leave the name on an empty file


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically: a crash or a full disk leaves the file that was there.

    Args:
        content: nested dicts, lists and tuples of tensors and plain values, which is what weights_only loading reads.

    Raises:
        TypeError: something else is in there, before anything is written; names its place.
        OSError: it could not be written.
    """
    _check_plain(content, "checkpoint")
    with WholeFile(path) as part, part.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch's writer says so of any failure of the file below it
            raise OSError(f"{path}: {error.__context__ or str(error).splitlines()[0]}") from error
        file.flush()
        os.fsync(file.fileno())


def _check_plain(value: Any, place: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _check_plain(key, f"a key of {place}")
            _check_plain(item, f"{place}[{key!r}]")
    elif type(value) in (list, tuple):
        for i, item in enumerate(value):
            _check_plain(item, f"{place}[{i}]")
    elif not isinstance(value, Tensor) and type(value) not in PLAIN:
        raise TypeError(f"{place} is a {type(value).__name__}; a checkpoint holds tensors and plain values only")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a .pth, .pkl or .safetensors file, tensors on the CPU. Nothing in the file is executed.

    Raises:
        CheckpointError: missing, truncated, not a weights file, or with Python objects in it.
    """
    if not path.exists():
        names = [p.name for p in path.parent.iterdir() if p.is_file()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, names)
        raise CheckpointError(f"no weights file {path}" + (f" (did you mean {' or '.join(near)}?)" if near else ""))
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; name the weights file in it, e.g. {path / 'model_final.pth'}")
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise CheckpointError(f"{path} is empty")
    if start.lstrip().startswith(PLACEHOLDERS):
        raise CheckpointError(
            f"{path} is a web page or a placeholder instead of weights ({start[:30]!r}...): the download went wrong"
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    zipped = start.startswith(b"PK\x03\x04")  # what torch.save writes, whatever its name
    if not zipped and not start.startswith(b"\x80"):  # a binary pickle
        raise CheckpointError(f"{path} is no PyTorch weights file: it begins with {start[:20]!r}")
    content = _read_plain_pickle(path) if path.suffix == ".pkl" and not zipped else _read_torch(path, zipped)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__} instead of a dict of tensors")
    return content


def _read_torch(path: Path, zipped: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's version, which the error below is about
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"the Python object {found[1]}" if found else "Python objects"
        raise CheckpointError(
            f"{path} holds {what} besides tensors and plain values. Loading it could run code from the file, so it is "
            "refused; nothing in it was run. Have its author save a plain state dict, or a .safetensors file"
            + ("" if zipped else ". If it is a pickle of arrays, as in Detectron2's zoo, its name must end in .pkl")
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is truncated, or no PyTorch weights file ({reason})") from error


def _read_plain_pickle(path: Path) -> Any:
    try:
        return read_pickle(path)
    except RefusedError as error:
        raise CheckpointError(
            f"{path} holds {error} besides arrays and plain values. Loading it could run code from the file, so it is "
            "refused; nothing in it was run"
        ) from error
    except Exception as error:  # a damaged pickle fails in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is truncated, or no pickle of arrays ({reason})") from error


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is truncated, or no safetensors file ({error})") from error
    facts = {}
    for key in JSON_KEYS:
        if key in metadata:
            try:
                facts[key] = json.loads(metadata[key])
            except json.JSONDecodeError as error:
                raise CheckpointError(f"{path}: {key} in its metadata is no JSON: {error}") from error
    return {"model": tensors, **facts} if facts else tensors
