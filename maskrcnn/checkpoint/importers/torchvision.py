"""torchvision's weights: ResNet, ResNeXt classifiers; Faster, Mask and Keypoint R-CNN with a ResNet-FPN, v1 and v2."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import torchvision
from torch import Tensor

from maskrcnn.checkpoint.importers.names import background_last, head_conv, rename
from maskrcnn.checkpoint.importers.needs import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    detector_needs,
    trunk_alone,
    trunk_needs,
)
from maskrcnn.checkpoint.importers.weights import ImportFailed, Renamed, Weights

BODY = "backbone.body."
SCHEME = "torchvision://"
LAYOUT = (
    "torchvision's weights; known are ResNet classifiers, fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn, their _v2, "
    "and keypointrcnn_resnet50_fpn"
)
EPS = 1e-5  # of our norms
COCO_CLASSES = 91  # torchvision numbers COCO's classes by their original ids 1..90, 10 of which do not exist

TRUNK = (
    (r"conv1\.weight", r"stem.conv1.weight"),
    (r"bn1\.(\w+)", r"stem.conv1.norm.\1"),
    (r"layer(\d)\.(\d+)\.conv(\d)\.weight", lambda m: f"stages.res{int(m[1]) + 1}.{m[2]}.conv{m[3]}.weight"),
    (r"layer(\d)\.(\d+)\.bn(\d)\.(\w+)", lambda m: f"stages.res{int(m[1]) + 1}.{m[2]}.conv{m[3]}.norm.{m[4]}"),
    (r"layer(\d)\.(\d+)\.downsample\.0\.weight", lambda m: f"stages.res{int(m[1]) + 1}.{m[2]}.shortcut.weight"),
    (r"layer(\d)\.(\d+)\.downsample\.1\.(\w+)", lambda m: f"stages.res{int(m[1]) + 1}.{m[2]}.shortcut.norm.{m[3]}"),
)
FPN = {"inner": "lateral", "layer": "output"}
# `(?:\.0)?`: since 0.13 a convolution stands in a container of its own, before its norm if it has one (`_v2`); released
# v1 weights keep the old names.
DETECTOR = (
    (
        r"backbone\.fpn\.(inner|layer)_blocks\.(\d)(?:\.0)?\.(weight|bias)",
        lambda m: f"neck.{FPN[m[1]]}.res{int(m[2]) + 2}.{m[3]}",
    ),
    (
        r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.1\.(\w+)",
        lambda m: f"neck.{FPN[m[1]]}.res{int(m[2]) + 2}.norm.{m[3]}",
    ),
    (r"rpn\.head\.conv(?:\.0\.0)?\.(weight|bias)", r"proposals.conv.\1"),
    (r"rpn\.head\.conv\.(\d)\.0\.(weight|bias)", lambda m: f"proposals.more_convs.{int(m[1]) - 1}.{m[2]}"),
    (r"rpn\.head\.cls_logits\.(weight|bias)", r"proposals.objectness.\1"),
    (r"rpn\.head\.bbox_pred\.(weight|bias)", r"proposals.deltas.\1"),
    (r"roi_heads\.box_head\.fc6\.(weight|bias)", r"roi_heads.box_head.fc1.blocks.0.\1"),
    (r"roi_heads\.box_head\.fc7\.(weight|bias)", r"roi_heads.box_head.fc2.\1"),
    (r"roi_heads\.box_head\.(\d+)\.(weight|bias)", r"roi_heads.box_head.fcs.0.\2"),
    (r"roi_heads\.box_predictor\.cls_score\.(weight|bias)", r"roi_heads.box_head.logits.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(weight|bias)", r"roi_heads.box_head.deltas.\1"),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.(weight|bias)", lambda m: head_conv("mask_head", int(m[1]) - 1, m[2])),
    (r"roi_heads\.(box|mask)_head\.(\d)\.0\.(weight|bias)", lambda m: head_conv(f"{m[1]}_head", int(m[2]), m[3])),
    (r"roi_heads\.(box|mask)_head\.(\d)\.1\.(\w+)", lambda m: head_conv(f"{m[1]}_head", int(m[2]), f"norm.{m[3]}")),
    (r"roi_heads\.mask_predictor\.conv5_mask\.(weight|bias)", r"roi_heads.mask_head.deconv.\1"),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.(weight|bias)", r"roi_heads.mask_head.predictor.\1"),
    # ReLUs stand between these convolutions, and have a number too.
    (r"roi_heads\.keypoint_head\.(\d+)\.(weight|bias)", lambda m: head_conv("keypoint_head", int(m[1]) // 2, m[2])),
    (r"roi_heads\.keypoint_predictor\.kps_score_lowres\.(weight|bias)", r"roi_heads.keypoint_head.deconv.\1"),
)


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of a torchvision ResNet, or of a detector around one."""
    return "layer1.0.conv1.weight" in state or "backbone.body.layer1.0.conv1.weight" in state


