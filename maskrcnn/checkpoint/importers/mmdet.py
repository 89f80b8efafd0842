"""MMDetection's weights (2.x and 3.x): RPN, Faster and Mask R-CNN with C4 or FPN."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from maskrcnn.checkpoint.importers import torchvision
from maskrcnn.checkpoint.importers.classes import class_facts
from maskrcnn.checkpoint.importers.names import Table, head_conv, refuse, rename
from maskrcnn.checkpoint.importers.needs import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    detector_needs,
    res5_to_roi_stage,
    reverse_colours,
    size_outer,
    trunk_needs,
)
from maskrcnn.checkpoint.importers.weights import ImportFailed, Weights

LAYOUT = (
    "MMDetection's weights; known are an RPN, and Faster and Mask R-CNN on a ResNet or ResNeXt with C4 or FPN, of "
    "versions 2 and 3"
)
LAYER = r"\.(weight|bias)"
NORM = r"\.(?:bn|gn)\.(\w+)"
RES5 = "roi_head.shared_head."
FPN = {"lateral_convs": "lateral", "fpn_convs": "output"}

TRUNK: Table = (
    *((pattern.replace("bn", "(?:bn|gn)"), new) for pattern, new in torchvision.TRUNK),
    (
        r"layer(\d)\.(\d+)\.conv2\.conv_offset" + LAYER,
        lambda m: f"stages.res{int(m[1]) + 1}.{m[2]}.conv2.offset.{m[3]}",
    ),
)
DETECTOR: Table = (
    (
        r"neck\.(lateral_convs|fpn_convs)\.(\d)\.conv" + LAYER,
        lambda m: f"neck.{FPN[m[1]]}.res{int(m[2]) + 2}.{m[3]}",
    ),
    (
        r"neck\.(lateral_convs|fpn_convs)\.(\d)" + NORM,
        lambda m: f"neck.{FPN[m[1]]}.res{int(m[2]) + 2}.norm.{m[3]}",
    ),
    (r"rpn_head\.rpn_conv" + LAYER, r"proposals.conv.\1"),
    (r"rpn_head\.rpn_cls" + LAYER, r"proposals.objectness.\1"),
    (r"rpn_head\.rpn_reg" + LAYER, r"proposals.deltas.\1"),
    (r"roi_head\.bbox_head\.fc_cls" + LAYER, r"roi_heads.box_head.logits.\1"),
    (r"roi_head\.bbox_head\.fc_reg" + LAYER, r"roi_heads.box_head.deltas.\1"),
    (r"roi_head\.mask_head\.convs\.(\d)\.conv" + LAYER, lambda m: head_conv("mask_head", int(m[1]), m[2])),
    (r"roi_head\.mask_head\.convs\.(\d)" + NORM, lambda m: head_conv("mask_head", int(m[1]), f"norm.{m[2]}")),
    (r"roi_head\.mask_head\.upsample" + LAYER, r"roi_heads.mask_head.deconv.\1"),
    (r"roi_head\.mask_head\.conv_logits" + LAYER, r"roi_heads.mask_head.predictor.\1"),
)
TWO_FC: Table = (
    (r"roi_head\.bbox_head\.shared_fcs\.0" + LAYER, r"roi_heads.box_head.fc1.blocks.0.\1"),
    (r"roi_head\.bbox_head\.shared_fcs\.1" + LAYER, r"roi_heads.box_head.fc2.\1"),
)
CONV_FC: Table = (
    (r"roi_head\.bbox_head\.shared_convs\.(\d)\.conv" + LAYER, lambda m: head_conv("box_head", int(m[1]), m[2])),
    (r"roi_head\.bbox_head\.shared_convs\.(\d)" + NORM, lambda m: head_conv("box_head", int(m[1]), f"norm.{m[2]}")),
    (r"roi_head\.bbox_head\.shared_fcs\.(\d)" + LAYER, r"roi_heads.box_head.fcs.\1.\2"),
)
OTHER_SYSTEMS = (
    (r"roi_head\.bbox_head\.\d\..*", "the box heads of Cascade R-CNN"),
    (r"roi_head\.point_head\..*", "PointRend's head"),
    (r"roi_head\.mask_iou_head\..*", "Mask Scoring R-CNN's head"),
    (r"neck\.(downsample|pafpn)_convs\..*", "the bottom-up path of PAFPN"),
    (r"bbox_head\.(cls|reg)_convs\..*", "a one-stage head"),
    # Its boxes, anchors and class order were others.
    (r"bbox_head\.fc_cls\..*", "MMDetection 1's box head"),
)


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Whether a trunk of torchvision's names stands in a detector of MMDetection's."""
    heads = ("rpn_head.", "roi_head.", "bbox_head.")
    return "backbone.layer1.0.conv1.weight" in state and any(name.startswith(heads) for name in state)


