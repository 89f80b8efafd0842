"""Small soft masks of boxes to bitmaps of the image, or to run lengths, in plain PyTorch within a memory budget."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from maskrcnn.ops.reference.rle import Ints, encode_windows

MEMORY_BUDGET = 256 * 2**20  # bytes of the bitmaps that exist at one time, besides the result
BYTES_PER_PIXEL = 16  # two floats on the way, bools, and the indices that write them


def paste_masks(
    masks: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    *,
    threshold: float = 0.5,
    memory_budget: int = MEMORY_BUDGET,
) -> Tensor:
    """Bitmaps of an image from the masks that fill their boxes; arguments and result as in `ops.paste_masks`.

    memory_budget: bytes; masks are worked through in groups that stay within it.
    """
    pasted = torch.zeros(len(masks), *size, dtype=torch.bool, device=masks.device)
    height, width = size
    transposed = masks.mT, boxes[:, [1, 0, 3, 2]], (width, height)  # for windows with their rows first
    for rows, corners, window in _windows(*transposed, memory_budget, whole_lines=True):
        # Whole rows of the image are copied as such; a part of each would be written pixel by pixel.
        y = rows[:, None] * height + corners[:, :1] + torch.arange(window.shape[1], device=masks.device)
        pasted.view(-1, width)[y.flatten()] = (window >= threshold).flatten(0, 1)
    return pasted


def paste_runs(
    masks: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    *,
    threshold: float = 0.5,
    memory_budget: int = MEMORY_BUDGET,
) -> tuple[Ints, Ints]:
    """`paste_masks` as run lengths of all masks, and how many each mask has, without the whole bitmaps."""
    runs = [np.array([size[0] * size[1]])] * len(masks)
    for rows, corners, columns in _windows(masks, boxes, size, memory_budget):
        counts, lengths = encode_windows(columns >= threshold, corners, size)
        for row, mask in zip(rows.tolist(), np.split(counts, lengths.cumsum()[:-1]), strict=True):
            runs[row] = mask
    none = np.zeros(0, dtype=np.int64)
    return np.concatenate([none, *runs]), np.array([len(mask) for mask in runs], dtype=np.int64)


def hat_weights(start: Tensor, end: Tensor, first: Tensor, num_pixels: int, num_cells: int) -> Tensor:
    """How much each of the cells between start and end counts at each pixel centre, along one axis.

    Args:
        start, end: float (D,), the box's sides in pixels.
        first: int64 (D,), the first of the `num_pixels` pixels.

    Returns:
        (D, num_pixels, num_cells) like `start`: 1 at the cell's centre, falling to 0 at its neighbours' centres.
    """
    centres = torch.arange(num_pixels, dtype=start.dtype, device=start.device) + 0.5
    u = (centres + (first - start)[:, None]) * (num_cells / (end - start))[:, None] - 0.5
    cells = torch.arange(num_cells, dtype=start.dtype, device=start.device)
    return (1 - (u[:, :, None] - cells).abs()).clamp(min=0)


def _windows(
    masks: Tensor, boxes: Tensor, size: tuple[int, int], memory_budget: int, *, whole_lines: bool = False
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The probabilities around each box, in groups of masks that need windows of about one size.

    Most boxes are small beside the image. Widths and heights are rounded up to powers of two to have few groups.

    Args:
        whole_lines: windows as high as the image.

    Yields:
        rows int64 (n,); corners int64 (n, 2), x and y of the first pixel of their windows, which lie within the image;
        probabilities (n, w, h), columns first. Outside the windows they are zero.
    """
    frame = torch.tensor([size[1], size[0]], device=boxes.device)
    corner, extent = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    reach = extent / masks.shape[-1] / 2 + 1  # the outer cells fade to zero beyond the box; one pixel for rounding
    first = (corner - reach).floor().clamp(min=0).minimum(frame)
    last = (boxes[:, 2:] + reach).ceil().clamp(min=0).minimum(frame)
    valid = (extent > 0) & extent.isfinite() & (last > first) & boxes.isfinite().view(-1, 2, 2).all(dim=1)
    rows = valid.all(dim=1).nonzero()[:, 0]
    windows = torch.exp2((last - first)[rows].log2().ceil()).long().minimum(frame)
    if whole_lines:
        windows[:, 1] = size[0]
    kinds, kind = torch.unique(windows, dim=0, return_inverse=True)
    for i, (width, height) in enumerate(kinds.tolist()):
        for group in torch.split(rows[kind == i], max(1, memory_budget // (BYTES_PER_PIXEL * width * height))):
            corners = first[group].long().minimum(frame - kinds[i])
            x1, y1, x2, y2 = boxes[group].unbind(1)
            across = hat_weights(x1, x2, corners[:, 0], width, masks.shape[-1])
            down = hat_weights(y1, y2, corners[:, 1], height, masks.shape[-1])
            yield group, corners, across @ masks[group].to(across.dtype).mT @ down.mT
