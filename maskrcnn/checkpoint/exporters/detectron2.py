"""Detectron2's detectors: {"model": names and tensors}, with a stem for BGR, which is Detectron2's order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from maskrcnn.checkpoint.exporters.exported import Exported, Table, refuse, rename
from maskrcnn.checkpoint.importers import Weights
from maskrcnn.checkpoint.weights import COUNTERS

TARGET = "Detectron2"
STEM = "stem.conv1.weight"
CONVS = {"box": "conv", "mask": "mask_fcn", "keypoint": "conv_fcn"}
# Behind the first one, which is a module per pooled level, convolutions are numbered from 1 here and from 2 there.
FIRST = r"0\.blocks\.0\.0"
TABLE: Table = (
    (r"backbone\.stem\.conv1\.(.+)", r"backbone.stem.conv1.\1"),
    (r"backbone\.stages\.(res\d\.\d+)\.conv2\.offset\.(\w+)", r"backbone.\1.conv2_offset.\2"),
    (r"backbone\.stages\.(res\d\.\d+)\.(.+)", r"backbone.\1.\2"),
    (r"roi_heads\.roi_stage\.(\d+)\.conv2\.offset\.(\w+)", r"roi_heads.res5.\1.conv2_offset.\2"),
    (r"roi_heads\.roi_stage\.(.+)", r"roi_heads.res5.\1"),
    (r"neck\.(lateral|output)\.res(\d)\.(.+)", r"backbone.fpn_\1\2.\3"),
    (r"proposals\.conv\.(\w+)", r"proposal_generator.rpn_head.conv.\1"),
    (r"proposals\.objectness\.(\w+)", r"proposal_generator.rpn_head.objectness_logits.\1"),
    (r"proposals\.deltas\.(\w+)", r"proposal_generator.rpn_head.anchor_deltas.\1"),
    (r"roi_heads\.box_head\.fc1\.blocks\.0\.(\w+)", r"roi_heads.box_head.fc1.\1"),
    (r"roi_heads\.box_head\.fc2\.(\w+)", r"roi_heads.box_head.fc2.\1"),
    (r"roi_heads\.box_head\.fcs\.(\d)\.(\w+)", lambda m: f"roi_heads.box_head.fc{int(m[1]) + 1}.{m[2]}"),
    (r"roi_heads\.box_head\.logits\.(\w+)", r"roi_heads.box_predictor.cls_score.\1"),
    (r"roi_heads\.box_head\.deltas\.(\w+)", r"roi_heads.box_predictor.bbox_pred.\1"),
    (rf"roi_heads\.(box|mask|keypoint)_head\.convs\.{FIRST}\.(.+)", lambda m: conv(m[1], 0, m[2])),
    (r"roi_heads\.(box|mask|keypoint)_head\.convs\.(\d+)\.(.+)", lambda m: conv(m[1], int(m[2]), m[3])),
    (r"roi_heads\.mask_head\.(deconv|predictor)\.(\w+)", r"roi_heads.mask_head.\1.\2"),
    (r"roi_heads\.keypoint_head\.deconv\.(\w+)", r"roi_heads.keypoint_head.score_lowres.\1"),
)


def conv(head: str, index: int, kind: str) -> str:
    return f"roi_heads.{head}_head.{CONVS[head]}{index + 1}.{kind}"


def convert(weights: Weights, config: Mapping[str, Any]) -> Exported:
    """A Faster, Mask or Keypoint R-CNN with C4, DC5 or FPN -> Detectron2's names; classes and anchors stand as there.

    The file also holds mean and deviation of the colours, as buffers that older versions had: they tell the order.
    `settings` are keys of Detectron2's config.

    Raises:
        ExportFailed: Detectron2 has no such part.
    """
    model = config["MODEL"]
    refuse(TARGET, _other_system(model))
    refuse(TARGET, _other_parts(model))
    tensors = rename(weights.tensors, TABLE, TARGET)
    if model["NECK"]["NAME"]:
        trunk = ("backbone.stem.", "backbone.res")
        tensors = {
            name.replace("backbone.", "backbone.bottom_up.", 1) if name.startswith(trunk) else name: tensor
            for name, tensor in tensors.items()
        }
    if model["BACKBONE"]["NORM"] in ("BN", "SyncBN"):  # Detectron2's norms count, though nothing reads it
        tensors |= {
            name.replace("running_mean", COUNTERS): torch.tensor(0) for name in tensors if name.endswith("running_mean")
        }
    stem = next(name for name in tensors if name.endswith(STEM))
    tensors[stem] = tensors[stem].flip(1)
    for name in ("PIXEL_MEAN", "PIXEL_STD"):
        tensors[name.lower()] = torch.tensor(model[name][::-1], dtype=torch.float32).view(3, 1, 1)
    notes = [f"labels 0, 1, ... are {', '.join(weights.class_names)}"] if weights.class_names else []
    if model["CONVENTIONS"] not in ("ours", "detectron2"):
        notes.append(
            f"MODEL.CONVENTIONS is {model['CONVENTIONS']!r} here: Detectron2 neither rounds anchors nor has boxes of "
            "whole pixels, so boxes and scores will differ a little"
        )
    return Exported(content={"model": tensors}, suffix=".pth", settings=_settings(config), notes=tuple(notes))


def _other_system(model: Mapping[str, Any]) -> dict[str, bool]:
    known = {
        "BACKBONE": ("ResNet",),
        "NECK": ("", "FPN"),
        "PROPOSALS": ("RPN",),
        "ROI_HEADS": ("StandardRoIHeads", "C4RoIHeads"),
    }
    names = {part: model.get(part, {}).get("NAME") for part in known}
    return {
        f"MODEL.NAME {model['NAME']!r}": model["NAME"] != "GeneralizedRCNN",
        **{f"MODEL.{part}.NAME {name!r}": name not in known[part] for part, name in names.items()},
    }


def _other_parts(model: Mapping[str, Any]) -> dict[str, bool]:
    heads = model["ROI_HEADS"]
    box, mask, keypoint = (heads.get(f"{head}_HEAD", {"NAME": ""}) for head in ("BOX", "MASK", "KEYPOINT"))
    poolers = _poolers(heads)
    boxes = ("PooledBoxHead",) if heads["NAME"] == "C4RoIHeads" else ("TwoFCBoxHead", "ConvFCBoxHead")
    return {
        "an RPN of several convolutions, whose names there are not known here (PROPOSALS.NUM_CONVS)": model[
            "PROPOSALS"
        ]["NUM_CONVS"]
        != 1,
        f"ROI_HEADS.BOX_HEAD.NAME {box['NAME']!r}": box["NAME"] not in boxes,
        f"ROI_HEADS.MASK_HEAD.NAME {mask['NAME']!r}": mask["NAME"] not in ("", "FCNMaskHead"),
        "masks whose classes compete (MASK_HEAD.PREDICTS 'softmax')": mask.get("PREDICTS") == "softmax",
        f"ROI_HEADS.KEYPOINT_HEAD.NAME {keypoint['NAME']!r}": keypoint["NAME"] not in ("", "FCNKeypointHead"),
        "norms in the keypoint head (KEYPOINT_HEAD.NORM)": bool(keypoint.get("NORM")),
        "logits as the scores of keypoints (KEYPOINT_HEAD.SCORE; 'probability' has one)": (
            keypoint.get("SCORE") == "logit"
        ),
        "a res5 of stride 1 on RoIs (ROI_STAGE.STRIDE)": heads.get("ROI_STAGE", {}).get("STRIDE", 2) != 2,
        "RoIWarp or maximised RoIAlign (METHOD of a pooler)": any(
            pooler["METHOD"] not in ("RoIAlign", "RoIPool") for pooler in poolers.values()
        ),
        "features pooled from all levels (LEVELS of a pooler)": any(
            pooler["LEVELS"] != "assigned" for pooler in poolers.values()
        ),
    }


def _poolers(heads: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """By Detectron2's section."""
    if heads["NAME"] == "C4RoIHeads":
        return {"ROI_BOX_HEAD": heads["POOLER"]}
    parts = [part for part in ("BOX", "MASK", "KEYPOINT") if heads[f"{part}_HEAD"]["NAME"]]
    return {f"ROI_{part}_HEAD": heads[f"{part}_POOLER"] for part in parts}


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of Detectron2's config, what says how its model is built and run."""
    model, trunk, neck = config["MODEL"], config["MODEL"]["BACKBONE"], config["MODEL"]["NECK"]
    rpn, heads, c4 = model["PROPOSALS"], model["ROI_HEADS"], model["ROI_HEADS"]["NAME"] == "C4RoIHeads"
    box, mask, keypoint = (heads.get(f"{head}_HEAD", {"NAME": ""}) for head in ("BOX", "MASK", "KEYPOINT"))
    aligned = model["CONVENTIONS"] in ("ours", "detectron2", "mmdet")
    settings = {
        "INPUT.FORMAT": "BGR",
        "INPUT.MIN_SIZE_TEST": config["INPUT"]["MIN_SIZE_TEST"],
        "INPUT.MAX_SIZE_TEST": config["INPUT"]["MAX_SIZE_TEST"],
        "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
        "MODEL.PIXEL_MEAN": list(model["PIXEL_MEAN"][::-1]),
        "MODEL.PIXEL_STD": list(model["PIXEL_STD"][::-1]),
        "MODEL.MASK_ON": bool(mask["NAME"]),
        "MODEL.KEYPOINT_ON": bool(keypoint["NAME"]),
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone" if neck["NAME"] else "build_resnet_backbone",
        "MODEL.RESNETS.DEPTH": trunk["DEPTH"],
        "MODEL.RESNETS.OUT_FEATURES": list(trunk["OUT_FEATURES"]),
        "MODEL.RESNETS.NORM": trunk["NORM"],
        "MODEL.RESNETS.STRIDE_IN_1X1": trunk["STRIDE_IN_1X1"],
        "MODEL.RESNETS.NUM_GROUPS": trunk["GROUPS"],
        "MODEL.RESNETS.WIDTH_PER_GROUP": trunk["WIDTH_PER_GROUP"] * trunk["WIDTH"] // 64,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": trunk["WIDTH"],
        "MODEL.RESNETS.RES2_OUT_CHANNELS": trunk["WIDTH"] * (4 if trunk["DEPTH"] >= 50 else 1),
        "MODEL.RESNETS.RES5_DILATION": trunk["RES5_DILATION"],
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [f"res{i}" in trunk["DEFORM_STAGES"] for i in range(2, 6)],
        "MODEL.RESNETS.DEFORM_MODULATED": trunk["DEFORM_MODULATED"],
        "MODEL.ANCHOR_GENERATOR.SIZES": [list(level) for level in rpn["ANCHORS"]["SIZES"]],
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [list(rpn["ANCHORS"]["RATIOS"])],
        "MODEL.RPN.IN_FEATURES": list(rpn["IN_FEATURES"]),
        "MODEL.RPN.NMS_THRESH": rpn["NMS_THRESH"],
        "MODEL.RPN.PRE_NMS_TOPK_TEST": rpn["PRE_NMS_TOPK_TEST"],
        "MODEL.RPN.POST_NMS_TOPK_TEST": rpn["POST_NMS_TOPK_TEST"],
        "MODEL.ROI_HEADS.NAME": "Res5ROIHeads" if c4 else "StandardROIHeads",
        "MODEL.ROI_HEADS.NUM_CLASSES": model["NUM_CLASSES"],
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": heads["SCORE_THRESH_TEST"],
        "MODEL.ROI_HEADS.NMS_THRESH_TEST": heads["NMS_THRESH_TEST"],
        "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": list(box["CODER"]["WEIGHTS"]),
        "TEST.DETECTIONS_PER_IMAGE": config["TEST"]["DETECTIONS_PER_IMAGE"],
    }
    poolers = _poolers(heads)
    settings["MODEL.ROI_HEADS.IN_FEATURES"] = list(poolers["ROI_BOX_HEAD"]["IN_FEATURES"])
    if neck["NAME"]:
        settings |= {
            "MODEL.FPN.IN_FEATURES": list(trunk["OUT_FEATURES"]),
            "MODEL.FPN.OUT_CHANNELS": neck["CHANNELS"],
            "MODEL.FPN.NORM": neck["NORM"],
        }
    for section, pooler in poolers.items():
        align = "ROIAlignV2" if aligned else "ROIAlign"
        settings[f"MODEL.{section}.POOLER_TYPE"] = align if pooler["METHOD"] == "RoIAlign" else "ROIPool"
        settings[f"MODEL.{section}.POOLER_RESOLUTION"] = pooler["SIZE"]
        settings[f"MODEL.{section}.POOLER_SAMPLING_RATIO"] = pooler.get("SAMPLING_RATIO", 0)
    if not c4:
        settings |= {
            "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
            "MODEL.ROI_BOX_HEAD.NUM_CONV": box.get("NUM_CONVS", 0),
            "MODEL.ROI_BOX_HEAD.CONV_DIM": box.get("CONV_DIM", 256),
            "MODEL.ROI_BOX_HEAD.NUM_FC": box.get("NUM_FCS", 2),
            "MODEL.ROI_BOX_HEAD.FC_DIM": box["FC_DIM"],
            "MODEL.ROI_BOX_HEAD.NORM": box.get("NORM", ""),
        }
    if mask["NAME"]:
        settings |= {
            "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
            "MODEL.ROI_MASK_HEAD.NUM_CONV": mask["NUM_CONVS"],
            "MODEL.ROI_MASK_HEAD.CONV_DIM": mask["CONV_DIM"],
            "MODEL.ROI_MASK_HEAD.NORM": mask["NORM"],
            "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": mask["PREDICTS"] == "agnostic",
        }
    if keypoint["NAME"]:
        settings["MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS"] = [keypoint["CONV_DIM"]] * keypoint["NUM_CONVS"]
    return settings
