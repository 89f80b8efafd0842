"""torchvision's detectors, v1 and v2: a flat state dict in the names of 0.13 and later, with the background first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from maskrcnn.checkpoint.exporters.exported import Exported, ExportFailed, Table, refuse, rename
from maskrcnn.checkpoint.importers import Weights

TARGET = "torchvision"
FPN = {"lateral": "inner", "output": "layer"}


def layer(stage: str) -> int:
    """res2 is layer1."""
    return int(stage) - 1


TABLE: Table = (
    (r"backbone\.stem\.conv1\.weight", r"backbone.body.conv1.weight"),
    (r"backbone\.stem\.conv1\.norm\.(\w+)", r"backbone.body.bn1.\1"),
    (
        r"backbone\.stages\.res(\d)\.(\d+)\.conv(\d)\.weight",
        lambda m: f"backbone.body.layer{layer(m[1])}.{m[2]}.conv{m[3]}.weight",
    ),
    (
        r"backbone\.stages\.res(\d)\.(\d+)\.conv(\d)\.norm\.(\w+)",
        lambda m: f"backbone.body.layer{layer(m[1])}.{m[2]}.bn{m[3]}.{m[4]}",
    ),
    (
        r"backbone\.stages\.res(\d)\.(\d+)\.shortcut\.(norm\.)?(\w+)",
        lambda m: f"backbone.body.layer{layer(m[1])}.{m[2]}.downsample.{1 if m[3] else 0}.{m[4]}",
    ),
    (
        r"neck\.(lateral|output)\.res(\d)\.(norm\.)?(\w+)",
        lambda m: f"backbone.fpn.{FPN[m[1]]}_blocks.{int(m[2]) - 2}.{1 if m[3] else 0}.{m[4]}",
    ),
    (r"proposals\.conv\.(\w+)", r"rpn.head.conv.0.0.\1"),
    (r"proposals\.more_convs\.(\d)\.(\w+)", lambda m: f"rpn.head.conv.{int(m[1]) + 1}.0.{m[2]}"),
    (r"proposals\.objectness\.(\w+)", r"rpn.head.cls_logits.\1"),
    (r"proposals\.deltas\.(\w+)", r"rpn.head.bbox_pred.\1"),
    (r"roi_heads\.box_head\.fc1\.blocks\.0\.(\w+)", r"roi_heads.box_head.fc6.\1"),
    (r"roi_heads\.box_head\.fc2\.(\w+)", r"roi_heads.box_head.fc7.\1"),
    (r"roi_heads\.box_head\.logits\.(\w+)", r"roi_heads.box_predictor.cls_score.\1"),
    (r"roi_heads\.box_head\.deltas\.(\w+)", r"roi_heads.box_predictor.bbox_pred.\1"),
    (
        r"roi_heads\.(box|mask)_head\.convs\.(0\.blocks\.0\.0|\d+)\.(norm\.)?(\w+)",
        lambda m: f"roi_heads.{m[1]}_head.{int(m[2].split('.')[0])}.{1 if m[3] else 0}.{m[4]}",
    ),
    (r"roi_heads\.mask_head\.deconv\.(\w+)", r"roi_heads.mask_predictor.conv5_mask.\1"),
    (r"roi_heads\.mask_head\.predictor\.(\w+)", r"roi_heads.mask_predictor.mask_fcn_logits.\1"),
    (
        r"roi_heads\.keypoint_head\.convs\.(0\.blocks\.0\.0|\d+)\.(\w+)",
        lambda m: f"roi_heads.keypoint_head.{2 * int(m[1].split('.')[0])}.{m[2]}",  # a ReLU behind each has a number
    ),
    (r"roi_heads\.keypoint_head\.deconv\.(\w+)", r"roi_heads.keypoint_predictor.kps_score_lowres.\1"),
)


def convert(weights: Weights, config: Mapping[str, Any]) -> Exported:
    """A Faster, Mask or Keypoint R-CNN with a ResNet-FPN -> what torchvision's model of this kind loads with `strict`.

    `settings` are arguments of torchvision's builder, such as `maskrcnn_resnet50_fpn`.

    Raises:
        ExportFailed: torchvision has no such part.
    """
    model = config["MODEL"]
    refuse(TARGET, _other_system(model))
    refuse(TARGET, _other_parts(model))
    # Behind convolutions, a flattening takes a number, too.
    flat = f"roi_heads.box_head.{model['ROI_HEADS']['BOX_HEAD'].get('NUM_CONVS', 0) + 1}"
    fc = (re.escape("roi_heads.box_head.fcs.0.") + r"(\w+)", rf"{flat}.\1")
    tensors = background_first(rename(weights.tensors, (*TABLE, fc), TARGET))
    notes = [f"labels 1, 2, ... are {', '.join(weights.class_names)}"] if weights.class_names else []
    if model["CONVENTIONS"] != "torchvision":
        notes.append(
            f"MODEL.CONVENTIONS is {model['CONVENTIONS']!r} here: torchvision rounds anchors and reads features half a "
            "cell away, so boxes and scores will differ a little"
        )
    return Exported(content=tensors, suffix=".pth", settings=_settings(config), notes=tuple(notes))


def background_first(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Logits with the background before the classes; boxes and masks with rows for it, zero, which nobody reads.

    Raises:
        ExportFailed: there is no box predictor.
    """
    first = {"roi_heads.box_predictor.bbox_pred": 4, "roi_heads.mask_predictor.mask_fcn_logits": 1}
    for kind in ("weight", "bias"):
        logits = f"roi_heads.box_predictor.cls_score.{kind}"
        if logits not in tensors:
            raise ExportFailed(f"{TARGET}: the weights have no box predictor ({kind}): they are not a whole detector's")
        tensors[logits] = tensors[logits].roll(1, dims=0)
        for layer_name, rows in first.items():
            if (tensor := tensors.get(f"{layer_name}.{kind}")) is not None:
                zeros = tensor.new_zeros(rows, *tensor.shape[1:])
                tensors[f"{layer_name}.{kind}"] = torch.cat([zeros, tensor])
    return tensors


