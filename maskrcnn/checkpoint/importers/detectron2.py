"""Detectron2's weights: trunks, RPN, and Faster, Mask and Keypoint R-CNN with C4, DC5 or FPN."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from maskrcnn.checkpoint.importers.classes import class_facts
from maskrcnn.checkpoint.importers.names import Table, head_conv, refuse, rename
from maskrcnn.checkpoint.importers.needs import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    NO_STD,
    ROI_STAGE,
    detector_needs,
    res5_to_roi_stage,
    reverse_colours,
    trunk_alone,
    trunk_needs,
)
from maskrcnn.checkpoint.importers.weights import Renamed, Weights

LAYOUT = (
    "Detectron2's weights; known are ResNets and ResNeXts, alone, with an RPN, or as Faster, Mask and Keypoint R-CNN "
    "with C4, DC5 or FPN"
)
ZOO = "Detectron2 Model Zoo"  # who is named as the author in released files
TRUNK = r"(?:backbone\.(?:bottom_up\.)?|roi_heads\.(?=res5\.))?"  # alone; of a detector; of C4, in its heads
LAYER = r"\.(weight|bias)"
TRUNK_PLACES = ("backbone.", ROI_STAGE)

NAMES: Table = (
    (TRUNK + r"stem\.conv1\.(weight|norm\.\w+)", r"backbone.stem.conv1.\1"),
    (TRUNK + r"(res\d\.\d+\.(?:conv\d|shortcut)\.(?:weight|norm\.\w+))", r"backbone.stages.\1"),
    (TRUNK + r"(res\d\.\d+)\.conv2_offset" + LAYER, r"backbone.stages.\1.conv2.offset.\2"),
    (r"backbone\.fpn_(lateral|output)(\d)\.(weight|bias|norm\.\w+)", r"neck.\1.res\2.\3"),
    (r"proposal_generator\.rpn_head\.conv" + LAYER, r"proposals.conv.\1"),
    (r"proposal_generator\.rpn_head\.objectness_logits" + LAYER, r"proposals.objectness.\1"),
    (r"proposal_generator\.rpn_head\.anchor_deltas" + LAYER, r"proposals.deltas.\1"),
    (r"roi_heads\.box_head\.fc1" + LAYER, r"roi_heads.box_head.fc1.blocks.0.\1"),
    (r"roi_heads\.box_head\.fc2" + LAYER, r"roi_heads.box_head.fc2.\1"),
    (r"roi_heads\.box_predictor\.cls_score" + LAYER, r"roi_heads.box_head.logits.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred" + LAYER, r"roi_heads.box_head.deltas.\1"),
    (
        r"roi_heads\.(?:(box|mask)_head\.(?:conv|mask_fcn)|(keypoint)_head\.conv_fcn)(\d)\.(weight|bias|norm\.\w+)",
        lambda m: head_conv(f"{m[1] or m[2]}_head", int(m[3]) - 1, m[4]),
    ),
    (r"roi_heads\.mask_head\.(deconv|predictor)" + LAYER, r"roi_heads.mask_head.\1.\2"),
    (r"roi_heads\.keypoint_head\.score_lowres" + LAYER, r"roi_heads.keypoint_head.deconv.\1"),
)
# Behind convolutions a box head's linear layers have other names than without.
CONV_BOX_HEAD: Table = (
    (r"roi_heads\.box_head\.fc(\d)" + LAYER, lambda m: f"roi_heads.box_head.fcs.{int(m[1]) - 1}.{m[2]}"),
)
NOT_WEIGHTS = r"pixel_mean|pixel_std|proposal_generator\.anchor_generator\..*|(stem\.fc|linear)\.(weight|bias)"
OTHER_SYSTEMS = (
    (r"head\.(cls|bbox)_(subnet|score|pred)\..*", "RetinaNet's head"),
    (r"roi_heads\.box_(head|predictor)\.\d\..*", "the stages of Cascade R-CNN's box head"),
    (r"roi_heads\.mask_(point|coarse)_head\..*|roi_heads\.mask_head\.(point|coarse)_head\..*", "PointRend's mask head"),
    (r"sem_seg_head\..*", "a head for semantic segmentation"),
    (r"roi_heads\.densepose_\w+\..*", "DensePose's head"),
)


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Whether there is a trunk of Detectron2's names, or an RPN."""
    trunks = ("res2.0.conv1.weight", "backbone.res2.0.conv1.weight", "backbone.bottom_up.res2.0.conv1.weight")
    parts = ("backbone.bottom_up.", "proposal_generator.rpn_head.")
    return any(name in state for name in trunks) or any(name.startswith(parts) for name in state)


