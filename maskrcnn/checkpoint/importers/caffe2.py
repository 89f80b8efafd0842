"""Detectron's (Caffe2's) weights: trunks, also Detectron2's; RPN, and Faster, Mask and Keypoint R-CNN with C4 or FPN.

Blobs are called `res2_0_branch2a_w`, `fpn_inner_res4_5_sum_lateral_b`, `conv_rpn_fpn2_w`, `_[mask]_fcn1_w`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from maskrcnn.checkpoint.importers.classes import class_facts
from maskrcnn.checkpoint.importers.names import Table, background_last, head_conv, refuse, rename
from maskrcnn.checkpoint.importers.needs import (
    DETECTRON_MEAN,
    IMAGENET_MEAN,
    IMAGENET_STD,
    NO_STD,
    detector_needs,
    res5_to_roi_stage,
    reverse_colours,
    size_outer,
    trunk_alone,
    trunk_needs,
)
from maskrcnn.checkpoint.importers.weights import Renamed, Weights

LAYOUT = (
    "Detectron's (Caffe2's) weights; known are ResNets and ResNeXts, alone, with an RPN, or as Faster, Mask and "
    "Keypoint R-CNN with C4 or FPN"
)
STEM = "backbone.stem.conv1"
EPS = 1e-5  # of our norms
CONVS = {"2a": "conv1", "2b": "conv2", "2c": "conv3", "1": "shortcut"}
LEVEL = {"inner_": "lateral", "": "output"}
# What a blob's name ends in. Detectron folds a norm's statistics into scale and shift; Detectron2's trunks keep them.
SUFFIX = re.compile(r"(.+?)(_[bg]n)?_(w|b|s|gamma|beta|rm|running_mean|riv|running_var)")
KINDS = {
    **dict.fromkeys(("w", "s", "gamma"), "weight"),
    **dict.fromkeys(("b", "beta"), "bias"),
    **dict.fromkeys(("rm", "running_mean"), "running_mean"),
    **dict.fromkeys(("riv", "running_var"), "running_var"),
}
KIND = r"\.(weight|bias|norm\.\w+)"

# `(?:_fpn\d)?`: of the finest level, whose weights all levels share.
NAMES: Table = (
    (r"(?:res_)?conv1\.(weight|norm\.\w+)", r"backbone.stem.conv1.\1"),
    (
        r"(res\d)_(\d+)_branch(2a|2b|2c|1)\.(weight|norm\.\w+)",
        lambda m: f"backbone.stages.{m[1]}.{m[2]}.{CONVS[m[3]]}.{m[4]}",
    ),
    (r"fpn_(inner_|)(res\d)_\d+_sum(?:_lateral)?" + KIND, lambda m: f"neck.{LEVEL[m[1]]}.{m[2]}.{m[3]}"),
    (r"conv_rpn(?:_fpn\d)?" + KIND, r"proposals.conv.\1"),
    (r"rpn_cls_logits(?:_fpn\d)?" + KIND, r"proposals.objectness.\1"),
    (r"rpn_bbox_pred(?:_fpn\d)?" + KIND, r"proposals.deltas.\1"),
    (r"fc6" + KIND, r"roi_heads.box_head.fc1.blocks.0.\1"),
    (r"fc7" + KIND, r"roi_heads.box_head.fc2.\1"),
    (r"head_conv(\d)" + KIND, lambda m: head_conv("box_head", int(m[1]) - 1, m[2])),
    (r"cls_score" + KIND, r"roi_heads.box_head.logits.\1"),
    (r"bbox_pred" + KIND, r"roi_heads.box_head.deltas.\1"),
    (r"_(?:\[mask\]|mask)_fcn(\d)" + KIND, lambda m: head_conv("mask_head", int(m[1]) - 1, m[2])),
    (r"conv5_mask" + KIND, r"roi_heads.mask_head.deconv.\1"),
    (r"mask_fcn_logits" + KIND, r"roi_heads.mask_head.predictor.\1"),
    (r"conv_fcn(\d)" + KIND, lambda m: head_conv("keypoint_head", int(m[1]) - 1, m[2])),
    (r"kps_score_lowres" + KIND, r"roi_heads.keypoint_head.deconv.\1"),
)
# Behind convolutions a box head's linear layer has another name than without.
CONV_BOX_HEAD: Table = ((r"fc6" + KIND, r"roi_heads.box_head.fcs.0.\1"),)
# The classifier's layer, the optimizer's momentum, and the bilinear upsampling of keypoints, written as a convolution.
NOT_WEIGHTS = r"(pred|fc1000|kps_score)_[wb]|.*_momentum"
OTHER_SYSTEMS = (
    (r"retnet_.*", "RetinaNet's head"),
    (r"_\[mask\]_res\d.*", "a res5 for masks alone"),
)


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Whether there is a trunk of Detectron's names."""
    return "res2_0_branch2a_w" in state


