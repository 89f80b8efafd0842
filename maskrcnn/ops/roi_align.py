"""RoIAlign (Mask R-CNN §3), from one map or from the levels of a pyramid (FPN §4.2, PANet §3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maskrcnn.ops import reference
from maskrcnn.ops.extension import COMPILED, devices
from maskrcnn.ops.rois import check_rois, is_channels_last, new_map

DEVICES = devices("roi_align")
AGGREGATIONS = ("average", "max")
MAX_SAMPLING_RATIO, MAX_LEVELS = 1024, 16  # of the kernels


@dataclass(frozen=True)
class LevelRule:
    """FPN Eq. 1: a box of w x h belongs to level k = floor(k0 + log2(sqrt(wh) / size + epsilon)).

    Level k has stride 2^k; boxes beyond the pyramid go to its nearest level.
    """

    canonical_level: int = 4  # k0
    canonical_size: float = 224.0  # ImageNet's
    epsilon: float = 1e-8
    extent: float = 0.0  # added to w and h: 1 for boxes whose x2 and y2 are their last pixels


def roi_align(
    features: Tensor,
    rois: Tensor,
    *,
    scale: float,
    output_size: tuple[int, int],
    sampling_ratio: int = 2,
    aligned: bool = True,
    aggregation: str = "average",
    round_boxes: bool = False,
) -> Tensor:
    """Features of each RoI, bilinear at regular points and averaged per bin (Mask R-CNN §3); no rounding anywhere.

    Differentiable in the features, not in the rois. On the CPU the gradient is the same, bit for bit, for any number of
    threads; on CUDA it is reproducible under `torch.use_deterministic_algorithms(True)`, and slower.

    Args:
        features: (N, C, H, W), float32, float64, float16 or bfloat16; half types are summed in float32. channels_last
            is the fast layout; another one is converted, once per call.
        rois: (R, 5), image index then XYXY in input pixels; float32, or float64 for float64 features.
        scale: feature pixels per input pixel, 1 / stride.
        output_size: (h, w), the number of bins.
        sampling_ratio: points per bin and axis, up to 1024; 0 takes ceil(bin side), at least one per pixel. A box
            without extent then has no point, and gives zeros.
        aligned: pixel centres lie at half-integers, as for all boxes here; False: at integers, with boxes of at least
            one feature pixel, which is what the paper's and torchvision's weights were trained with.
        aggregation: "average" of a bin's points, or "max" of them (Table 2c compares both), whose gradient goes to the
            greatest point, the first of equals.
        round_boxes: round the corners to whole feature pixels first, half away from zero, as RoIPool does: with it,
            this is what Table 2c calls RoIWarp.

    Returns:
        (R, C, h, w) with dtype and memory format of `features`. A point more than one pixel outside the map counts as
        zero; a non-finite box gives NaN in its row, and no gradient. So does an image index out of range where
        checking it would wait for the device (not the CPU).

    Raises:
        ValueError: shape, dtype, device, a size that is not positive, an unknown aggregation; on the CPU an image index
            out of range.
    """
    return _roi_align(
        [features], rois, [scale], output_size, sampling_ratio, aligned, aggregation, round_boxes, rule=None
    )


def roi_align_levels(
    features: Sequence[Tensor],
    rois: Tensor,
    *,
    scales: Sequence[float],
    output_size: tuple[int, int],
    sampling_ratio: int = 2,
    aligned: bool = True,
    aggregation: str = "average",
    round_boxes: bool = False,
    rule: LevelRule = LevelRule(),
) -> Tensor:
    """`roi_align` of each box from the level that suits its size (FPN §4.2, Eq. 1), in one call.

    Args:
        features: up to 16 levels (N, C, H_k, W_k), high to low resolution, each of half that of the one before.
        scales: of each level, 1 / stride.
        rule: which level a box belongs to.

    The other arguments, and the errors, are those of `roi_align`.

    Returns:
        (R, C, h, w) with dtype and memory format of the first level.
    """
    return _roi_align(features, rois, scales, output_size, sampling_ratio, aligned, aggregation, round_boxes, rule)


def roi_align_all_levels(
    features: Sequence[Tensor],
    rois: Tensor,
    *,
    scales: Sequence[float],
    output_size: tuple[int, int],
    sampling_ratio: int = 2,
    aligned: bool = True,
    aggregation: str = "average",
    round_boxes: bool = False,
) -> Tensor:
    """`roi_align` of each box from every level, for adaptive feature pooling (PANet §3.2, Fig. 1c), in one call.

    Arguments as of `roi_align_levels`, without a rule.

    Returns:
        (L, R, C, h, w), each level with dtype and memory format of the first.
    """
    pooled = _roi_align(
        features, rois, scales, output_size, sampling_ratio, aligned, aggregation, round_boxes, rule=None
    )
    return pooled.view(len(features), rois.shape[0], *pooled.shape[1:])


def _roi_align(
    features: Sequence[Tensor],
    rois: Tensor,
    scales: Sequence[float],
    output_size: tuple[int, int],
    sampling_ratio: int,
    aligned: bool,
    aggregation: str,
    round_boxes: bool,
    rule: LevelRule | None,
) -> Tensor:
    _check(features, rois, scales, output_size, sampling_ratio, aggregation)
    maximum = aggregation == "max"
    level_rule = None
    if rule is not None:
        finest = math.floor(-math.log2(max(scales)))
        numbers = (rule.canonical_level, rule.canonical_size, rule.epsilon, finest, rule.extent)
        level_rule = [float(number) for number in numbers]
    if rois.device.type not in DEVICES:
        return reference.roi_align(
            features, rois, scales, output_size, sampling_ratio, aligned, round_boxes, maximum, level_rule
        )
    pooled: Tensor = torch.ops.maskrcnn.roi_align(
        list(features),
        rois,
        list(scales),
        *output_size,
        sampling_ratio,
        aligned,
        round_boxes,
        maximum,
        level_rule,
    )
    return pooled


def _check(
    features: Sequence[Tensor],
    rois: Tensor,
    scales: Sequence[float],
    output_size: tuple[int, int],
    sampling_ratio: int,
    aggregation: str,
) -> None:
    if not 1 <= len(features) <= MAX_LEVELS:
        raise ValueError(f"features: {len(features)} levels; expected 1 to {MAX_LEVELS}")
    for level in features:
        if level.shape[:2] != features[0].shape[:2] or level.dtype != features[0].dtype:
            raise ValueError(
                f"features: {level.dtype} of shape {tuple(level.shape)}; expected images, channels and dtype of the "
                f"first level, {features[0].dtype} of shape {tuple(features[0].shape)}"
            )
        check_rois(level, rois, output_size)
    if len(scales) != len(features) or not all(0 < scale < math.inf for scale in scales):
        raise ValueError(f"scales: {tuple(scales)}; expected a positive number for each of {len(features)} levels")
    if not 0 <= sampling_ratio <= MAX_SAMPLING_RATIO:
        raise ValueError(f"sampling_ratio: {sampling_ratio}; expected 0 (adaptive) or up to {MAX_SAMPLING_RATIO}")
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"aggregation: {aggregation!r}; expected one of {', '.join(AGGREGATIONS)}")


def _fake(
    features: Sequence[Tensor],
    rois: Tensor,
    scales: Sequence[float],
    height: int,
    width: int,
    sampling_ratio: int,
    aligned: bool,
    rounded: bool,
    maximum: bool,
    level_rule: Sequence[float] | None,
) -> Tensor:
    rows = rois.shape[0] * (len(features) if level_rule is None else 1)
    shape = (rows, features[0].shape[1], height, width)
    return new_map(features[0], shape, channels_last=is_channels_last(features[0]))


def _fake_backward(
    grad: Tensor,
    features: Sequence[Tensor],
    rois: Tensor,
    sizes: Sequence[int],
    scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
    rounded: bool,
    maximum: bool,
    level_rule: Sequence[float] | None,
    channels_last: bool,
    deterministic: bool,
) -> list[Tensor]:
    images, levels = sizes[0], zip(sizes[1::2], sizes[2::2], strict=True)
    return [new_map(grad, (images, grad.shape[1], h, w), channels_last=channels_last) for h, w in levels]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, rois, scales, _, _, sampling_ratio, aligned, rounded, maximum, level_rule = inputs
    # The mean is linear in the features and needs them no more; where the maximum was is found again.
    ctx.save_for_backward(rois, *(features if maximum else ()))
    ctx.sizes = [features[0].shape[0], *(side for level in features for side in level.shape[2:])]
    ctx.options = (scales, sampling_ratio, aligned, rounded, maximum, level_rule, is_channels_last(features[0]))


def _backward(ctx: Any, grad: Tensor) -> tuple[list[Tensor] | None, ...]:
    rois, *features = ctx.saved_tensors
    deterministic = torch.are_deterministic_algorithms_enabled()
    gradients: list[Tensor] = torch.ops.maskrcnn.roi_align_backward(
        grad, features, rois, ctx.sizes, *ctx.options, deterministic
    )
    return gradients, *[None] * 9


if COMPILED:  # an operator that does not exist takes no fake and no gradient
    torch.library.register_fake("maskrcnn::roi_align", _fake)
    torch.library.register_fake("maskrcnn::roi_align_backward", _fake_backward)
    torch.library.register_autograd("maskrcnn::roi_align", _backward, setup_context=_setup_context)