def convert(state: Mapping[str, Tensor], content: Mapping[str, Any]) -> Weights:
    """A torchvision state dict -> our names, background last.

    Raises:
        ImportFailed: tensors without a place here, or missing.
    """
    always = {
        "MODEL.PIXEL_MEAN": IMAGENET_MEAN,
        "MODEL.PIXEL_STD": IMAGENET_STD,
        "MODEL.BACKBONE.STRIDE_IN_1X1": False,
    }
    if "layer1.0.conv1.weight" in state:
        trunk = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
        tensors = rename(trunk, TRUNK, "backbone.", LAYOUT)
        needs = trunk_alone(trunk_needs(tensors)) | always
        return Weights(tensors=tensors, source="torchvision ResNet classifier", needs=needs)
    detector = {name: tensor for name, tensor in state.items() if not name.startswith(BODY)}
    body = {name.removeprefix(BODY): tensor for name, tensor in state.items() if name.startswith(BODY)}
    tensors = rename(body, TRUNK, "backbone.", LAYOUT)
    if "backbone.fpn.inner_blocks.0.weight" in state:
        # The names of released v1 weights, which torchvision runs with eps 0 in the norms.
        fold_zero_eps(tensors)
    tensors |= rename(detector, DETECTOR, "", LAYOUT)
    background_last(tensors)
    rows = len(tensors["roi_heads.box_head.logits.bias"])
    names = coco_names() if rows == COCO_CLASSES else None
    if rows == 2 and "roi_heads.keypoint_head.deconv.weight" in tensors:
        names = ("person",)
    needs = trunk_needs(tensors) | always
    needs |= detector_needs(tensors, sampling_ratio=2, batch_norm="BN", size_rounding="down")
    if needs["MODEL.NECK.NORM"]:  # `_v2`; all norms are of one kind there
        needs["MODEL.BACKBONE.NORM"] = needs["MODEL.NECK.NORM"]
    if more := sum(re.fullmatch(r"proposals\.more_convs\.\d+\.weight", name) is not None for name in tensors):
        needs["MODEL.PROPOSALS.NUM_CONVS"] = 1 + more
    needs["MODEL.CONVENTIONS"] = "torchvision"
    ids = tuple(range(1, rows))
    return Weights(tensors=tensors, source="torchvision detector", class_names=names, category_ids=ids, needs=needs)


def fold_zero_eps(tensors: Renamed) -> None:
    """Make a norm with `EPS` act as one with eps 0: w / sqrt(var) = w' / sqrt(var + EPS)."""
    for name in [n for n in tensors if n.endswith("norm.running_var")]:
        variance = tensors[name]
        weight = name.replace("running_var", "weight")
        tensors[weight] = tensors[weight] * ((variance + EPS) / variance).sqrt()


def coco_names() -> tuple[str, ...]:
    weights = torchvision.models.get_weight("MaskRCNN_ResNet50_FPN_Weights.COCO_V1")
    return tuple(weights.meta["categories"][1:])


def read_named(spec: str) -> dict[str, Tensor]:
    """`torchvision://ResNet50_Weights.IMAGENET1K_V1` -> its state dict, downloaded once and checked by torchvision.

    Raises:
        ImportFailed: no such name, or neither a cached file nor a network.
    """
    name = spec.removeprefix(SCHEME)
    try:
        weights = torchvision.models.get_weight(name)
    except (ValueError, AttributeError) as error:
        raise ImportFailed(
            f"MODEL.WEIGHTS: torchvision has no weights {name!r}, an example is ResNet50_Weights.IMAGENET1K_V1"
        ) from error
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True, weights_only=True))
    except (OSError, RuntimeError) as error:  # no network, or a file with another hash
        raise ImportFailed(
            f"MODEL.WEIGHTS: {spec} is not in {torch.hub.get_dir()}/checkpoints and cannot be downloaded ({error}). "
            f"Put {weights.url.rsplit('/', 1)[-1]} there, or give the path of the file as MODEL.WEIGHTS "
            f"(it comes from {weights.url}), or train from scratch with MODEL.WEIGHTS '' and a trainable NORM"
        ) from error