def _other_system(model: Mapping[str, Any]) -> dict[str, bool]:
    names = {
        "MODEL": ("GeneralizedRCNN",),
        "BACKBONE": ("ResNet",),
        "NECK": ("FPN",),
        "PROPOSALS": ("RPN",),
        "ROI_HEADS": ("StandardRoIHeads",),
    }
    sections = {"MODEL": model, **{name: model.get(name, {}) for name in list(names)[1:]}}
    return {
        f"{'' if section == 'MODEL' else 'MODEL.'}{section}.NAME {sections[section].get('NAME')!r}": (
            sections[section].get("NAME") not in known
        )
        for section, known in names.items()
    }


def _other_parts(model: Mapping[str, Any]) -> dict[str, bool]:
    trunk, neck, heads = model["BACKBONE"], model["NECK"], model["ROI_HEADS"]
    box, mask, keypoint = heads["BOX_HEAD"], heads["MASK_HEAD"], heads["KEYPOINT_HEAD"]
    poolers = [heads["BOX_POOLER"]]
    poolers += [heads["MASK_POOLER"]] if mask["NAME"] else []
    poolers += [heads["KEYPOINT_POOLER"]] if keypoint["NAME"] else []
    norms = [part.get("NORM", "") for part in (trunk, neck, box, mask)]
    return {
        "strides in the 1x1 convolutions (BACKBONE.STRIDE_IN_1X1)": trunk["DEPTH"] >= 50 and trunk["STRIDE_IN_1X1"],
        "a dilated res5 (BACKBONE.RES5_DILATION)": trunk["RES5_DILATION"] != 1,
        "deformable convolutions (BACKBONE.DEFORM_STAGES)": bool(trunk["DEFORM_STAGES"]),
        f"a stem of {trunk['WIDTH']} channels (BACKBONE.WIDTH)": trunk["WIDTH"] != 64,
        f"the levels {', '.join(trunk['OUT_FEATURES'])} (BACKBONE.OUT_FEATURES)": len(trunk["OUT_FEATURES"]) != 4,
        "group normalisation (NORM GN)": "GN" in norms,
        f"ROI_HEADS.BOX_HEAD.NAME {box['NAME']!r}": box["NAME"] not in ("TwoFCBoxHead", "ConvFCBoxHead"),
        f"{box.get('NUM_FCS')} linear layers behind convolutions (BOX_HEAD.NUM_FCS)": box.get("NUM_FCS", 1) != 1,
        f"ROI_HEADS.MASK_HEAD.NAME {mask['NAME']!r}": mask["NAME"] not in ("", "FCNMaskHead"),
        f"masks of the kind {mask.get('PREDICTS')!r} (MASK_HEAD.PREDICTS)": mask.get("PREDICTS", "class") != "class",
        f"ROI_HEADS.KEYPOINT_HEAD.NAME {keypoint['NAME']!r}": keypoint["NAME"] not in ("", "FCNKeypointHead"),
        "norms in the keypoint head (KEYPOINT_HEAD.NORM)": bool(keypoint.get("NORM")),
        "probabilities as the scores of keypoints (KEYPOINT_HEAD.SCORE)": keypoint.get("SCORE") == "probability",
        "other pooling than RoIAlign (METHOD of a pooler)": any(p["METHOD"] != "RoIAlign" for p in poolers),
        "features pooled from all levels (LEVELS of a pooler)": any(p["LEVELS"] != "assigned" for p in poolers),
    }


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    model, heads, rpn = config["MODEL"], config["MODEL"]["ROI_HEADS"], config["MODEL"]["PROPOSALS"]
    return {
        "num_classes": model["NUM_CLASSES"] + 1,
        "min_size": config["INPUT"]["MIN_SIZE_TEST"],
        "max_size": config["INPUT"]["MAX_SIZE_TEST"],
        "image_mean": [value / 255 for value in model["PIXEL_MEAN"]],
        "image_std": [value / 255 for value in model["PIXEL_STD"]],
        "rpn_pre_nms_top_n_test": rpn["PRE_NMS_TOPK_TEST"],
        "rpn_post_nms_top_n_test": rpn["POST_NMS_TOPK_TEST"],
        "rpn_nms_thresh": rpn["NMS_THRESH"],
        "box_score_thresh": heads["SCORE_THRESH_TEST"],
        "box_nms_thresh": heads["NMS_THRESH_TEST"],
        "box_detections_per_img": config["TEST"]["DETECTIONS_PER_IMAGE"],
        "bbox_reg_weights": list(heads["BOX_HEAD"]["CODER"]["WEIGHTS"]),
    }
