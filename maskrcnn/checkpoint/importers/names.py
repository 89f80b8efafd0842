"""From other libraries' names and orders to ours: what every importer does with its own table."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from maskrcnn.checkpoint.importers.weights import ImportFailed, Renamed

LISTED = 8  # names in a message
Table = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]


def new_name(name: str, table: Table) -> str | None:
    """What the first pattern that matches the whole name makes of it; None if there is none."""
    for pattern, replacement in table:
        if match := re.fullmatch(pattern, name):
            return replacement(match) if callable(replacement) else match.expand(replacement)
    return None


def rename(state: Mapping[str, Tensor], table: Table, prefix: str, layout: str) -> Renamed:
    """`state` by our names; BatchNorm's counters are dropped.

    Args:
        table: (pattern of a whole name, its replacement: a template with groups, or a function of the match).
        prefix: stands before each new name.
        layout: what this looks like, and what is known of it; for the message.

    Raises:
        ImportFailed: a tensor that no pattern matches; lists them, and the parts that were recognised.
    """
    renamed, left = Renamed(), []
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        new = new_name(name, table)
        if new is None:
            left.append(name)
        else:
            renamed[prefix + new] = tensor
    if left:
        some = ", ".join(left[:LISTED]) + (", ..." if len(left) > LISTED else "")
        counts = Counter(".".join(name.split(".")[: 2 if name.startswith("roi_heads.") else 1]) for name in renamed)
        parts = ", ".join(f"{part} ({count} tensors)" for part, count in counts.items()) or "nothing else"
        raise ImportFailed(
            f"{len(left)} tensors have no place here: {some}. Recognised were {parts}. This looks like {layout}"
        )
    return renamed


def refuse(state: Mapping[str, Tensor], systems: Sequence[tuple[str, str]], layout: str) -> None:
    """Say which system's tensors these are, if there is none like it here.

    Args:
        systems: (pattern of a whole name, which part of which system has it).

    Raises:
        ImportFailed: a name matches.
    """
    for pattern, part in systems:
        if names := [name for name in state if re.fullmatch(pattern, name)]:
            raise ImportFailed(f"{part} ({names[0]}, ...) has no place here. This looks like {layout}")


def head_conv(head: str, index: int, kind: str) -> str:
    """Our name of a head's convolution: the first one has one module for each level that is pooled."""
    return f"roi_heads.{head}.convs.{'0.blocks.0.0' if index == 0 else index}.{kind}"


def background_last(tensors: Renamed) -> Renamed:
    """From class 0 as the background (in our names) to the background last among the logits, without boxes and masks.

    Raises:
        ImportFailed: there is no whole box predictor.
    """
    for kind in ("weight", "bias"):
        logits, deltas = f"roi_heads.box_head.logits.{kind}", f"roi_heads.box_head.deltas.{kind}"
        masks = f"roi_heads.mask_head.predictor.{kind}"
        tensors[logits] = tensors[logits].roll(-1, dims=0)
        tensors[deltas] = tensors[deltas][4:]
        if masks in tensors and len(tensors[masks]) > 1:  # one mask is for all classes
            tensors[masks] = tensors[masks][1:]
    return tensors
