"""MMDetection's names, and what the config in its files says of them."""

import json

import pytest
import torch
from foreign_layouts import Architecture, mmdetection, tensors

import maskrcnn
from maskrcnn.checkpoint import CheckpointError, read_weights
from maskrcnn.checkpoint.importers import ImportFailed, recognise
from maskrcnn.modeling.model import build_model

FPN, C4 = Architecture(), Architecture(neck="c4")
MASKS, MASKS_C4 = "mask_rcnn/mask_rcnn_r50_fpn_1x_coco.yaml", "mask_rcnn/mask_rcnn_r50_c4_1x_coco.yaml"
STEM = "backbone.stem.conv1.weight"
CAFFE = """
model = dict(
    backbone=dict(
        depth=50, norm_cfg=dict(requires_grad=False, type='BN'), style='caffe', type='ResNet'),
    data_preprocessor=dict(
        bgr_to_rgb=False,
        mean=[
            103.53,
            116.28,
            123.675,
        ],
        pad_size_divisor=32,
        std=[
            1.0,
            1.5,
            2.0,
        ]),
    roi_head=dict(bbox_head=dict(bbox_coder=dict(target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[0.1, 0.1, 0.2, 0.2]))))
"""
OLDER = "img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)\nstyle='pytorch'"


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        pytest.param(FPN, MASKS, id="mask-fpn"),
        pytest.param(Architecture(classes=20, masks=False), "mask_rcnn/faster_rcnn_r50_fpn_1x_coco.yaml", id="faster"),
        pytest.param(Architecture(depth=101, groups=32, per_group=4), MASKS, id="x101-32x4d"),
        pytest.param(Architecture(depth=101, groups=64, per_group=4), MASKS, id="x101-64x4d"),
        pytest.param(C4, MASKS_C4, id="mask-c4"),
        pytest.param(Architecture(gn=True), MASKS, id="gn"),
        pytest.param(Architecture(offsets=18), MASKS, id="dcn"),
        pytest.param(Architecture(offsets=27), MASKS, id="dcn-v2"),
    ],
)
def test_every_name_is_taken_and_every_tensor_given(architecture, config):
    weights = recognise(tensors(mmdetection(architecture)))
    overrides = [item for key, value in weights.needs.items() for item in (key, json.dumps(value))]
    with torch.device("meta"):
        model = build_model(maskrcnn.load_config(config, overrides))
    ours = {name: tuple(t.shape) for name, t in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert {name: tuple(tensor.shape) for name, tensor in weights.tensors.items()} == ours
    assert model.conventions.symmetric_clip


def test_a_box_head_of_convolutions():
    weights = recognise(tensors(mmdetection(Architecture(gn=True, box_convs=4))))
    names = {name for name in weights.tensors if name.startswith("roi_heads.box_head.")}
    convs = ["0.blocks.0.0", "1", "2", "3"]
    expected = {f"convs.{c}.{kind}" for c in convs for kind in ("weight", "norm.weight", "norm.bias")}
    expected |= {f"{name}.{kind}" for name in ("fcs.0", "logits", "deltas") for kind in ("weight", "bias")}
    assert names == {f"roi_heads.box_head.{name}" for name in expected}
    assert weights.needs["MODEL.ROI_HEADS.BOX_HEAD.NAME"] == "ConvFCBoxHead"


def style(content):
    """Colours turned, stride in the 1x1, mean and deviation."""
    stem = torch.randn(64, 3, 7, 7)
    weights = recognise({**tensors(mmdetection(FPN)), "backbone.conv1.weight": stem}, content)
    turned = not torch.equal(weights.tensors[STEM], stem)
    assert torch.equal(weights.tensors[STEM], stem[:, [2, 1, 0]] if turned else stem)
    keys = ("MODEL.BACKBONE.STRIDE_IN_1X1", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD")
    return turned, *(weights.needs[key] for key in keys)


def test_the_config_in_the_file_tells_the_style():
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    assert style({"meta": {"cfg": CAFFE}}) == (True, True, mean, (2.0, 1.5, 1.0))
    assert style({"meta": {"config": OLDER}}) == (False, False, mean, std)
    for nothing in (None, {}, {"meta": None}, {"meta": {"cfg": 3}}):
        assert style(nothing) == (False, False, mean, std)
    assert "without its config" in recognise(tensors(mmdetection(FPN))).source
    assert "without" not in recognise(tensors(mmdetection(FPN)), {"meta": {"cfg": CAFFE}}).source


def test_classes_come_from_the_file():
    cells = ("round", "long", "dead")
    state = tensors(mmdetection(Architecture(classes=3)))
    for meta in ({"CLASSES": cells}, {"dataset_meta": {"classes": list(cells)}}, {"dataset_meta": {"CLASSES": cells}}):
        weights = recognise(state, {"meta": meta})
        assert weights.class_names == cells and weights.category_ids is None
    assert recognise(state).class_names is None
    coco = recognise(tensors(mmdetection(FPN)))
    assert coco.class_names[:2] == ("person", "bicycle") and coco.category_ids[-1] == 90
    again = recognise(tensors(mmdetection(FPN)), {"meta": {"CLASSES": coco.class_names}})
    assert again.category_ids == coco.category_ids


def test_anchors_of_c4_go_by_size():
    """Theirs go by ratio (3), then by size (5); channel r * 5 + s becomes s * 3 + r."""
    state = tensors(mmdetection(C4)) | {"rpn_head.rpn_cls.bias": torch.arange(15.0)}
    state["rpn_head.rpn_reg.bias"] = torch.arange(60.0)
    got = recognise(state).tensors
    order = [r * 5 + s for s in range(5) for r in range(3)]
    assert got["proposals.objectness.bias"].tolist() == order
    assert got["proposals.deltas.bias"].tolist() == [4 * a + d for a in order for d in range(4)]


def test_background_is_last_already():
    state = tensors(mmdetection(FPN)) | {"roi_head.bbox_head.fc_cls.bias": torch.arange(81.0)}
    assert recognise(state).tensors["roi_heads.box_head.logits.bias"].tolist() == list(range(81))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            {"roi_head.bbox_head.fc_reg.bias": 324},
            "81 classes .*MMDetection 1",
        ),
        ({"bbox_head.fc_cls.bias": 81}, "MMDetection 1's box head"),
        ({"roi_head.bbox_head.0.fc_cls.bias": 81}, "Cascade R-CNN"),
        ({"neck.pafpn_convs.0.conv.bias": 256}, "PAFPN"),
        ({"roi_head.mask_head.final.weight": 3}, r"1 tensors have no place here: roi_head\.mask_head\.final\.weight"),
    ],
)
def test_what_has_no_place_is_named(extra, message):
    state = tensors(mmdetection(FPN)) | {name: torch.zeros(rows) for name, rows in extra.items()}
    with pytest.raises(ImportFailed, match=message):
        recognise(state)


class History:
    """Stands for an object of MMEngine's in a file of training."""


def test_files(tmp_path):
    small = Architecture(masks=False, heads=False)
    content = {"state_dict": tensors(mmdetection(small))}
    torch.save({**content, "meta": {"cfg": CAFFE, "epoch": 12}}, tmp_path / "published.pth")
    weights = read_weights(str(tmp_path / "published.pth"))
    assert weights.needs["MODEL.BACKBONE.STRIDE_IN_1X1"] and weights.source.endswith(
        "published.pth (MMDetection detector)"
    )
    assert "proposals.conv.weight" in weights.tensors and "MODEL.NUM_CLASSES" not in weights.needs
    torch.save({**content, "message_hub": {"loss": History()}}, tmp_path / "trained.pth")
    with pytest.raises(CheckpointError, match=r"trained\.pth holds the Python object .*History"):
        read_weights(str(tmp_path / "trained.pth"))
