"""Each name of Detectron2, Detectron and maskrcnn-benchmark has a place here, and each tensor of ours a source."""

import json
import re

import pytest
import torch
from foreign_layouts import Architecture, benchmark, detectron, detectron2, tensors

import maskrcnn
from maskrcnn.checkpoint.importers import ImportFailed, recognise
from maskrcnn.modeling.model import build_model

COUNTERS = "num_batches_tracked"
FPN, C4 = Architecture(), Architecture(neck="c4")
PEOPLE = Architecture(classes=1, masks=False, keypoints=True)
GN = Architecture(gn=True)
MASKS, PERSONS = "mask_rcnn/mask_rcnn_r50_fpn_1x_coco.yaml", "mask_rcnn/keypoint_rcnn_r50_fpn_1x_coco.yaml"
MASKS_C4, MASKS_DC5 = "mask_rcnn/mask_rcnn_r50_c4_1x_coco.yaml", "mask_rcnn/mask_rcnn_r50_dc5_1x_coco.yaml"
BOXES = "mask_rcnn/faster_rcnn_r50_fpn_1x_coco.yaml"

EVERYWHERE = [
    pytest.param(FPN, MASKS, id="mask-fpn"),
    pytest.param(Architecture(classes=20, masks=False), BOXES, id="faster-fpn"),
    pytest.param(Architecture(depth=101), MASKS, id="mask-r101-fpn"),
    pytest.param(Architecture(depth=101, groups=32, per_group=8), MASKS, id="mask-x101-fpn"),
    pytest.param(C4, MASKS_C4, id="mask-c4"),
    pytest.param(Architecture(neck="c4", masks=False), "mask_rcnn/faster_rcnn_r50_c4_1x_coco.yaml", id="faster-c4"),
    pytest.param(PEOPLE, PERSONS, id="keypoint-fpn"),
    pytest.param(GN, MASKS, id="gn"),
]
CASES = [
    *(pytest.param(detectron2, *p.values, id=f"detectron2-{p.id}") for p in EVERYWHERE),
    *(pytest.param(benchmark, *p.values, id=f"benchmark-{p.id}") for p in EVERYWHERE),
    *(pytest.param(detectron, *p.values, id=f"detectron-{p.id}") for p in EVERYWHERE),
    pytest.param(detectron2, Architecture(neck="dc5"), MASKS_DC5, id="detectron2-mask-dc5"),
    pytest.param(detectron2, Architecture(offsets=18), MASKS, id="detectron2-dcn"),
    pytest.param(detectron2, Architecture(offsets=27, neck="c4"), MASKS_C4, id="detectron2-dcn-v2-c4"),
    pytest.param(benchmark, Architecture(offsets=27), MASKS, id="benchmark-dcn-v2"),
]


def shapes_of_our_model(config, needs):
    """Of the model that a config describes with what the weights need; arithmetic is left out, which has no tensors."""
    overrides = [
        item for key, value in needs.items() if key != "MODEL.CONVENTIONS" for item in (key, json.dumps(value))
    ]
    with torch.device("meta"):
        model = build_model(maskrcnn.load_config(config, overrides))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if not name.endswith(COUNTERS)}


@pytest.mark.parametrize(("layout", "architecture", "config"), CASES)
def test_every_name_is_taken_and_every_tensor_given(layout, architecture, config):
    weights = recognise(tensors(layout(architecture)))
    got = {name: tuple(tensor.shape) for name, tensor in weights.tensors.items()}
    assert got == shapes_of_our_model(config, weights.needs)


def backbone(needs):
    return {key.removeprefix("MODEL.BACKBONE."): value for key, value in needs.items() if "BACKBONE" in key}


def heads(needs):
    return {key.removeprefix("MODEL.ROI_HEADS."): value for key, value in needs.items() if "ROI_HEADS" in key}


