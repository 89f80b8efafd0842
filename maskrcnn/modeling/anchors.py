"""Anchor grids over feature levels (Faster R-CNN §3.1; one size per level: FPN §4.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from maskrcnn.conventions import Conventions


@dataclass(frozen=True)
class AnchorGrid:
    """Which anchors stand at each cell.

    Args:
        sizes: for each level, the square roots of the anchors' areas, in pixels.
        ratios: height / width.
    """

    sizes: Sequence[Sequence[float]] = ((32,), (64,), (128,), (256,), (512,))
    ratios: Sequence[float] = (0.5, 1.0, 2.0)

    @property
    def per_cell(self) -> int:
        """Anchors at one cell, the same at every level.

        Raises:
            ValueError: levels of different counts, which one shared predictor cannot serve.
        """
        counts = {len(level) for level in self.sizes}
        if len(counts) != 1:
            raise ValueError(f"ANCHORS.SIZES: {self.sizes} has levels with different numbers of sizes")
        return counts.pop() * len(self.ratios)

    def cell_anchors(self, level: int, stride: int, conventions: Conventions) -> Tensor:
        """Boxes (A, 4) of the cell at the origin, size outer, ratio inner."""
        if conventions.base_anchors:
            return self.base_anchors(level, stride)
        boxes = []
        for size in self.sizes[level]:
            for ratio in self.ratios:
                width = size / math.sqrt(ratio)
                boxes.append([-width / 2, -width * ratio / 2, width / 2, width * ratio / 2])
        anchors = torch.tensor(boxes, dtype=torch.float32)
        return anchors.round() if conventions.round_anchors else anchors

    def base_anchors(self, level: int, stride: int) -> Tensor:
        """As Fast R-CNN's code makes them: the cell in each ratio, in whole pixels, is scaled around its middle."""
        boxes = []
        for size in self.sizes[level]:
            for ratio in self.ratios:
                base_width = round(stride / math.sqrt(ratio))
                width, height = (side * size / stride for side in (base_width, round(base_width * ratio)))
                boxes.append([(stride + side) / 2 for side in (-width, -height, width, height)])
        return torch.tensor(boxes, dtype=torch.float32)

    def grid(
        self, level: int, size: tuple[int, int], stride: tuple[int, int], conventions: Conventions, device: torch.device
    ) -> Tensor:
        """Anchors (H * W * A, 4) of one level, rows first, then columns, then anchors; moved by cell * stride.

        Args:
            size: the feature map's (H, W).
            stride: (y, x) distance of neighbouring cells in pixels.
        """
        shapes = tuple(map(tuple, self.cell_anchors(level, stride[0], conventions).tolist()))
        return _grid(shapes, tuple(size), tuple(stride), torch.device(device))


@lru_cache(maxsize=64)  # a dozen image sizes of five levels, 4 MB each at the most
@torch.inference_mode(False)  # a grid made during inference serves a training step too
def _grid(
    shapes: tuple[tuple[float, ...], ...], size: tuple[int, int], stride: tuple[int, int], device: torch.device
) -> Tensor:
    """The boxes `shapes` at each cell: the same tensor for the same arguments, so nobody writes into it."""
    y = torch.arange(size[0], dtype=torch.float32, device=device) * stride[0]
    x = torch.arange(size[1], dtype=torch.float32, device=device) * stride[1]
    y, x = torch.meshgrid(y, x, indexing="ij")
    centers = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (centers + torch.tensor(shapes, device=device)).reshape(-1, 4)
