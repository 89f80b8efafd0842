"""Keypoint decoding beside torchvision's: 100 boxes of persons, 17 maps of 56x56 each."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints

from maskrcnn.ops import decode_keypoints
from op_rows import Row

BOXES, KEYPOINTS, SIDE = 100, 17, 56


def rows(device: str = "cpu") -> Iterator[Row]:
    generator = torch.Generator().manual_seed(0)
    boxes = person_boxes(generator).to(device)
    moved = 4 * BOXES * (KEYPOINTS * SIDE**2 + 4 + KEYPOINTS * 3)
    for kind, heatmaps in (("as trained", trained_heatmaps(generator)), ("noise", noise(generator))):
        heatmaps = heatmaps.to(device)
        yield Row(
            f"decode_keypoints 100x17 maps of 56x56, {kind}",
            functools.partial(decode_keypoints, heatmaps, boxes),
            functools.partial(heatmaps_to_keypoints, heatmaps, boxes),
            5.0 if device == "cpu" else 1.5,
            moved,
        )
    # The worst case: nearly every sample of every map is looked at.
    flat = (1 + 1e-6 * noise(generator)).to(device)
    yield Row(
        "decode_keypoints 100x17 maps of 56x56, flat but for rounding",
        functools.partial(decode_keypoints, flat, boxes),
        functools.partial(heatmaps_to_keypoints, flat, boxes),
        None,
    )


def person_boxes(generator: torch.Generator) -> Tensor:
    """40..300 x 100..500 px."""
    sides = torch.tensor([40.0, 100]) + torch.rand(BOXES, 2, generator=generator) * torch.tensor([260.0, 400])
    corner = torch.rand(BOXES, 2, generator=generator) * 500
    return torch.cat((corner, corner + sides), dim=1)


def trained_heatmaps(generator: torch.Generator) -> Tensor:
    """A bump of 12 over cells about -5, smoothed by the head's bilinear upsampling from 28x28."""
    small = torch.randn(BOXES, KEYPOINTS, SIDE // 2, SIDE // 2, generator=generator) - 5
    centre = torch.rand(BOXES, KEYPOINTS, 2, generator=generator) * (SIDE // 2)
    cells = torch.arange(SIDE // 2)
    squares = [(cells - centre[..., axis, None]).square() for axis in range(2)]
    small = small + 12 * torch.exp(-(squares[1][..., :, None] + squares[0][..., None, :]) / 4)
    return torch.nn.functional.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)


def noise(generator: torch.Generator) -> Tensor:
    return torch.randn(BOXES, KEYPOINTS, SIDE, SIDE, generator=generator)