RESNET50 = {"DEPTH": 50, "WIDTH": 64, "GROUPS": 1, "WIDTH_PER_GROUP": 64, "NORM": "FrozenBN", "STRIDE_IN_1X1": True}
X101 = {**RESNET50, "DEPTH": 101, "GROUPS": 32, "WIDTH_PER_GROUP": 8, "STRIDE_IN_1X1": False}
RATIOS = ("BOX_POOLER.SAMPLING_RATIO", "MASK_POOLER.SAMPLING_RATIO")
D1_MEAN, D2_MEAN = (122.7717, 115.9465, 102.9801), (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


@pytest.mark.parametrize(
    ("layout", "conventions", "mean", "ratio"),
    [
        (detectron2, "detectron2", D2_MEAN, 0),
        (benchmark, "maskrcnn_benchmark", D1_MEAN, 2),
        (detectron, "maskrcnn_benchmark", D1_MEAN, 2),
    ],
)
def test_needs_of_each_library(layout, conventions, mean, ratio):
    fpn = recognise(tensors(layout(FPN))).needs
    assert backbone(fpn) == RESNET50
    assert heads(fpn) == {**dict.fromkeys(RATIOS, ratio), "MASK_HEAD.NORM": ""}
    rest = {key: value for key, value in fpn.items() if "BACKBONE" not in key and "ROI_HEADS" not in key}
    assert rest.pop("INPUT.SIZE_ROUNDING") == ("longer_down" if layout is benchmark else "half_up")
    assert rest == {
        "MODEL.NUM_CLASSES": 80,
        "MODEL.NECK.NORM": "",
        "MODEL.CONVENTIONS": conventions,
        "MODEL.PIXEL_MEAN": mean,
        "MODEL.PIXEL_STD": (1.0, 1.0, 1.0),
    }
    c4 = recognise(tensors(layout(C4))).needs
    assert backbone(c4) == RESNET50
    assert heads(c4) == {"POOLER.SIZE": 14, "POOLER.SAMPLING_RATIO": 0, "ROI_STAGE.STRIDE": 2}
    people = recognise(tensors(layout(PEOPLE)))
    score = {"KEYPOINT_HEAD.SCORE": "probability" if layout is detectron2 else "logit"}
    assert heads(people.needs) == {RATIOS[0]: ratio, "KEYPOINT_POOLER.SAMPLING_RATIO": ratio, **score}
    x101 = recognise(tensors(layout(Architecture(depth=101, groups=32, per_group=8)))).needs
    assert backbone(x101) == X101
    assert x101["MODEL.PIXEL_STD"] == (STD if layout is detectron2 else (1.0, 1.0, 1.0))
    gn = recognise(tensors(layout(Architecture(gn=True, box_convs=4)))).needs
    assert backbone(gn) == {**RESNET50, "NORM": "GN", "STRIDE_IN_1X1": False}
    assert gn["MODEL.NECK.NORM"] == "GN"
    assert heads(gn) == {
        **dict.fromkeys(RATIOS, ratio),
        "MASK_HEAD.NORM": "GN",
        "BOX_HEAD.NAME": "ConvFCBoxHead",
        "BOX_HEAD.NUM_CONVS": 4,
        "BOX_HEAD.NORM": "GN",
    }


def with_statistics(shapes, *, counters):
    """GN's names as those of batch norm."""
    kinds = ("running_mean", "running_var", *(("num_batches_tracked",) if counters else ()))
    for name in [name for name in shapes if name.endswith("norm.weight")]:
        shapes |= {name.replace("weight", kind): () if "batches" in kind else shapes[name] for kind in kinds}
    return shapes


@pytest.mark.parametrize("counters", [True, False])
def test_trained_norms_of_detectron2_have_the_stride_in_the_3x3_and_a_deviation_that_the_config_may_know(counters):
    gn = recognise(tensors(detectron2(Architecture(gn=True, box_convs=4))))
    sync = recognise(tensors(with_statistics(detectron2(Architecture(gn=True, box_convs=4)), counters=counters)))
    for weights, norm in ((gn, "GN"), (sync, "SyncBN")):
        assert backbone(weights.needs) == {**RESNET50, "NORM": norm, "STRIDE_IN_1X1": False}
        assert {weights.needs[f"MODEL.{key}"] for key in ("NECK.NORM", "ROI_HEADS.BOX_HEAD.NORM")} == {norm}
        assert weights.needs["MODEL.PIXEL_STD"] == (1.0, 1.0, 1.0) and weights.presumed == {"MODEL.PIXEL_STD"}
    told = {"pixel_mean": torch.tensor([103.53, 116.28, 123.675]), "pixel_std": torch.tensor([57.0, 58.0, 59.0])}
    told = recognise(tensors(detectron2(GN)) | told)
    assert told.needs["MODEL.PIXEL_STD"] == (59.0, 58.0, 57.0) and not told.presumed
    assert not recognise(tensors(detectron2(FPN))).presumed


def test_norms_without_statistics_are_frozen_unless_the_heads_have_norms_too():
    for architecture in (FPN, C4):
        folded = {name: shape for name, shape in detectron2(architecture).items() if "running" not in name}
        weights, whole = recognise(tensors(folded)), recognise(tensors(detectron2(architecture)))
        assert weights.needs == whole.needs and weights.needs["MODEL.BACKBONE.NORM"] == "FrozenBN"
        assert {n: t.shape for n, t in weights.tensors.items()} == {n: t.shape for n, t in whole.tensors.items()}
        for norm in ("backbone.stem.conv1.norm", "backbone.stages.res4.5.conv3.norm"):
            assert (weights.tensors[f"{norm}.running_mean"] == 0).all()
            assert (weights.tensors[f"{norm}.running_var"] == 1).all()


def test_a_classifier_in_detectron2s_names_is_left_out():
    shapes = detectron2(Architecture(neck="trunk"))
    classifier = {"stem.fc.weight": (1000, 2048), "stem.fc.bias": (1000,)}
    assert recognise(tensors(shapes | classifier)).tensors.keys() == recognise(tensors(shapes)).tensors.keys()


INCOMPLETE = [
    (detectron2, FPN, "roi_heads.box_predictor.bbox_pred", "roi_heads.box_head.deltas"),
    (detectron2, FPN, "backbone.bottom_up.stem.conv1.weight", "backbone.stem.conv1.weight"),
    (benchmark, FPN, "rpn.head.bbox_pred", "proposals.deltas"),
    (benchmark, FPN, "backbone.body.layer1.0.conv2.weight", "backbone.stages.res2.0.conv2.weight"),
    (benchmark, FPN, "backbone.body.stem.bn1.weight", "backbone.stem.conv1.norm.weight"),
    (benchmark, FPN, "roi_heads.box.predictor.cls_score", "roi_heads.box_head.logits"),
    (detectron, FPN, "rpn_bbox_pred", "proposals.deltas"),
    (detectron, FPN, "bbox_pred_b", "roi_heads.box_head.deltas.bias"),
    (detectron, Architecture(neck="trunk"), "conv1_w", "backbone.stem.conv1.weight"),
    (detectron, Architecture(neck="trunk"), "res_conv1", "backbone.stem.conv1.norm.running_mean"),
]


@pytest.mark.parametrize(("layout", "architecture", "without", "named"), INCOMPLETE)
def test_a_file_that_is_not_complete_names_what_is_missing(layout, architecture, without, named):
    shapes = {name: shape for name, shape in layout(architecture).items() if not name.startswith(without)}
    if layout is detectron:
        shapes["conv1_b"] = (64,)
    with pytest.raises(ImportFailed, match=rf"{re.escape(named)}.*\(in our names\)"):
        recognise(tensors(shapes))


def test_needs_of_dilated_and_deformable_trunks():
    assert backbone(recognise(tensors(detectron2(Architecture(neck="dc5")))).needs) == {**RESNET50, "RES5_DILATION": 2}
    for layout, neck, channels in ((detectron2, "c4", 18), (detectron2, "fpn", 27), (benchmark, "fpn", 27)):
        needs = backbone(recognise(tensors(layout(Architecture(neck=neck, offsets=channels)))).needs)
        deformable = {"DEFORM_STAGES": ("res3", "res4", "res5"), "DEFORM_MODULATED": channels == 27}
        assert needs == {**RESNET50, **deformable}


@pytest.mark.parametrize("layout", [detectron2, benchmark, detectron])
def test_a_box_head_of_convolutions(layout):
    got = recognise(tensors(layout(Architecture(gn=True, box_convs=4)))).tensors
    found = {
        name for name in got if name.startswith("roi_heads.box_head.") and not name.startswith("roi_heads.box_head.f")
    }
    convs = [f"roi_heads.box_head.convs.{place}" for place in ("0.blocks.0.0", "1", "2", "3")]
    last = {f"roi_heads.box_head.{layer}.{kind}" for layer in ("logits", "deltas") for kind in ("weight", "bias")}
    assert found == last | {f"{conv}.{kind}" for conv in convs for kind in ("weight", "norm.weight", "norm.bias")}
    assert got["roi_heads.box_head.fcs.0.weight"].shape == (1024, 256 * 49)


@pytest.mark.parametrize("layout", [detectron2, benchmark, detectron])
def test_classes_that_are_known(layout):
    coco = recognise(tensors(layout(FPN)))
    assert len(coco.class_names) == len(coco.category_ids) == 80
    named = dict(zip(coco.class_names, coco.category_ids, strict=True))
    assert coco.class_names[0] == "person" and coco.class_names[-1] == "toothbrush"
    assert [named[n] for n in ("person", "stop sign", "dining table", "toothbrush")] == [1, 13, 67, 90]
    people = recognise(tensors(layout(PEOPLE)))
    assert (people.class_names, people.category_ids) == (("person",), (1,))
    other = recognise(tensors(layout(Architecture(classes=8))))
    assert other.class_names is other.category_ids is None and other.needs["MODEL.NUM_CLASSES"] == 8


def test_eight_classes_are_cityscapes_in_a_released_file_alone():
    state = tensors(detectron2(Architecture(classes=8)))
    weights = recognise(state, {"__author__": "Detectron2 Model Zoo"})
    assert weights.class_names == ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    assert weights.category_ids == (24, 25, 26, 27, 28, 31, 32, 33)


@pytest.mark.parametrize(
    ("layout", "name", "part"),
    [
        (detectron2, "head.cls_subnet.0.weight", "RetinaNet's head"),
        (detectron2, "roi_heads.box_predictor.1.cls_score.weight", "Cascade R-CNN"),
        (detectron2, "roi_heads.mask_head.point_head.fc1.weight", "PointRend"),
        (detectron2, "sem_seg_head.predictor.weight", "semantic segmentation"),
        (benchmark, "rpn.head.cls_tower.0.weight", "RetinaNet's head"),
        (detectron, "retnet_cls_pred_fpn3_w", "RetinaNet's head"),
        (detectron, "_[mask]_res5_0_branch2a_w", "res5 for masks alone"),
    ],
)
def test_another_system_is_named(layout, name, part):
    with pytest.raises(ImportFailed, match=rf"{part}.*has no place here"):
        recognise(tensors({**layout(FPN), name: (4, 4)}))


@pytest.mark.parametrize(("layout", "count"), [(detectron2, 53 * 5), (detectron, 53 * 3)])
def test_what_is_left_over_is_listed_beside_what_was_recognised(layout, count):
    with pytest.raises(ImportFailed) as caught:
        recognise(tensors({**layout(FPN), "roi_heads.box_head.fc9.weight": (4, 4)}))
    assert str(caught.value).startswith(
        "1 tensors have no place here: roi_heads.box_head.fc9.weight. Recognised were "
        f"backbone ({count} tensors), neck (16 tensors), proposals (6 tensors), roi_heads.box_head (8 tensors), "
        "roi_heads.mask_head (12 tensors). This looks like Detectron"
    )


def test_a_trunk_that_is_no_resnet():
    rpn = {name: shape for name, shape in detectron2(FPN).items() if "bottom_up" not in name}
    with pytest.raises(ImportFailed, match=r"2 tensors have no place here: backbone\.bottom_up\.s1\.b1\.a\.weight"):
        recognise(
            tensors({**rpn, "backbone.bottom_up.s1.b1.a.weight": (4, 4), "backbone.bottom_up.stem.fc.weight": (1,)})
        )
    with pytest.raises(ImportFailed, match=r"has no backbone\.stem\.conv1\.weight"):
        recognise(tensors(rpn))
    fewer = {name: shape for name, shape in detectron2(FPN).items() if "res4.5" not in name}
    with pytest.raises(ImportFailed, match="5 blocks in res4; known depths are 18, 34, 50, 101, 152"):
        recognise(tensors(fewer))


def test_boxes_that_are_the_same_for_all_classes():
    shapes = detectron2(FPN) | {
        f"roi_heads.box_predictor.bbox_pred.{k}": s for k, s in (("weight", (4, 1024)), ("bias", (4,)))
    }
    with pytest.raises(ImportFailed, match="4 box deltas for 80 classes"):
        recognise(tensors(shapes))


def test_anchors_of_other_ratios():
    shapes = detectron(C4) | {"rpn_cls_logits_w": (20, 1024, 1, 1), "rpn_bbox_pred_w": (80, 1024, 1, 1)}
    with pytest.raises(ImportFailed, match="20 anchors at a cell, which is no multiple of the 3 ratios"):
        recognise(tensors(shapes))
