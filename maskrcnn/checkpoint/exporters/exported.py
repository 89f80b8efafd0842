"""What an exporter returns, how it is written, and what all of them do with their tables of names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from maskrcnn.checkpoint.files import CheckpointError, save_checkpoint, write_atomically
from maskrcnn.checkpoint.importers.names import LISTED, Table, new_name
from maskrcnn.checkpoint.weights import COUNTERS


class ExportFailed(CheckpointError):
    """A model that the target cannot express; the message names the part."""


@dataclass(frozen=True)
class Exported:
    """A file's content, and what its reader has to be told besides.

    Args:
        content: tensors and plain values; for safetensors the tensors.
        suffix: which the file must have.
        metadata: of a safetensors file.
        settings: the other library's options with which these weights answer as here.
        notes: what no option says.
    """

    content: Mapping[str, Any]
    suffix: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def write(path: Path, exported: Exported) -> None:
    """Write the file atomically.

    Raises:
        ExportFailed: another suffix is wanted.
        OSError: it could not be written.
    """
    if path.suffix != exported.suffix:
        raise ExportFailed(f"{path}: the name of this file must end in {exported.suffix}")
    if exported.suffix != ".safetensors":
        save_checkpoint(path, dict(exported.content))
        return
    # By our own writer, whose errors name the file and are those of the system.
    write_atomically(path, safetensors.torch.save(dict(exported.content), dict(exported.metadata)))


def refuse(target: str, problems: Mapping[str, bool]) -> None:
    """Say all that a target has no place for.

    Args:
        problems: what it is, and whether it is there.

    Raises:
        ExportFailed: something is there.
    """
    if found := [what for what, there in problems.items() if there]:
        raise ExportFailed(f"{target}'s layout has no place for {'; '.join(found)}")


def rename(tensors: Mapping[str, Tensor], table: Table, target: str) -> dict[str, Tensor]:
    """Tensors by the target's names, on the CPU and contiguous; BatchNorm's counters are dropped.

    Args:
        table: (pattern of a whole name of ours, its replacement: a template with groups, or a function of the match).

    Raises:
        ExportFailed: a tensor that no pattern matches.
    """
    renamed, left = {}, []
    for name, tensor in tensors.items():
        if name.endswith(COUNTERS):
            continue
        new = new_name(name, table)
        if new is None:
            left.append(name)
        else:
            renamed[new] = plain(tensor)
    some = ", ".join(left[:LISTED]) + (", ..." if len(left) > LISTED else "")
    refuse(target, {f"{len(left)} tensors: {some}": bool(left)})
    return renamed


def plain(tensor: Tensor) -> Tensor:
    """As files of other libraries have them: on the CPU, in the usual order of memory, and with memory of their own."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def as_json(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: json.dumps(value) for key, value in values.items()}