def convert(state: Mapping[str, Tensor], content: Mapping[str, Any]) -> Weights:
    """Detectron's blobs -> our names: colours in the order RGB, background last, anchors size by size.

    Raises:
        ImportFailed: tensors without a place here, or missing.
    """
    refuse(state, OTHER_SYSTEMS, LAYOUT)
    blobs = {
        _spelt_out(name): tensor
        for name, tensor in state.items()
        if name != "conv1_b" and not re.fullmatch(NOT_WEIGHTS, name)
    }
    convs = "head_conv1_w" in state
    tensors = rename(blobs, (*(CONV_BOX_HEAD if convs else ()), *NAMES), "", LAYOUT)
    has_statistics = f"{STEM}.norm.running_mean" in tensors
    if "conv1_gn_s" not in state:
        _give_statistics(tensors)
        if "conv1_b" in state:  # a bias before a norm is a shift of its mean
            tensors[f"{STEM}.norm.running_mean"] = tensors[f"{STEM}.norm.running_mean"] - state["conv1_b"]
    reverse_colours(tensors)
    if "cls_score_w" in state and "fc6_w" not in state:
        tensors = res5_to_roi_stage(tensors)
    if "proposals.objectness.weight" in tensors:
        size_outer(tensors)
    if "cls_score_w" in state:
        background_last(tensors)
    needs = trunk_needs(tensors)
    needs |= {"MODEL.PIXEL_MEAN": DETECTRON_MEAN, "MODEL.PIXEL_STD": NO_STD}
    if has_statistics:  # a trunk of Detectron2, which has deviations for the X-101-32x8d alone
        needs["MODEL.PIXEL_MEAN"] = IMAGENET_MEAN
        needs["MODEL.PIXEL_STD"] = IMAGENET_STD if needs["MODEL.BACKBONE.GROUPS"] == 32 else NO_STD
    if all(name.startswith("backbone.") for name in tensors):
        if has_statistics:  # folded ones are none to start from
            needs = trunk_alone(needs)
        return Weights(tensors=tensors, source="Detectron trunk", needs=needs)
    needs |= detector_needs(tensors, sampling_ratio=2)
    needs["MODEL.CONVENTIONS"] = "maskrcnn_benchmark"  # the same arithmetic
    return Weights(tensors=tensors, source="Detectron detector", needs=needs, **class_facts(tensors))


def _spelt_out(blob: str) -> str:
    """`fc6_w` -> fc6.weight; `res_conv1_bn_s` -> res_conv1.norm.weight."""
    found = SUFFIX.fullmatch(blob)
    return f"{found[1]}.{'norm.' if found[2] else ''}{KINDS[found[3]]}" if found else blob


def _give_statistics(tensors: Renamed) -> None:
    """Where a trunk's norm has none, those with which one of `EPS` is its scale and shift alone."""
    for norm in [name.removesuffix("weight") for name in tensors if re.fullmatch(r"backbone\..*norm\.weight", name)]:
        if f"{norm}running_var" not in tensors:
            tensors[f"{norm}running_mean"] = torch.zeros_like(tensors[f"{norm}weight"])
            tensors[f"{norm}running_var"] = torch.full_like(tensors[f"{norm}weight"], 1 - EPS)
