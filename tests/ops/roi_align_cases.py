"""What the tests of RoIAlign share: implementations, boxes, and the paper's definition in loops."""

from __future__ import annotations

import importlib
import itertools
import math

import pytest
import torch

from maskrcnn.ops import reference
from ops.cuda_on_cpu import operators

MODULE = importlib.import_module("maskrcnn.ops.roi_align")  # the package has a function of this name
IMPLEMENTATIONS = ("operator", "reference", "cuda source", "cuda source, deterministic")

BOXES = {
    "inside": (1.3, 2.1, 9.7, 8.2),
    "whole map": (0, 0, 14, 16),
    "beyond the image": (-6, -4, 30, 30),
    "left of the image": (-30, 2, -20, 9),
    "no area": (5, 5, 5, 5),
    "no width": (5, 2, 5, 9),
    "inverted": (9, 11, 2, 3),
    "at the last pixel": (13, 15, 14, 16),
    "tiny": (3.1, 3.1, 3.2, 3.2),
    "large": (-500, -300, 700, 900),
}


def use(implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the functions of `maskrcnn.ops.roi_align` run this implementation."""
    if implementation == "operator":
        return
    monkeypatch.setattr(MODULE, "DEVICES", frozenset())
    if implementation != "reference":
        deterministic = "deterministic" in implementation
        kernels = operators()
        monkeypatch.setattr(reference, "roi_align", lambda *args: run_kernels(kernels, deterministic, *args))


def run_kernels(kernels, deterministic, features, rois, scales, output_size, *options):
    """The kernels of another library, with the gradient; arguments as of `reference.roi_align`."""
    *options, level_rule = options
    maximum = options[-1]

    class Kernels(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *levels):
            ctx.save_for_backward(*levels)
            return kernels.roi_align(list(levels), rois, list(scales), *output_size, *options, level_rule)

        @staticmethod
        def backward(ctx, grad):
            levels = ctx.saved_tensors
            sizes = [levels[0].shape[0], *(side for level in levels for side in level.shape[2:])]
            last = levels[0].is_contiguous(memory_format=torch.channels_last) and not levels[0].is_contiguous()
            given = list(levels) if maximum else []
            arguments = (grad, given, rois, sizes, list(scales), *options, level_rule, last, deterministic)
            return tuple(kernels.roi_align_backward(*arguments))

    return Kernels.apply(*features)


def align_by_the_paper(
    features, rois, scale, output_size, sampling_ratio=2, aligned=True, aggregation="average", round_boxes=False
):
    """Mask R-CNN §3 point by point: each point is a sum over the whole map of values times hat functions."""
    _, channels, height, width = features.shape
    out = torch.zeros(len(rois), channels, *output_size, dtype=features.dtype)
    for r, (n, *box) in enumerate(rois.tolist()):
        box = [scale * b for b in box]
        if round_boxes:
            box = [math.copysign(math.floor(abs(b) + 0.5), b) for b in box]
        x1, y1, x2, y2 = (b - (0.5 if aligned else 0.0) for b in box)
        sides = [y2 - y1, x2 - x1] if aligned else [max(y2 - y1, 1.0), max(x2 - x1, 1.0)]
        bin_h, bin_w = (side / bins for side, bins in zip(sides, output_size, strict=True))
        points_h = sampling_ratio or max(math.ceil(bin_h), 0)
        points_w = sampling_ratio or max(math.ceil(bin_w), 0)
        for p, q in itertools.product(*map(range, output_size)):
            values = []
            for i, j in itertools.product(range(points_h), range(points_w)):
                y = y1 + (p + (i + 0.5) / points_h) * bin_h
                x = x1 + (q + (j + 0.5) / points_w) * bin_w
                if not (-1 <= y <= height and -1 <= x <= width):
                    values.append(torch.zeros(channels, dtype=features.dtype))
                    continue
                y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                hats_y = torch.tensor([max(0.0, 1 - abs(y - v)) for v in range(height)], dtype=features.dtype)
                hats_x = torch.tensor([max(0.0, 1 - abs(x - u)) for u in range(width)], dtype=features.dtype)
                values.append(hats_y @ features[int(n)] @ hats_x)
            if values:
                stacked = torch.stack(values)
                out[r, :, p, q] = stacked.mean(dim=0) if aggregation == "average" else stacked.amax(dim=0)
    return out


def some_rois(images=2, dtype=torch.float64):
    return torch.tensor([[k % images, *box] for k, box in enumerate(BOXES.values())], dtype=dtype)


def some_features(shape=(2, 3, 8, 7), dtype=torch.float64):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)


def random_rois(count, frame, images=2, seed=3):
    """Boxes of all sizes, some beyond the frame (height, width)."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([frame[1], frame[0]])
    sides = torch.exp(torch.rand(count, 2, generator=generator) * math.log(max(frame)))
    index = torch.randint(0, images, (count, 1), generator=generator).float()
    return torch.cat([index, centre - sides / 2, centre + sides / 2], dim=1)
