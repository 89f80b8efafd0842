"""Suppression beside torchvision: boxes of which few are suppressed, and boxes as a detector makes them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torchvision
from torch import Tensor

from maskrcnn.ops import batched_nms, nms, padded_nms, soft_nms
from op_rows import Row

COUNTS = {1000: 3.0, 4000: 10.0, 12000: 10.0}  # boxes: target
LEVELS = 5


def uniform_boxes(count: int, generator: torch.Generator) -> Tensor:
    """Sides of 1 to 100 pixels in 1000 x 1000."""
    corner = torch.rand(count, 2, generator=generator) * 1000
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * 99], dim=1)


def clustered_boxes(count: int, generator: torch.Generator) -> Tensor:
    """Forty jittered boxes around each object."""
    objects = uniform_boxes(max(count // 40, 1), generator)
    near = objects[torch.randint(len(objects), (count,), generator=generator)]
    side = (near[:, 2:] - near[:, :2]).repeat(1, 2)
    return near + torch.randn(count, 4, generator=generator) * side * 0.12


def each_image_and_level(boxes: Tensor, scores: Tensor, levels: Tensor, keep: int) -> list[Tensor]:
    """What `padded_nms` does, with torchvision."""
    kept = [torchvision.ops.batched_nms(b, s, levels, 0.7) for b, s in zip(boxes, scores, strict=True)]
    return [k[:keep] for k in kept]


def rows() -> Iterator[Row]:
    generator = torch.Generator().manual_seed(0)
    for kind, make in (("uniform", uniform_boxes), ("clustered", clustered_boxes)):
        for count, target in COUNTS.items():
            boxes, scores = make(count, generator), torch.rand(count, generator=generator)
            yield Row(
                f"nms, {count} {kind} boxes",
                partial(nms, boxes, scores, 0.5),
                partial(torchvision.ops.nms, boxes, scores, 0.5),
                target,
            )
        classes = torch.randint(80, (count,), generator=generator)
        yield Row(
            f"batched_nms, {count} {kind} boxes of 80 classes",
            partial(batched_nms, boxes, scores, classes, 0.5),
            partial(torchvision.ops.batched_nms, boxes, scores, classes, 0.5),
            2.0,
        )
        yield Row(
            f"soft_nms, {count} {kind} boxes of 80 classes",
            partial(soft_nms, boxes, scores, classes, 0.5, method="gaussian", min_score=0.05),
            None,
            None,
        )
        batch = torch.stack([make(1000 * LEVELS, generator) for _ in range(2)])
        batch_scores = torch.rand(2, 1000 * LEVELS, generator=generator)
        levels = torch.arange(LEVELS).repeat_interleave(1000)
        yield Row(
            f"padded_nms, 2 images of {LEVELS} levels of 1000 {kind} boxes",
            partial(padded_nms, batch, batch_scores, levels, 0.7, 1000),
            partial(each_image_and_level, batch, batch_scores, levels, 1000),
            None,
        )
