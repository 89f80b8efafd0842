"""From other libraries' names and orders to ours: what every importer does with its own table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from maskrcnn.checkpoint.importers.weights import ImportFailed

LISTED = 8  # names in a message
Table = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]


def rename(state: Mapping[str, Tensor], table: Table, prefix: str, layout: str) -> dict[str, Tensor]:
    """`state` by our names; BatchNorm's counters are dropped.

    Args:
        table: (pattern of a whole name, its replacement: a template with groups, or a function of the match).
        prefix: stands before each new name.
        layout: what this looks like, and what is known of it; for the message.

    Raises:
        ImportFailed: a tensor that no pattern matches; lists them.
    """
    renamed, left = {}, []
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        for pattern, replacement in table:
            if match := re.fullmatch(pattern, name):
                renamed[prefix + (replacement(match) if callable(replacement) else match.expand(replacement))] = tensor
                break
        else:
            left.append(name)
    if left:
        some = ", ".join(left[:LISTED]) + (", ..." if len(left) > LISTED else "")
        raise ImportFailed(f"{len(left)} tensors have no place here: {some}. This looks like {layout}")
    return renamed


def head_conv(head: str, index: int, kind: str) -> str:
    """Our name of a head's convolution: the first one has one module for each level that is pooled."""
    return f"roi_heads.{head}.convs.{'0.blocks.0.0' if index == 0 else index}.{kind}"


def background_last(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """From class 0 as the background (in our names) to the background last among the logits, without boxes and masks.

    Raises:
        ImportFailed: there is no box predictor.
    """
    for kind in ("weight", "bias"):
        logits, deltas = f"roi_heads.box_head.logits.{kind}", f"roi_heads.box_head.deltas.{kind}"
        masks = f"roi_heads.mask_head.predictor.{kind}"
        if logits not in tensors or deltas not in tensors:
            raise ImportFailed(f"this looks like a detector, but it has no box predictor ({kind})")
        tensors[logits] = tensors[logits].roll(-1, dims=0)
        tensors[deltas] = tensors[deltas][4:]
        if masks in tensors:
            tensors[masks] = tensors[masks][1:]
    return tensors