def convert(state: Mapping[str, Tensor], content: Mapping[str, Any]) -> Weights:
    """An MMDetection state dict -> our names: colours in the order RGB, anchors size by size.

    The tensors do not tell the order of the colours, mean and deviation, nor where the stride is; the config does,
    which MMDetection writes into a file beside them. Without it they are those of its "pytorch" style.

    Raises:
        ImportFailed: tensors without a place here, or missing; classes in the order of MMDetection 1.
    """
    refuse(state, OTHER_SYSTEMS, LAYOUT)
    trunk: dict[str, Tensor] = {}
    detector: dict[str, Tensor] = {}
    for name, tensor in state.items():
        in_trunk = name.removeprefix("backbone.").removeprefix(RES5)
        (detector if in_trunk == name else trunk)[in_trunk] = tensor
    tensors = rename(trunk, TRUNK, "backbone.", LAYOUT)
    if f"{RES5}layer4.0.conv1.weight" in state:
        tensors = res5_to_roi_stage(tensors)
    box_head = CONV_FC if "roi_head.bbox_head.shared_convs.0.conv.weight" in state else TWO_FC
    tensors |= rename(detector, (*box_head, *DETECTOR), "", LAYOUT)
    if "proposals.objectness.weight" in tensors:
        size_outer(tensors)
    _refuse_background_first(tensors)

    facts = content.get("meta")
    meta: Mapping[str, Any] = facts if isinstance(facts, Mapping) else {}
    text = next((meta[key] for key in ("cfg", "config") if isinstance(meta.get(key), str)), "")
    bgr = re.search(r"\b(?:bgr_to_rgb|to_rgb)=False", text) is not None
    mean, std = _numbers("mean", text) or IMAGENET_MEAN, _numbers("std", text) or IMAGENET_STD
    if bgr:
        reverse_colours(tensors)
        mean, std = mean[::-1], std[::-1]
    needs = trunk_needs(tensors) | detector_needs(tensors, sampling_ratio=0)
    return Weights(
        tensors=tensors,
        source="MMDetection detector" + ("" if text else ' (without its config: taken for its "pytorch" style)'),
        needs={
            **needs,
            "MODEL.BACKBONE.STRIDE_IN_1X1": re.search(r"\bstyle='caffe'", text) is not None,
            "MODEL.PIXEL_MEAN": mean,
            "MODEL.PIXEL_STD": std,
            "MODEL.CONVENTIONS": "mmdet",
        },
        **_classes(tensors, meta),
    )


def _refuse_background_first(tensors: Mapping[str, Tensor]) -> None:
    """Raises ImportFailed: boxes for the background too, as version 1 had them, whose class 0 it was."""
    logits, deltas = (tensors.get(f"roi_heads.box_head.{layer}.bias", torch.zeros(0)) for layer in ("logits", "deltas"))
    if len(logits) and len(deltas) == 4 * len(logits):
        raise ImportFailed(
            f"{len(logits)} classes with a box for each, so that the background is the first: these are weights of "
            f"MMDetection 1, whose boxes and anchors are others too. This looks like {LAYOUT}"
        )


def _numbers(name: str, text: str) -> tuple[float, ...] | None:
    """The first `name=[...]` in the text of a config, if there is one of three numbers."""
    found = re.search(rf"\b{name}=([\[(][\d\s.,eE+-]*[\])])", text)
    numbers = tuple(float(number) for number in ast.literal_eval(found[1])) if found else ()
    return numbers if len(numbers) == 3 else None


def _classes(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> dict[str, Any]:
    """The names that the file gives; COCO's 80, given or not, with their ids."""
    dataset = meta.get("dataset_meta")
    sources = (dataset, meta) if isinstance(dataset, Mapping) else (meta,)
    found = next((source[key] for source in sources for key in ("classes", "CLASSES") if source.get(key)), ())
    names = (found,) if isinstance(found, str) else tuple(map(str, found))
    known = class_facts(tensors)
    classes = len(tensors.get("roi_heads.box_head.logits.bias", ())) - 1
    if len(names) != classes or names == known.get("class_names"):
        return known
    return {"class_names": names}
