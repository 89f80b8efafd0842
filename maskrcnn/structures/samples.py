"""What a data loader hands to a model, and the batch of images that a model makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from maskrcnn.structures.instances import Instances, Proposals


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One image on its way into a model.

    Args:
        image: uint8, or float32 in 0..255, (3, H, W) RGB, already resized for the network.
        image_id: what the data set calls the image.
        original_size: (h, w) of the image in its file; detections are returned in that frame.
        targets: the ground truth in the frame of `image`; None at test time.
        semantic: uint8 (H, W) class of each pixel, or None.
        proposals: precomputed ones in the frame of `image`, or None.
    """

    image: Tensor
    image_id: int | str
    original_size: tuple[int, int]
    targets: Instances | None = None
    semantic: Tensor | None = None
    proposals: Proposals | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of `image`."""
        return self.image.shape[-2], self.image.shape[-1]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Sample:
        def move(value: Any) -> Any:
            return None if value is None else value.to(device, non_blocking=non_blocking)

        fields = ("image", "targets", "semantic", "proposals")
        return replace(self, **{name: move(getattr(self, name)) for name in fields})


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """A window around, beside or away from an object (DeepMask training).

    image float32 (3, W, W); label +1 (centred object), -1, or 0 = no score loss; mask (m, m) of +1 and -1, or None =
    no mask loss.
    """

    image: Tensor
    label: int
    mask: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class ImageBatch:
    """Normalised images of one batch, padded at the right and the bottom to one size.

    tensor float32 (N, 3, Hp, Wp) in channels_last order, zero in the padding; sizes: each image's (h, w) without
    padding; proposals: one object per image if every sample brought its own, or None.
    """

    tensor: Tensor
    sizes: list[tuple[int, int]]
    proposals: list[Proposals] | None = None

    @classmethod
    def from_samples(
        cls, samples: Sequence[Sample], pixel_mean: Tensor, pixel_std: Tensor, divisibility: int
    ) -> ImageBatch:
        """Move, normalise, pad and stack the images.

        Args:
            samples: N >= 1 of any sizes.
            pixel_mean, pixel_std: (3, 1, 1) in RGB, 0..255, on the device that the batch should be on.
            divisibility: Hp and Wp are multiples of it.
        """
        device = pixel_mean.device
        sizes = [s.size for s in samples]
        height, width = (-(-max(side) // divisibility) * divisibility for side in zip(*sizes, strict=True))
        tensor = torch.zeros(len(samples), 3, height, width, device=device).contiguous(
            memory_format=torch.channels_last
        )
        for i, (sample, (h, w)) in enumerate(zip(samples, sizes, strict=True)):
            image = sample.image.to(device, non_blocking=True)
            tensor[i, :, :h, :w] = (image - pixel_mean) / pixel_std  # normalised first: the padding is the mean colour
        proposals = [s.proposals.to(device) for s in samples if s.proposals is not None]
        assert len(proposals) in (0, len(samples)), "some samples of the batch have proposals, others have none"
        return cls(tensor=tensor, sizes=sizes, proposals=proposals or None)
