"""What tensors, in our names, tell of the model that they are from: the config keys of its parts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from maskrcnn.checkpoint.importers.weights import ImportFailed, Renamed

DEPTHS = {
    (False, 2): 18,
    (False, 6): 34,
    (True, 6): 50,
    (True, 23): 101,
    (True, 36): 152,
}  # bottlenecks, blocks of res4
ROI_STAGE = "roi_heads.roi_stage."  # res5 of a C4 model
TAPS = 9  # of a 3x3 convolution
# Means and deviations of the images' colours, 0..255, in our order, RGB.
DETECTRON_MEAN = (122.7717, 115.9465, 102.9801)
IMAGENET_MEAN, IMAGENET_STD, NO_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), (1.0, 1.0, 1.0)
BOX_CONV = r"roi_heads\.box_head\.convs\.(0\.blocks\.0\.0|\d+)\.weight"
RES5_IN_C4 = ("backbone.stages.res5.", ROI_STAGE)


def res5_to_roi_stage(tensors: Mapping[str, Tensor]) -> Renamed:
    """A trunk's res5 as the stage of a C4 model that runs on RoIs."""
    return Renamed((name.replace(*RES5_IN_C4), tensor) for name, tensor in tensors.items())


def reverse_colours(tensors: Renamed) -> None:
    """From a stem that takes BGR to one that takes RGB, in place."""
    tensors["backbone.stem.conv1.weight"] = tensors["backbone.stem.conv1.weight"].flip(1)


def norm_of(tensors: Mapping[str, Tensor], conv: str, batch_norm: str = "FrozenBN") -> str:
    """Which norm stands behind a convolution: `batch_norm`, or "GN" where there are no statistics; "": none."""
    if f"{conv}.norm.weight" not in tensors:
        return ""
    return batch_norm if f"{conv}.norm.running_mean" in tensors else "GN"


