"""COCO's run-length encoded masks: what an annotation file or pycocotools gives, and their run lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from maskrcnn.ops.rle import Ints, compress_counts, decompress_counts


class RLE(TypedDict):
    """size [height, width]; counts: COCO's compressed text (as pycocotools: bytes), or a list of run lengths."""

    size: list[int]
    counts: str | bytes | list[int]


def decode_counts(rles: Sequence[RLE]) -> tuple[Ints, Ints]:
    """Run lengths of masks of one frame.

    Returns:
        counts int64, 0, 1, 0, ... down the columns, the runs of all masks one mask after the other; lengths int64 (G,),
        how many of the counts each mask has.

    Raises:
        ValueError: the masks have different sizes, a text is not COCO's encoding, or the runs of a mask are negative or
            do not add up to its frame.
    """
    if not rles:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    if any(list(rle["size"]) != list(rles[0]["size"]) for rle in rles):
        raise ValueError(f"masks of one image have different sizes: {sorted({tuple(rle['size']) for rle in rles})}")
    counts, lengths = decompress_counts([_text(rle["counts"]) for rle in rles])
    height, width = rles[0]["size"]
    owner = np.repeat(np.arange(len(rles)), lengths)
    totals = np.zeros(len(rles), dtype=np.int64)
    np.add.at(totals, owner, counts)
    if (wrong := np.flatnonzero(totals != height * width)).size:
        i = int(wrong[0])
        raise ValueError(
            f"mask {i}: runs add up to {totals[i]} pixels, but its size {height}x{width} has {height * width}"
        )
    if (wrong := np.flatnonzero(counts < 0)).size:
        raise ValueError(f"mask {owner[wrong[0]]}: run of negative length {counts[wrong[0]]}")
    return counts, lengths


def decode_cut(rle: RLE) -> tuple[npt.NDArray[np.bool_], tuple[int, int]]:
    """A mask as a bitmap no larger than its object: bool (h, w), and x and y of its first pixel in the frame.

    Raises:
        ValueError: as `decode_counts`.
    """
    counts, _ = decode_counts([rle])
    height = rle["size"][0]
    stops = counts.cumsum()
    ones = np.flatnonzero(counts[1::2]) * 2 + 1
    if not len(ones):
        return np.zeros((0, 0), dtype=np.bool_), (0, 0)
    first, last = int(stops[ones[0] - 1]) // height, int(stops[ones[-1]] - 1) // height + 1  # columns
    lengths = np.diff(stops.clip(first * height, last * height), prepend=first * height)
    columns = np.repeat(np.arange(len(counts)) % 2 == 1, lengths).reshape(-1, height)
    rows = np.flatnonzero(columns.any(axis=0))
    return columns[:, rows[0] : rows[-1] + 1].T, (first, int(rows[0]))


def _text(counts: str | bytes | list[int]) -> bytes:
    if isinstance(counts, bytes):
        return counts
    if isinstance(counts, str):
        return counts.encode("ascii", "replace")
    return compress_counts(np.asarray(counts, dtype=np.int64), np.array([len(counts)]))[0].encode()
