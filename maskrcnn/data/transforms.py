"""Changes of a whole sample: the image, and with it targets, semantic map and proposals.

A transform is a callable `(sample, rng) -> sample`. It takes its random numbers from `rng` alone, and as many of them
whatever the sample, so that a sample depends on nothing but the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from torch import Tensor

from maskrcnn.structures.samples import Sample

Transform = Callable[[Sample, np.random.Generator], Sample]

SAMPLINGS = ("choice", "range")
ROUNDINGS = ("half_up", "down", "longer_down")


class ResizeShortestEdge:
    """Scale the image so that its shorter side has a given length, or less where the longer one would pass a limit.

    Faster R-CNN's and FPN's training scale. Enlarging is bilinear, and reducing averages areas, because bilinear
    samples would skip pixels; a semantic map takes the nearest class.

    Args:
        sizes: shorter sides in pixels; with sampling "range" two of them, the smallest and the largest.
        max_size: limit of the longer side.
        sampling: "choice" picks one of `sizes`, "range" any integer from the first to the second, both included.
        rounding: of the sides, see `resized_size`.
    """

    def __init__(
        self, sizes: Sequence[int], max_size: int, sampling: str = "choice", *, rounding: str = "half_up"
    ) -> None:
        sizes = tuple(sizes)
        if not sizes or min(sizes) < 1:
            raise ValueError(f"shorter sides {sizes}: give one or more, each at least 1 pixel")
        if sampling not in SAMPLINGS:
            raise ValueError(f"sampling of the shorter side is {sampling!r}; choose from {', '.join(SAMPLINGS)}")
        if sampling == "range" and (len(sizes) != 2 or sizes[0] > sizes[1]):
            raise ValueError(f"shorter sides {sizes}: sampling 'range' needs the smallest and the largest")
        if max_size < max(sizes):
            raise ValueError(f"limit {max_size} of the longer side is below the shorter side {max(sizes)}")
        if rounding not in ROUNDINGS:
            raise ValueError(f"rounding of the sides is {rounding!r}; choose from {', '.join(ROUNDINGS)}")
        self.sizes, self.max_size, self.sampling, self.rounding = sizes, max_size, sampling, rounding

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if self.sampling == "range":
            shorter = int(rng.integers(self.sizes[0], self.sizes[1], endpoint=True))
        else:
            shorter = self.sizes[rng.integers(len(self.sizes))]
        return resize(sample, resized_size(sample.size, shorter, self.max_size, self.rounding))


class RandomHorizontalFlip:
    """Mirror left and right with probability `p`."""

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"flip probability {p} is not between 0 and 1")
        self.p = p

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return hflip(sample) if rng.random() < self.p else sample


def resized_size(size: tuple[int, int], shorter: int, max_size: int, rounding: str = "half_up") -> tuple[int, int]:
    """(h, w) -> (h, w) with this shorter side, or with the longer one at `max_size` if that is smaller.

    Args:
        rounding: "half_up" of both sides, as Detectron2 and MMDetection; "down" of both, as torchvision;
            "longer_down": the shorter side to the nearest, the longer one down, as maskrcnn-benchmark.
    """
    scale = min(shorter / min(size), max_size / max(size))
    if rounding == "longer_down":
        if max(size) / min(size) * shorter > max_size:
            shorter = max(1, round(max_size * min(size) / max(size)))
        sides = (shorter if side == min(size) else int(shorter * side / min(size)) for side in size)
    else:
        sides = (int(side * scale + (0.5 if rounding == "half_up" else 0)) for side in size)
    height, width = (max(1, side) for side in sides)
    return height, width


def resize(sample: Sample, size: tuple[int, int]) -> Sample:
    """The sample in a frame of another size; `original_size` stays what it was."""
    if size == sample.size:
        return sample
    shrink = size[0] * size[1] < sample.size[0] * sample.size[1]
    return replace(
        sample,
        image=_resize_image(sample.image, size, cv2.INTER_AREA if shrink else cv2.INTER_LINEAR),
        targets=None if sample.targets is None else sample.targets.resize(size),
        semantic=None if sample.semantic is None else _resize_map(sample.semantic, size),
        proposals=None if sample.proposals is None else sample.proposals.resize(size),
    )


def hflip(sample: Sample) -> Sample:
    """The mirror image."""
    return replace(
        sample,
        image=from_hwc(cv2.flip(to_hwc(sample.image), 1)),
        targets=None if sample.targets is None else sample.targets.hflip(),
        semantic=None if sample.semantic is None else sample.semantic.flip(-1),
        proposals=None if sample.proposals is None else sample.proposals.hflip(),
    )


def from_hwc(pixels: np.ndarray) -> Tensor:
    """(H, W, 3) -> a view (3, H, W). The memory stays in the order of OpenCV, and of channels_last batches."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


def to_hwc(image: Tensor) -> np.ndarray:
    """(3, H, W) -> (H, W, 3), contiguous; a view if the memory already is in this order."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _resize_image(image: Tensor, size: tuple[int, int], interpolation: int) -> Tensor:
    return from_hwc(cv2.resize(to_hwc(image), (size[1], size[0]), interpolation=interpolation))


def _resize_map(semantic: Tensor, size: tuple[int, int]) -> Tensor:
    pixels = cv2.resize(semantic.numpy(), (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return torch.from_numpy(pixels)
