"""What is exported for Detectron2: each name of its tables (checkpoints of its model zoo) and no other."""

import pytest
import torch
from yacs.config import CfgNode

import maskrcnn
from maskrcnn.checkpoint import Weights
from maskrcnn.checkpoint.exporters import TARGETS, ExportFailed
from maskrcnn.checkpoint.importers import recognise
from maskrcnn.config import leaves

PROBABILITY = ["MODEL.ROI_HEADS.KEYPOINT_HEAD.SCORE", "probability"]
BLOCKS = {"res2": 3, "res3": 4, "res4": 6, "res5": 3}
NORM = ("weight", "bias", "running_mean", "running_var")
GN = NORM[:2]


def exported(config, *overrides):
    """Of a model whose tensors are all different, 3 classes."""
    cfg = maskrcnn.load_config(f"mask_rcnn/{config}", ["MODEL.NUM_CLASSES", "3", *overrides])
    with torch.device("meta"):
        shapes = {name: values.shape for name, values in maskrcnn.build_model(cfg).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items() if "batches" not in name}
    return tensors, TARGETS["detectron2"](Weights(tensors, "ours"), cfg)


def conv(name, norm=NORM):
    return {f"{name}.weight", *(f"{name}.norm.{kind}" for kind in norm)}


def layer(*names):
    return {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}


def stages(prefix, names, norm=NORM):
    found = set()
    for stage in names:
        for block in range(BLOCKS[stage]):
            for k in (1, 2, 3):
                found |= conv(f"{prefix}{stage}.{block}.conv{k}", norm)
        found |= conv(f"{prefix}{stage}.0.shortcut", norm)
    return found


def heads(*names):
    return layer(*(f"roi_heads.{name}" for name in names))


COLOURS = {"pixel_mean", "pixel_std"}
RPN = layer(*(f"proposal_generator.rpn_head.{name}" for name in ("conv", "objectness_logits", "anchor_deltas")))
PREDICTOR = heads("box_predictor.cls_score", "box_predictor.bbox_pred")
FCS = heads("box_head.fc1", "box_head.fc2")
MASKS = heads(*(f"mask_head.mask_fcn{k}" for k in (1, 2, 3, 4)), "mask_head.deconv", "mask_head.predictor")
TRUNK = conv("backbone.bottom_up.stem.conv1") | stages("backbone.bottom_up.", BLOCKS)
FPN = layer(*(f"backbone.fpn_{kind}{level}" for kind in ("lateral", "output") for level in (2, 3, 4, 5)))


def test_mask_rcnn_with_fpn():
    tensors, file = exported("mask_rcnn_r50_fpn_1x_coco")
    model = file.content["model"]
    assert set(model) == COLOURS | TRUNK | FPN | RPN | FCS | PREDICTOR | MASKS
    stem = tensors["backbone.stem.conv1.weight"]
    blue_first = torch.stack([stem[:, 2], stem[:, 1], stem[:, 0]], dim=1)
    assert torch.equal(model["backbone.bottom_up.stem.conv1.weight"], blue_first)
    assert model["pixel_mean"].flatten().tolist() == pytest.approx([103.53, 116.28, 123.675])
    same = {
        "backbone.bottom_up.res3.2.conv1.norm.running_var": "backbone.stages.res3.2.conv1.norm.running_var",
        "backbone.fpn_lateral4.weight": "neck.lateral.res4.weight",
        "proposal_generator.rpn_head.objectness_logits.weight": "proposals.objectness.weight",
        "roi_heads.box_head.fc1.weight": "roi_heads.box_head.fc1.blocks.0.weight",
        "roi_heads.box_predictor.cls_score.bias": "roi_heads.box_head.logits.bias",
        "roi_heads.box_predictor.bbox_pred.weight": "roi_heads.box_head.deltas.weight",
        "roi_heads.mask_head.mask_fcn1.weight": "roi_heads.mask_head.convs.0.blocks.0.0.weight",
        "roi_heads.mask_head.mask_fcn4.bias": "roi_heads.mask_head.convs.3.bias",
    }
    assert all(torch.equal(model[theirs], tensors[ours]) for theirs, ours in same.items())
    assert file.settings["MODEL.RESNETS.STRIDE_IN_1X1"] is False and file.settings["INPUT.FORMAT"] == "BGR"
    assert file.settings["MODEL.PIXEL_STD"] == [57.375, 57.12, 58.395]


