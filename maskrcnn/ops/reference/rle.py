"""COCO's run-length encoding in plain NumPy: text <-> run lengths, and bitmaps -> run lengths.

COCO's text writes each run, from the fourth on as the difference to the one two before it, in groups of 5 bits, low
ones first: a character is 48 + group, + 32 if more groups of the same number follow; the number's sign is bit 16 of its
last group.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Ints: TypeAlias = npt.NDArray[np.int64]


def compress_counts(counts: Ints, lengths: Ints) -> list[str]:
    """Run lengths as COCO text; arguments and result as in `ops.rle.compress_counts`."""
    place = _places(lengths)
    values = counts.copy()
    late = np.flatnonzero(place > 2)
    values[late] -= counts[late - 2]
    groups, present = [], [np.ones(len(values), dtype=bool)]
    while present[-1].any():
        group = values & 31
        values >>= 5
        more = present[-1] & (values != np.where(group & 16, -1, 0))
        groups.append(48 + group + 32 * more)
        present.append(more)
    written = np.stack(present[:-1] or [present[0]], axis=1)
    text = np.stack(groups or [values], axis=1)[written].astype(np.uint8).tobytes().decode("ascii")
    num_characters = np.concatenate([[0], written.sum(axis=1).cumsum()])
    stops = num_characters[lengths.cumsum()].tolist()
    return [text[start:stop] for start, stop in pairwise([0, *stops])]


def decompress_counts(texts: Sequence[bytes]) -> tuple[Ints, Ints]:
    """COCO text as run lengths; arguments, result and errors as in `ops.rle.decompress_counts`."""
    codes = np.frombuffer(b"".join(texts), dtype=np.uint8).astype(np.int64) - 48
    text_stops = np.cumsum([len(text) for text in texts], dtype=np.int64)
    ends_number = codes & 32 == 0
    wrong = (codes < 0) | (codes > 63)
    wrong[text_stops[text_stops > 0] - 1] |= ~ends_number[text_stops[text_stops > 0] - 1]
    if wrong.any():
        i = int(np.searchsorted(text_stops, np.flatnonzero(wrong)[0], side="right"))
        raise ValueError(f"mask {i}: {texts[i][:40]!r}... is not COCO's compressed RLE, or not all of it")
    stops = np.flatnonzero(ends_number) + 1
    starts = np.concatenate([[0], stops[:-1]]).astype(np.int64)[: len(stops)]
    place = _places(stops - starts)
    values = np.add.reduceat((codes & 31) << 5 * place, starts) if len(starts) else codes
    values -= np.where(codes[stops - 1] & 16, 1 << 5 * (stops - starts), 0)
    lengths = np.diff(np.searchsorted(stops, text_stops, side="right"), prepend=0)

    # Undo the differences: sums of every second number, less what came before the first one of the mask's chain.
    sums = np.zeros(len(values) + 2, dtype=np.int64)
    for parity in (0, 1):
        sums[2 + parity :: 2] = values[parity::2].cumsum()
    place = _places(lengths)
    here = np.arange(len(values))
    chain_start = here - np.where(place > 2, (place - 1) // 2 * 2, 0)
    return sums[here + 2] - sums[chain_start], lengths


def encode_windows(columns: Tensor, corners: Tensor, size: tuple[int, int]) -> tuple[Ints, Ints]:
    """Run lengths of masks given on a part of the image; arguments and result as in `ops.rle.encode_windows`."""
    _check_windows(columns, corners, size)
    height, width = size
    padded = F.pad(columns, (1, 1))
    mask, column, row = (padded[..., 1:] != padded[..., :-1]).nonzero(as_tuple=True)
    change = ((corners[mask, 0] + column) * height + corners[mask, 1] + row).cpu().numpy()
    owner = mask.cpu().numpy()

    # A run that goes on at the top of the next column ends and begins at one place; one at the very end just ends.
    keep = change < height * width
    goes_on = (change[1:] == change[:-1]) & (owner[1:] == owner[:-1])
    keep[1:] &= ~goes_on
    keep[:-1] &= ~goes_on
    change, owner = change[keep], owner[keep]

    lengths = np.bincount(owner, minlength=len(columns)) + 1
    stops = (lengths + 1).cumsum()  # each mask's places: 0, its changes, height * width
    places = np.zeros(int((lengths + 1).sum()), dtype=np.int64)
    places[stops - 1] = height * width
    places[np.arange(len(owner)) + 2 * owner + 1] = change
    counts = np.diff(places) if len(places) else places
    return np.delete(counts, stops[:-1] - 1), lengths


def _check_windows(columns: Tensor, corners: Tensor, size: tuple[int, int]) -> None:
    if columns.device.type != "cpu":
        return  # looking would wait for the device
    room = torch.tensor([size[1] - columns.shape[1], size[0] - columns.shape[2]])
    for i in ((corners < 0) | (corners > room)).any(dim=1).nonzero()[:1, 0].tolist():
        raise ValueError(f"corners: row {i} is {tuple(corners[i].tolist())}; windows must lie within the frame {size}")


def _places(lengths: Ints) -> Ints:
    """0, 1, ... within each of the consecutive groups of these lengths."""
    return np.arange(int(lengths.sum())) - np.repeat(lengths.cumsum() - lengths, lengths)
