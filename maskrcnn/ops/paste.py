"""Small soft masks of boxes -> bitmaps of the image, or straight to COCO RLE (Mask R-CNN §3.1, Inference)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskrcnn.ops import reference
from maskrcnn.ops.extension import COMPILED, devices
from maskrcnn.ops.rle import Ints, compress_counts

DEVICES = devices("paste_masks")


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int], *, threshold: float = 0.5) -> Tensor:
    """Bitmaps of an image from the masks that fill their boxes.

    A pixel asks the mask at its own centre: bilinear between the centres of the mask's cells, zero beyond them, which
    is `F.grid_sample(align_corners=False, padding_mode="zeros")`. No gradient: a bitmap has none.

    Args:
        masks: probabilities (D, m, m); float32, float64, or a half type, which is worked out in float32.
        boxes: float32 or float64 (D, 4), XYXY in the frame of the image.
        size: (H, W) of the image.
        threshold: pixels of at least this probability, above 0, are in.

    Returns:
        bool (D, H, W); all False for a box that has no area or is not finite.

    Raises:
        ValueError: shape, dtype, device, a negative size, a threshold that is not above 0.
    """
    masks, boxes = _checked(masks, boxes, size, threshold)
    if masks.device.type not in DEVICES:
        return reference.paste_masks(masks, boxes, size, threshold=threshold)
    pasted: Tensor = torch.ops.maskrcnn.paste_masks(masks, boxes, *size, threshold)
    return pasted


def masks_to_rle(
    masks: Tensor, boxes: Tensor, size: tuple[int, int], *, threshold: float = 0.5
) -> list[dict[str, list[int] | str]]:
    """`paste_masks` as compressed COCO RLE, `{"size": [H, W], "counts": text}` per mask, without the bitmaps.

    The work grows with the lengths of the outlines and the widths of the boxes, not with their areas.
    """
    masks, boxes = _checked(masks, boxes, size, threshold)
    runs: tuple[Ints, Ints]
    if masks.device.type not in DEVICES:
        runs = reference.paste_runs(masks, boxes, size, threshold=threshold)
    elif masks.device.type == "cpu":
        counts, lengths = torch.ops.maskrcnn.paste_runs(masks, boxes, *size, threshold)
        runs = counts.numpy(), lengths.numpy()
    else:
        runs = runs_by_columns(torch.ops.maskrcnn, masks, boxes, size, threshold)
    return [{"size": [*size], "counts": text} for text in compress_counts(*runs)]


def runs_by_columns(
    operators: Any, masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float
) -> tuple[Ints, Ints]:
    """Run lengths from kernels that work column by column: where each column's runs begin must be known beforehand.

    Waits for the device once, for the number of runs.

    Args:
        operators: the namespace of the operators.

    Returns:
        counts and lengths, as `compress_counts` takes them.
    """
    in_column = operators.paste_run_counts(masks, boxes, *size, threshold)
    stops = in_column.flatten().cumsum(0).view_as(in_column)
    total = int(stops[-1, -1]) if stops.numel() else 0
    starts = operators.paste_run_starts(masks, boxes, *size, threshold, stops, total).cpu().numpy()
    # A mask's runs lie between 0, its starts and H * W.
    lengths = in_column.sum(dim=1).cpu().numpy() + 1
    ends = lengths.cumsum()
    frame = np.full(len(starts) + len(lengths), size[0] * size[1], dtype=np.int64)
    is_start = np.ones(len(frame), dtype=bool)
    is_start[ends - 1] = False
    frame[is_start] = starts
    before = np.concatenate([np.zeros(1, dtype=np.int64), frame])[: len(frame)]
    before[ends[:-1]] = 0
    return frame - before, lengths


def _checked(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float) -> tuple[Tensor, Tensor]:
    """Without a gradient, and the boxes in the dtype in which the coordinates are worked out."""
    if masks.ndim != 3 or masks.shape[1] != masks.shape[2] or not masks.is_floating_point():
        raise ValueError(f"masks: {masks.dtype} of shape {tuple(masks.shape)}; expected a float tensor (D, m, m)")
    if boxes.shape != (masks.shape[0], 4) or boxes.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"boxes: {boxes.dtype} of shape {tuple(boxes.shape)}; expected float32 or float64 ({masks.shape[0]}, 4)"
        )
    if boxes.device != masks.device:
        raise ValueError(f"boxes: on {boxes.device}, but masks are on {masks.device}")
    if len(size) != 2 or min(size) < 0:
        raise ValueError(f"size: {size}; expected (H, W), neither negative")
    if not threshold > 0:
        raise ValueError(f"threshold: {threshold}; expected a number above 0, which is what lies around the boxes")
    dtype = torch.float64 if masks.dtype == torch.float64 else torch.float32
    return masks.detach(), boxes.detach().to(dtype)


def _fake(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> Tensor:
    return masks.new_empty(masks.shape[0], height, width, dtype=torch.bool)


def _fake_runs(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> tuple[Tensor, Tensor]:
    counts = masks.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)
    return counts, masks.new_empty(masks.shape[0], dtype=torch.int64)


def _fake_run_counts(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> Tensor:
    return masks.new_empty(masks.shape[0], width, dtype=torch.int64)


def _fake_run_starts(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float, stops: Tensor, total: int
) -> Tensor:
    return masks.new_empty(total, dtype=torch.int64)


if COMPILED:  # an operator that does not exist takes no fake
    torch.library.register_fake("maskrcnn::paste_masks", _fake)
    torch.library.register_fake("maskrcnn::paste_runs", _fake_runs)
    torch.library.register_fake("maskrcnn::paste_run_counts", _fake_run_counts)
    torch.library.register_fake("maskrcnn::paste_run_starts", _fake_run_starts)