def test_c4_has_its_res5_in_the_heads():
    _, file = exported("mask_rcnn_r50_c4_1x_coco")
    trunk = conv("backbone.stem.conv1") | stages("backbone.", ("res2", "res3", "res4"))
    masks = heads("mask_head.deconv", "mask_head.predictor")
    assert set(file.content["model"]) == COLOURS | trunk | stages("roi_heads.", ("res5",)) | RPN | PREDICTOR | masks
    assert file.settings["MODEL.ROI_HEADS.NAME"] == "Res5ROIHeads"
    assert file.settings["MODEL.ANCHOR_GENERATOR.SIZES"] == [[32, 64, 128, 256, 512]]


def test_dc5_has_no_neck():
    _, file = exported("faster_rcnn_r50_dc5_1x_coco")
    trunk = conv("backbone.stem.conv1") | stages("backbone.", BLOCKS)
    assert set(file.content["model"]) == COLOURS | trunk | RPN | FCS | PREDICTOR
    assert file.settings["MODEL.RESNETS.RES5_DILATION"] == 2 and file.settings["MODEL.ROI_HEADS.IN_FEATURES"] == [
        "res5"
    ]


def test_keypoints():
    _, file = exported("keypoint_rcnn_r50_fpn_1x_coco", *PROBABILITY)
    points = heads(*(f"keypoint_head.conv_fcn{k}" for k in range(1, 9)), "keypoint_head.score_lowres")
    assert set(file.content["model"]) == COLOURS | TRUNK | FPN | RPN | FCS | PREDICTOR | points


def test_group_norm_and_a_box_head_of_convolutions():
    heads_are = ["MODEL.ROI_HEADS.BOX_HEAD.NAME", "ConvFCBoxHead", "MODEL.ROI_HEADS.BOX_HEAD.NORM", "GN"]
    norms = ["MODEL.NECK.NORM", "GN", "MODEL.BACKBONE.NORM", "GN", "MODEL.ROI_HEADS.MASK_HEAD.NORM", "GN"]
    _, file = exported("mask_rcnn_r50_fpn_1x_coco", *heads_are, *norms)
    trunk = conv("backbone.bottom_up.stem.conv1", GN) | stages("backbone.bottom_up.", BLOCKS, GN)
    for kind in ("lateral", "output"):
        for level in (2, 3, 4, 5):
            trunk |= conv(f"backbone.fpn_{kind}{level}", GN)
    boxes, masks = heads("box_head.fc1"), heads("mask_head.deconv", "mask_head.predictor")
    for k in (1, 2, 3, 4):
        boxes |= conv(f"roi_heads.box_head.conv{k}", GN)
        masks |= conv(f"roi_heads.mask_head.mask_fcn{k}", GN)
    assert set(file.content["model"]) == COLOURS | trunk | RPN | boxes | PREDICTOR | masks
    assert file.settings["MODEL.ROI_BOX_HEAD.NUM_CONV"] == 4 and file.settings["MODEL.ROI_BOX_HEAD.NUM_FC"] == 1


def test_deformable_stages():
    _, file = exported("mask_rcnn_r50_fpn_dcn_1x_coco")
    offsets = set()
    for stage in ("res3", "res4", "res5"):
        offsets |= layer(*(f"backbone.bottom_up.{stage}.{block}.conv2_offset" for block in range(BLOCKS[stage])))
    assert set(file.content["model"]) == COLOURS | TRUNK | offsets | FPN | RPN | FCS | PREDICTOR | MASKS
    assert file.settings["MODEL.RESNETS.DEFORM_ON_PER_STAGE"] == [False, True, True, True]


