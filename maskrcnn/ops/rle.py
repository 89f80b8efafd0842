"""COCO's run-length encoding: text <-> run lengths, and bitmaps -> run lengths, for many masks in one call.

The runs of a mask alternate 0, 1, 0, ... down the columns of the image, the first may be empty. Lists of runs are
packed: those of all masks, one mask after the other, and how many each mask has.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

from maskrcnn.ops import reference
from maskrcnn.ops.extension import COMPILED, devices
from maskrcnn.ops.reference.rle import Ints as Ints

DEVICES = devices("compress_counts")


def compress_counts(counts: Ints, lengths: Ints) -> list[str]:
    """Run lengths as COCO text.

    Args:
        counts: int64, the runs of all masks, one mask after the other.
        lengths: int64 (n,), how many of the counts each mask has.
    """
    if "cpu" not in DEVICES:
        return reference.compress_counts(counts, lengths)
    packed = (torch.from_numpy(np.ascontiguousarray(a, dtype=np.int64)) for a in (counts, lengths))
    characters, sizes = torch.ops.maskrcnn.compress_counts(*packed)
    text = characters.numpy().tobytes().decode("ascii")
    return [text[start:stop] for start, stop in pairwise([0, *accumulate(sizes.tolist())])]


def decompress_counts(texts: Sequence[bytes]) -> tuple[Ints, Ints]:
    """COCO text as run lengths.

    Returns:
        the runs of all masks, one mask after the other, and how many each mask has, as `compress_counts` takes them.

    Raises:
        ValueError: a text has a character that COCO's encoding does not use, or ends within a number.
    """
    if "cpu" not in DEVICES:
        return reference.decompress_counts(texts)
    characters = np.frombuffer(bytearray(b"".join(texts)), dtype=np.uint8)
    sizes = torch.tensor([len(text) for text in texts], dtype=torch.int64)
    counts, lengths = torch.ops.maskrcnn.decompress_counts(torch.from_numpy(characters), sizes)
    return counts.numpy(), lengths.numpy()


def encode_windows(columns: Tensor, corners: Tensor, size: tuple[int, int]) -> tuple[Ints, Ints]:
    """Run lengths of masks that are each given on a part of the image.

    Args:
        columns: bool (n, w, h), a window's columns one after the other; fastest as `.mT` of bitmaps in rows.
        corners: int64 (n, 2), x and y of each window's first pixel; the windows lie within the image.
        size: (H, W) of the image.

    Returns:
        counts and lengths, as `compress_counts` takes them; the same runs as pycocotools encodes.

    Raises:
        ValueError: a window reaches beyond the image.
    """
    if columns.device.type != "cpu" or "cpu" not in DEVICES:
        return reference.encode_windows(columns, corners, size)
    counts, lengths = torch.ops.maskrcnn.encode_bitmaps(columns.mT, corners, *size)
    return counts.numpy(), lengths.numpy()


def _fake_encode(bitmaps: Tensor, corners: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    size = torch.library.get_ctx().new_dynamic_size()
    return corners.new_empty(size), corners.new_empty(bitmaps.shape[0])


def _fake_compress(counts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    size = torch.library.get_ctx().new_dynamic_size()
    return counts.new_empty(size, dtype=torch.uint8), torch.empty_like(lengths)


def _fake_decompress(text: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    size = torch.library.get_ctx().new_dynamic_size()
    return text.new_empty(size, dtype=torch.int64), torch.empty_like(lengths)


if COMPILED:  # an operator that does not exist takes no fake
    torch.library.register_fake("maskrcnn::compress_counts", _fake_compress)
    torch.library.register_fake("maskrcnn::decompress_counts", _fake_decompress)
    torch.library.register_fake("maskrcnn::encode_bitmaps", _fake_encode)
