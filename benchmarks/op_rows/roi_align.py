"""RoIAlign beside torchvision's: one map of 200x272, and the levels P2-P5 of an image of 800x1088."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torchvision
from torch import Tensor

from maskrcnn.ops import LevelRule, roi_align, roi_align_all_levels, roi_align_levels
from op_rows import Row

CHANNELS = 256
IMAGE = (800, 1088)
STRIDES = (4, 8, 16, 32)
FORWARD, WITH_BACKWARD = 3.0, 5.0  # the targets


def rows() -> Iterator[Row]:
    for layout in ("NHWC", "NCHW"):
        yield from single_map(layout)
        yield from pyramid(layout)
    for dtype in (torch.bfloat16, torch.float16):
        features, rois = maps(STRIDES[:1], "NHWC", dtype)[0], some_rois(1000)
        name = f"roi_align forward, 1000 RoIs 7x7, sampling 2, {str(dtype).removeprefix('torch.')}, NHWC"
        yield Row(name, lambda f=features, r=rois: ours(f, r, 7, 2), None, None)
    features, rois = maps(STRIDES[:1], "NHWC")[0], some_rois(1000)
    yield pair("roi_align max, 1000 RoIs 7x7, sampling 2, float32, NHWC", [features], rois, 7, greatest, None, False)
    yield pair("roi_align max, 1000 RoIs 7x7, sampling 2, float32, NHWC", [features], rois, 7, greatest, None, True)
    levels = maps(STRIDES, "NHWC")
    yield Row(
        "roi_align_all_levels forward, 1000 RoIs 7x7 from P2-P5, NHWC", lambda: all_levels(levels, rois), None, None
    )


def single_map(layout: str) -> Iterator[Row]:
    features = maps(STRIDES[:1], layout)
    for count, size, sampling in ((1000, 7, 2), (1000, 7, 0), (512, 14, 2), (512, 14, 0)):
        rois = some_rois(count)
        name = f"roi_align, {count} RoIs {size}x{size}, sampling {sampling or 'adaptive'}, float32, {layout}"

        def mine(levels: Sequence[Tensor], rois: Tensor, sampling: int = sampling, size: int = size) -> Tensor:
            return ours(levels[0], rois, size, sampling)

        def theirs(levels: Sequence[Tensor], rois: Tensor, sampling: int = sampling, size: int = size) -> Tensor:
            return torchvision.ops.roi_align(levels[0], rois, size, 1 / STRIDES[0], sampling, True)

        for backward in (False, True):
            yield pair(name, features, rois, size, mine, theirs, backward)


def pyramid(layout: str) -> Iterator[Row]:
    features = maps(STRIDES, layout)
    for count, size in ((1000, 7), (512, 14)):
        rois = some_rois(count)
        peer = torchvision.ops.MultiScaleRoIAlign([str(stride) for stride in STRIDES], size, 2)
        name = f"roi_align_levels, {count} RoIs {size}x{size} from P2-P5, sampling 2, float32, {layout}"

        def mine(levels: Sequence[Tensor], rois: Tensor, size: int = size) -> Tensor:
            return roi_align_levels(
                levels,
                rois,
                scales=[1 / s for s in STRIDES],
                output_size=(size, size),
                aligned=False,
                rule=LevelRule(epsilon=1e-6),
            )

        def theirs(levels: Sequence[Tensor], rois: Tensor, peer: torch.nn.Module = peer) -> Tensor:
            pooled: Tensor = peer(dict(zip(map(str, STRIDES), levels, strict=True)), [rois[:, 1:]], [IMAGE])
            return pooled

        for backward in (False, True):
            yield pair(name, features, rois, size, mine, theirs, backward)


Pool = Callable[[Sequence[Tensor], Tensor], Tensor]


def pair(
    name: str, features: list[Tensor], rois: Tensor, size: int, mine: Pool, theirs: Pool | None, backward: bool
) -> Row:
    """One row: both forward, or both forward and backward."""
    grad = torch.randn(len(rois), CHANNELS, size, size)
    if features[0].is_contiguous(memory_format=torch.channels_last):
        grad = grad.contiguous(memory_format=torch.channels_last)

    def work(pool: Pool) -> Callable[[], object]:
        if not backward:
            return lambda: pool(features, rois)
        inputs = [level.clone().requires_grad_() for level in features]
        return lambda: torch.autograd.grad(pool(inputs, rois), inputs, grad)

    kind = "forward+backward" if backward else "forward"
    peer = work(theirs) if theirs else None
    target = None if peer is None else WITH_BACKWARD if backward else FORWARD
    return Row(f"{name}, {kind}", work(mine), peer, target)


def ours(features: Tensor, rois: Tensor, size: int, sampling: int) -> Tensor:
    return roi_align(features, rois, scale=1 / STRIDES[0], output_size=(size, size), sampling_ratio=sampling)


def greatest(levels: Sequence[Tensor], rois: Tensor) -> Tensor:
    return roi_align(levels[0], rois, scale=1 / STRIDES[0], output_size=(7, 7), aggregation="max")


def all_levels(levels: Sequence[Tensor], rois: Tensor) -> Tensor:
    return roi_align_all_levels(levels, rois, scales=[1 / s for s in STRIDES], output_size=(7, 7))


def maps(strides: Sequence[int], layout: str, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(1, CHANNELS, *(side // s for side in IMAGE), generator=generator).to(dtype) for s in strides]
    return [level.contiguous(memory_format=torch.channels_last) if layout == "NHWC" else level for level in levels]


def some_rois(count: int) -> Tensor:
    """Boxes like proposals: sides of 16 to 512 pixels, evenly in their logarithm, inside the image."""
    generator = torch.Generator().manual_seed(1)
    height, width = IMAGE
    sides = 2 ** (4 + 5 * torch.rand(count, 2, generator=generator))
    corner = torch.rand(count, 2, generator=generator) * (torch.tensor([width, height]) - sides)
    return torch.cat([torch.zeros(count, 1), corner, corner + sides], dim=1)