@pytest.mark.parametrize(
    ("config", "overrides", "part"),
    [
        ("keypoint_rcnn_r50_fpn_1x_coco", [], "logits as the scores of keypoints"),
        ("mask_rcnn_r50_fpn_1x_coco", ["MODEL.ROI_HEADS.MASK_HEAD.PREDICTS", "softmax"], "masks whose classes compete"),
        ("mask_rcnn_r50_fpn_1x_coco", ["MODEL.ROI_HEADS.MASK_HEAD.NAME", "MLPMaskHead"], "'MLPMaskHead'"),
        ("mask_rcnn_r50_fpn_1x_coco", ["MODEL.ROI_HEADS.MASK_POOLER.METHOD", "RoIWarp"], "RoIWarp"),
        ("mask_rcnn_r50_fpn_1x_coco", ["MODEL.ROI_HEADS.MASK_POOLER.LEVELS", "all"], "from all levels"),
        ("mask_rcnn_r50_c4_1x_coco", ["MODEL.ROI_HEADS.ROI_STAGE.STRIDE", "1"], "a res5 of stride 1"),
    ],
)
def test_what_detectron2_does_not_have_is_named(config, overrides, part):
    cfg = maskrcnn.load_config(f"mask_rcnn/{config}", overrides)
    with pytest.raises(ExportFailed, match=f"Detectron2's layout has no place for .*{part}"):
        TARGETS["detectron2"](Weights({}, "ours"), cfg)


def test_other_arithmetic_is_noted():
    _, file = exported("mask_rcnn_r50_fpn_1x_coco", "MODEL.CONVENTIONS", "torchvision")
    assert file.settings["MODEL.ROI_BOX_HEAD.POOLER_TYPE"] == "ROIAlign" and "rounds anchors" in file.notes[0]


def test_trained_batch_norms_have_the_counters_by_which_they_are_told_from_frozen_ones():
    _, file = exported("mask_rcnn_r50_c4_1x_coco", "MODEL.BACKBONE.NORM", "SyncBN")
    assert recognise(file.content["model"]).needs["MODEL.BACKBONE.NORM"] == "SyncBN"
    _, file = exported("mask_rcnn_r50_c4_1x_coco")
    assert not any("num_batches" in name for name in file.content["model"])


@pytest.mark.parametrize(
    ("config", "overrides"),
    [
        ("mask_rcnn_r50_fpn_1x_coco", []),
        ("mask_rcnn_r50_fpn_syncbn_3x_coco", []),
        ("mask_rcnn_r50_c4_1x_coco", []),
        ("mask_rcnn_r50_dc5_1x_coco", []),
        ("mask_rcnn_r50_fpn_dcnv2_1x_coco", []),
        ("mask_rcnn_r50_fpn_gn_3x_coco", []),
        ("keypoint_rcnn_r50_fpn_1x_coco", PROBABILITY),
    ],
)
def test_what_goes_out_comes_back(config, overrides):
    tensors, file = exported(config, *overrides)
    back = recognise(file.content["model"], file.content)
    assert back.tensors.keys() == tensors.keys()
    assert all(torch.equal(back.tensors[name], tensor) for name, tensor in tensors.items())
    cfg = maskrcnn.load_config(f"mask_rcnn/{config}", ["MODEL.NUM_CLASSES", "3", *overrides])
    values = dict(leaves(cfg, section=CfgNode))
    not_in_the_file = ("CONVENTIONS", "STRIDE_IN_1X1", "SAMPLING_RATIO")  # they come as Detectron2's zoo has them
    for key, wanted in back.needs.items():
        assert key.endswith(not_in_the_file) or values[key] == pytest.approx(wanted, abs=1e-4), key