def convert(state: Mapping[str, Tensor], content: Mapping[str, Any]) -> Weights:
    """A Detectron2 state dict -> our names, colours in the order RGB.

    Args:
        content: what else the file holds: `__author__`, where there is one.

    Raises:
        ImportFailed: tensors without a place here, or missing.
    """
    refuse(state, OTHER_SYSTEMS, LAYOUT)
    named = {name: tensor for name, tensor in state.items() if not re.fullmatch(NOT_WEIGHTS, name)}
    convs = "roi_heads.box_head.conv1.weight" in state
    tensors = rename(named, (*(CONV_BOX_HEAD if convs else ()), *NAMES), "", LAYOUT)
    if any(name.startswith("roi_heads.res5.") for name in state):
        tensors = res5_to_roi_stage(tensors)
    if all(name.startswith("backbone.") for name in tensors):
        needs = trunk_alone(trunk_needs(tensors)) | colour_needs(state, content, tensors)
        return Weights(tensors=tensors, source="Detectron2 trunk", needs=needs)
    norms_elsewhere = {name for name in tensors if ".norm." in name and not name.startswith(TRUNK_PLACES)}
    if not norms_elsewhere:
        _give_statistics(tensors)
    needs = trunk_needs(tensors) | colour_needs(state, content, tensors)
    needs |= detector_needs(tensors, sampling_ratio=0, batch_norm="SyncBN", keypoint_score="probability")
    counted = any(name.endswith("num_batches_tracked") for name in state)
    trained_norms = counted or any(name.endswith("running_mean") for name in norms_elsewhere)
    if trained_norms and needs["MODEL.BACKBONE.NORM"] == "FrozenBN":
        needs["MODEL.BACKBONE.NORM"] = "SyncBN"
    needs["MODEL.CONVENTIONS"] = "detectron2"
    presumed: frozenset[str] = frozenset()
    if needs["MODEL.BACKBONE.NORM"] != "FrozenBN":  # the zoo's have their stride in the 3x3
        needs["MODEL.BACKBONE.STRIDE_IN_1X1"] = False
        if "pixel_std" not in state:  # and those from scratch may have deviations
            presumed = frozenset(["MODEL.PIXEL_STD"])
    if "backbone.stages.res5.0.conv1.weight" in tensors and "neck.output.res2.weight" not in tensors:
        needs["MODEL.BACKBONE.RES5_DILATION"] = 2  # DC5
    facts = class_facts(tensors, cityscapes=content.get("__author__") == ZOO)
    return Weights(tensors=tensors, source="Detectron2 detector", needs=needs, presumed=presumed, **facts)


def _give_statistics(tensors: Renamed) -> None:
    """A trunk's norms without statistics get 0 and 1, as Detectron2 fills them in for its FrozenBN."""
    for weight in [name for name in tensors if name.startswith(TRUNK_PLACES) and name.endswith(".norm.weight")]:
        norm = weight.removesuffix("weight")
        if f"{norm}running_mean" not in tensors:
            tensors[f"{norm}running_mean"] = torch.zeros_like(tensors[weight])
            tensors[f"{norm}running_var"] = torch.ones_like(tensors[weight])


def colour_needs(state: Mapping[str, Tensor], content: Mapping[str, Any], tensors: Renamed) -> dict[str, Any]:
    """The keys of the images' colours; a stem for BGR, Detectron2's order, is made one for RGB in `tensors`.

    Old files hold mean and deviation, which tell the order: blue's mean is the lowest. A trunk whose author is
    torchvision takes RGB. Otherwise they are Detectron2's defaults, with deviations for the X-101-32x8d alone.

    Images were divided by deviations for trunks from elsewhere than MSRA, which have their stride in the 3x3.
    """
    mean, std = IMAGENET_MEAN, NO_STD
    bgr = content.get("__author__") != "torchvision"
    if not bgr or trunk_needs(tensors)["MODEL.BACKBONE.GROUPS"] == 32:
        std = IMAGENET_STD
    if "pixel_mean" in state and "pixel_std" in state:
        mean, std = (tuple(round(v, 4) for v in state[f"pixel_{n}"].flatten().tolist()) for n in ("mean", "std"))
        bgr = mean[0] <= mean[2]
        mean, std = (mean[::-1], std[::-1]) if bgr else (mean, std)
    if bgr:
        reverse_colours(tensors)
    needs = {"MODEL.PIXEL_MEAN": mean, "MODEL.PIXEL_STD": std}
    return needs if std == NO_STD else {**needs, "MODEL.BACKBONE.STRIDE_IN_1X1": False}
