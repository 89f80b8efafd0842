"""maskrcnn-benchmark's weights: RPN, and Faster, Mask and Keypoint R-CNN with C4 or FPN."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from maskrcnn.checkpoint.importers import torchvision
from maskrcnn.checkpoint.importers.classes import class_facts
from maskrcnn.checkpoint.importers.names import Table, background_last, head_conv, refuse, rename
from maskrcnn.checkpoint.importers.needs import (
    DETECTRON_MEAN,
    NO_STD,
    detector_needs,
    res5_to_roi_stage,
    reverse_colours,
    size_outer,
    trunk_needs,
)
from maskrcnn.checkpoint.importers.weights import ImportFailed, Weights

LAYOUT = (
    "maskrcnn-benchmark's weights; known are an RPN, and Faster, Mask and Keypoint R-CNN on a ResNet or ResNeXt with "
    "C4 or FPN"
)
LAYER = r"\.(weight|bias)"
BODY = "backbone.body."
RES5, RES5_OF_MASKS = "roi_heads.box.feature_extractor.head.", "roi_heads.mask.feature_extractor.head."
FPN = {"inner": "lateral", "layer": "output"}

TRUNK: Table = (
    *((rf"(?:stem\.)?{pattern}", new) for pattern, new in torchvision.TRUNK),
    # deformable
    (r"layer(\d)\.(\d+)\.conv2\.conv\.weight", lambda m: f"stages.res{int(m[1]) + 1}.{m[2]}.conv2.weight"),
    (r"layer(\d)\.(\d+)\.conv2\.offset" + LAYER, lambda m: f"stages.res{int(m[1]) + 1}.{m[2]}.conv2.offset.{m[3]}"),
)
# With GN, a convolution stands in a container before it: .0 and .1.
DETECTOR: Table = (
    (
        r"backbone\.fpn\.fpn_(inner|layer)(\d)(?:\.0)?" + LAYER,
        lambda m: f"neck.{FPN[m[1]]}.res{int(m[2]) + 1}.{m[3]}",
    ),
    (
        r"backbone\.fpn\.fpn_(inner|layer)(\d)\.1" + LAYER,
        lambda m: f"neck.{FPN[m[1]]}.res{int(m[2]) + 1}.norm.{m[3]}",
    ),
    (r"rpn\.head\.conv" + LAYER, r"proposals.conv.\1"),
    (r"rpn\.head\.cls_logits" + LAYER, r"proposals.objectness.\1"),
    (r"rpn\.head\.bbox_pred" + LAYER, r"proposals.deltas.\1"),
    (r"roi_heads\.box\.feature_extractor\.fc6" + LAYER, r"roi_heads.box_head.fc1.blocks.0.\1"),
    (r"roi_heads\.box\.feature_extractor\.fc7" + LAYER, r"roi_heads.box_head.fc2.\1"),
    (r"roi_heads\.box\.predictor\.cls_score" + LAYER, r"roi_heads.box_head.logits.\1"),
    (r"roi_heads\.box\.predictor\.bbox_pred" + LAYER, r"roi_heads.box_head.deltas.\1"),
    (
        r"roi_heads\.mask\.feature_extractor\.mask_fcn(\d)(?:\.0)?" + LAYER,
        lambda m: head_conv("mask_head", int(m[1]) - 1, m[2]),
    ),
    (
        r"roi_heads\.mask\.feature_extractor\.mask_fcn(\d)\.1" + LAYER,
        lambda m: head_conv("mask_head", int(m[1]) - 1, f"norm.{m[2]}"),
    ),
    (r"roi_heads\.mask\.predictor\.conv5_mask" + LAYER, r"roi_heads.mask_head.deconv.\1"),
    (r"roi_heads\.mask\.predictor\.mask_fcn_logits" + LAYER, r"roi_heads.mask_head.predictor.\1"),
    (
        r"roi_heads\.keypoint\.feature_extractor\.conv_fcn(\d)" + LAYER,
        lambda m: head_conv("keypoint_head", int(m[1]) - 1, m[2]),
    ),
    (r"roi_heads\.keypoint\.predictor\.kps_score_lowres" + LAYER, r"roi_heads.keypoint_head.deconv.\1"),
)
XCONVS = "roi_heads.box.feature_extractor.xconvs"
OTHER_SYSTEMS = ((r"rpn\.head\.(cls|bbox)_tower\..*", "RetinaNet's head"),)


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Whether there is a trunk of maskrcnn-benchmark's names: torchvision's, but for the stem."""
    return f"{BODY}stem.conv1.weight" in state


def convert(state: Mapping[str, Tensor], content: Mapping[str, Any]) -> Weights:
    """A maskrcnn-benchmark state dict -> our names: colours in the order RGB, background last, anchors size by size.

    Raises:
        ImportFailed: tensors without a place here, or missing.
    """
    refuse(state, OTHER_SYSTEMS, LAYOUT)
    trunk: dict[str, Tensor] = {}
    detector: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith(RES5_OF_MASKS):  # the box head's, under a second name
            same = state.get(RES5 + name.removeprefix(RES5_OF_MASKS))
            if same is None or not torch.equal(same, tensor):
                raise ImportFailed(f"{name}: a res5 for masks alone has no place here. This looks like {LAYOUT}")
        elif name.startswith((BODY, RES5)):
            trunk[name.removeprefix(BODY).removeprefix(RES5)] = tensor
        elif not re.fullmatch(r"rpn\.anchor_generator\..*", name):
            detector[name] = tensor
    tensors = rename(trunk, TRUNK, "backbone.", LAYOUT)
    if f"{RES5}layer4.0.conv1.weight" in state:
        tensors = res5_to_roi_stage(tensors)
    torchvision.fold_zero_eps(tensors)
    reverse_colours(tensors)
    tensors |= rename(detector, (*_conv_box_head(state), *DETECTOR), "", LAYOUT)
    if "proposals.objectness.weight" in tensors:
        size_outer(tensors)
    if any(name.startswith("roi_heads.") for name in detector):
        background_last(tensors)
    needs = trunk_needs(tensors) | detector_needs(tensors, sampling_ratio=2, size_rounding="longer_down")
    return Weights(
        tensors=tensors,
        source="maskrcnn-benchmark detector",
        needs={
            **needs,
            "MODEL.PIXEL_MEAN": DETECTRON_MEAN,
            "MODEL.PIXEL_STD": NO_STD,
            "MODEL.CONVENTIONS": "maskrcnn_benchmark",
        },
        **class_facts(tensors),
    )


def _conv_box_head(state: Mapping[str, Tensor]) -> Table:
    """Names of a box head of convolutions: in one sequence with their norms, if there are any, and their ReLUs."""
    if f"{XCONVS}.0.weight" not in state:
        return ()
    each = 3 if f"{XCONVS}.1.weight" in state else 2
    kind = {0: "", 1: "norm."}
    return (
        (
            re.escape(XCONVS) + r"\.(\d+)" + LAYER,
            lambda m: head_conv("box_head", int(m[1]) // each, kind[int(m[1]) % each] + m[2]),
        ),
        (r"roi_heads\.box\.feature_extractor\.fc6" + LAYER, r"roi_heads.box_head.fcs.0.\1"),
    )