def trunk_needs(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """MODEL.BACKBONE's keys for a ResNet or ResNeXt, whose res5 may be on RoIs, or missing.

    Norms are those of the tensors, "FrozenBN" or "GN". Where the stride is, they do not tell: in the 1x1 for plain
    ResNets with batch norm, as MSRA's, and in the 3x3 for others, as in the zoos of Detectron and what came of it.

    Raises:
        ImportFailed: tensors are missing, or there is no ResNet of so many blocks.
    """
    stem, grouped = "backbone.stem.conv1.weight", "backbone.stages.res2.0.conv2.weight"
    if missing := [name for name in (stem, grouped) if name not in tensors]:
        raise ImportFailed(f"this looks like a ResNet, but has no {' and no '.join(missing)} (in our names)")
    blocks = {name.split(".")[3] for name in tensors if name.startswith("backbone.stages.res4.")}
    bottlenecks = "backbone.stages.res2.0.conv3.weight" in tensors
    if (bottlenecks, len(blocks)) not in DEPTHS:
        raise ImportFailed(
            f"this looks like a ResNet, but has {len(blocks)} blocks in res4; known depths are "
            f"{', '.join(map(str, DEPTHS.values()))}"
        )
    width, (inner, per_group) = len(tensors[stem]), tensors[grouped].shape[:2]
    norm = norm_of(tensors, "backbone.stem.conv1")
    needs: dict[str, Any] = {
        "MODEL.BACKBONE.DEPTH": DEPTHS[bottlenecks, len(blocks)],
        "MODEL.BACKBONE.WIDTH": width,
        "MODEL.BACKBONE.GROUPS": inner // per_group,
        "MODEL.BACKBONE.WIDTH_PER_GROUP": per_group * 64 // width,
        "MODEL.BACKBONE.NORM": norm,
        "MODEL.BACKBONE.STRIDE_IN_1X1": bottlenecks and inner == per_group and norm != "GN",
    }
    offset = re.compile(rf"(?:backbone\.stages\.(res\d)|{re.escape(ROI_STAGE[:-1])})\.0\.conv2\.offset\.weight")
    if offsets := {m[1] or "res5": tensors[name] for name in tensors if (m := offset.fullmatch(name))}:
        needs["MODEL.BACKBONE.DEFORM_STAGES"] = tuple(sorted(offsets))
        needs["MODEL.BACKBONE.DEFORM_MODULATED"] = all(len(weight) == 3 * TAPS for weight in offsets.values())
    return needs


def trunk_alone(needs: Mapping[str, Any]) -> dict[str, Any]:
    """The needs of a trunk without a detector: from statistics any batch norm may start, so none is asked for."""
    return {key: value for key, value in needs.items() if key != "MODEL.BACKBONE.NORM" or value == "GN"}


def detector_needs(
    tensors: Renamed,
    *,
    sampling_ratio: int,
    batch_norm: str = "FrozenBN",
    size_rounding: str = "half_up",
    keypoint_score: str = "logit",
) -> dict[str, Any]:
    """The keys of neck and heads, for those that there are, and of the input.

    Args:
        sampling_ratio: samples per bin and axis, of heads on a pyramid or res5; those on res4 adapt to the box.
        batch_norm: which kind it is, where a norm has statistics.
        size_rounding: of a resized image's sides.
        keypoint_score: of a keypoint.

    Raises:
        ImportFailed: boxes that are the same for all classes; a predictor without boxes.
    """
    needs: dict[str, Any] = {"INPUT.SIZE_ROUNDING": size_rounding}
    if "neck.output.res2.weight" in tensors:
        needs["MODEL.NECK.NORM"] = norm_of(tensors, "neck.output.res2", batch_norm)
    if "roi_heads.box_head.logits.bias" not in tensors:  # proposals alone
        return needs
    classes = len(tensors["roi_heads.box_head.logits.bias"]) - 1
    if (deltas := len(tensors["roi_heads.box_head.deltas.bias"])) != 4 * classes:
        raise ImportFailed(f"{deltas} box deltas for {classes} classes; only 4 for each of them have a place here")
    needs["MODEL.NUM_CLASSES"] = classes
    heads = "MODEL.ROI_HEADS"
    if convs := sum(re.fullmatch(BOX_CONV, name) is not None for name in tensors):
        needs |= {
            f"{heads}.BOX_HEAD.NAME": "ConvFCBoxHead",
            f"{heads}.BOX_HEAD.NUM_CONVS": convs,
            f"{heads}.BOX_HEAD.NORM": norm_of(tensors, "roi_heads.box_head.convs.0.blocks.0.0", batch_norm),
        }
    masks = tensors.get("roi_heads.mask_head.predictor.bias")
    if "roi_heads.mask_head.convs.0.blocks.0.0.weight" in tensors:
        needs[f"{heads}.MASK_HEAD.NORM"] = norm_of(tensors, "roi_heads.mask_head.convs.0.blocks.0.0", batch_norm)
    if masks is not None and len(masks) == 1 < classes:
        needs[f"{heads}.MASK_HEAD.PREDICTS"] = "agnostic"
    if f"{ROI_STAGE}0.conv1.weight" in tensors:
        needs |= {
            f"{heads}.POOLER.SIZE": 14,
            f"{heads}.POOLER.SAMPLING_RATIO": 0,
            f"{heads}.ROI_STAGE.STRIDE": 2,
        }
        return needs
    needs[f"{heads}.BOX_POOLER.SAMPLING_RATIO"] = sampling_ratio
    if masks is not None:
        needs[f"{heads}.MASK_POOLER.SAMPLING_RATIO"] = sampling_ratio
    if "roi_heads.keypoint_head.deconv.bias" in tensors:
        needs[f"{heads}.KEYPOINT_POOLER.SAMPLING_RATIO"] = sampling_ratio
        needs[f"{heads}.KEYPOINT_HEAD.SCORE"] = keypoint_score
    return needs


def size_outer(tensors: Renamed, ratios: int = 3) -> None:
    """Order a cell's anchors by size, then by ratio, as ours are, from by ratio, then by size; in place.

    On a pyramid there is one size at each level, and nothing to move.

    Raises:
        ImportFailed: their number is no multiple of `ratios`, or a tensor is missing.
    """
    for kind in ("weight", "bias"):
        objectness, deltas = tensors[f"proposals.objectness.{kind}"], tensors[f"proposals.deltas.{kind}"]
        if "neck.output.res2.weight" in tensors:
            continue
        if len(objectness) % ratios:
            raise ImportFailed(f"{len(objectness)} anchors at a cell, which is no multiple of the {ratios} ratios")
        order = torch.arange(len(objectness)).view(ratios, -1).T.flatten()
        tensors[f"proposals.objectness.{kind}"] = objectness[order]
        tensors[f"proposals.deltas.{kind}"] = deltas.unflatten(0, (-1, 4))[order].flatten(0, 1)
