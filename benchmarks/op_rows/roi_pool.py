"""RoIPool beside torchvision's, and RoIWarp beside its reference: no peer has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torchvision
from torch import Tensor

from maskrcnn.ops import reference, roi_pool, roi_warp
from op_rows import Row

LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


def rows() -> Iterator[Row]:
    for layout, memory_format in LAYOUTS.items():
        for count, side in ((1000, 7), (512, 14)):
            features, rois, grad = inputs(1, 256, (200, 272), count, (side, side), 1 / 4, memory_format)
            name = f"RoIPool {count} RoIs, 256 x 200 x 272, {side} x {side}, {layout}"

            def ours(features: Tensor, rois: Tensor = rois, side: int = side) -> Tensor:
                return roi_pool(features, rois, scale=1 / 4, output_size=(side, side))

            def theirs(features: Tensor, rois: Tensor = rois, side: int = side) -> Tensor:
                return torchvision.ops.roi_pool(features, rois, (side, side), 1 / 4)

            yield Row(f"{name}, forward", forward(ours, features), forward(theirs, features), 3.0)
            yield Row(f"{name}, forward + backward", step(ours, [features], grad), step(theirs, [features], grad), 5.0)
    for layout, memory_format in LAYOUTS.items():
        features, rois, grad = inputs(1, 512, (38, 50), 64, (28, 28), 1 / 16, memory_format)
        name = f"RoIWarp 64 RoIs, 512 x 38 x 50, 28 x 28, {layout}"

        def warp(features: Tensor, rois: Tensor = rois) -> Tensor:
            return roi_warp(features, rois, scale=1 / 16, output_size=(28, 28))

        def plain(features: Tensor, rois: Tensor = rois) -> Tensor:
            return reference.roi_warp(features, rois, scale=1 / 16, output_size=(28, 28))

        yield Row(f"{name}, forward (reference)", forward(warp, features), forward(plain, features), None)
        leaves = [features, rois]
        yield Row(
            f"{name}, forward + backward to features and boxes (reference)",
            step(warp, leaves, grad),
            step(plain, leaves, grad),
            None,
        )


def inputs(
    images: int,
    channels: int,
    size: tuple[int, int],
    count: int,
    output_size: tuple[int, int],
    scale: float,
    memory_format: torch.memory_format,
) -> tuple[Tensor, Tensor, Tensor]:
    """Features, RoIs of 16 to 400 pixels a side within the image, and a gradient of the result."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(images, channels, *size, generator=generator).contiguous(memory_format=memory_format)
    frame = torch.tensor([size[1], size[0]]) / scale
    sides = 16 * torch.exp(torch.rand(count, 2, generator=generator) * torch.log(torch.tensor(25.0)))
    corner = torch.rand(count, 2, generator=generator) * (frame - sides)
    index = torch.randint(images, (count, 1), generator=generator)
    rois = torch.cat([index, corner, corner + sides], dim=1)
    grad = torch.randn(count, channels, *output_size, generator=generator).contiguous(memory_format=memory_format)
    return features, rois, grad


def forward(run: Callable[..., Tensor], features: Tensor) -> Callable[[], object]:
    return lambda: run(features)


def step(run: Callable[..., Tensor], leaves: list[Tensor], grad: Tensor) -> Callable[[], object]:
    def work() -> object:
        inputs = [leaf.detach().requires_grad_() for leaf in leaves]
        return torch.autograd.grad(run(*inputs), inputs, grad)

    return work
