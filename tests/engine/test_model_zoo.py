"""Models by name, with weights of one's own."""

import hashlib

import pytest
import torch
from torch import nn

from maskrcnn import build_model, load_config, model_zoo
from maskrcnn.checkpoint import CheckpointError, save_checkpoint
from maskrcnn.config import ConfigError
from maskrcnn.structures import Sample

# Small enough for a test: the name decides the rest.
SMALL = [
    *(
        "MODEL.BACKBONE.DEPTH=18",
        "MODEL.BACKBONE.WIDTH=8",
        "MODEL.NECK.CHANNELS=8",
        "MODEL.ROI_HEADS.BOX_HEAD.FC_DIM=8",
    ),
    *("MODEL.ROI_HEADS.MASK_HEAD.CONV_DIM=8", "MODEL.PROPOSALS.POST_NMS_TOPK_TEST=8"),
]
NAME = "mask_rcnn_R_50_FPN_3x"
NAMES = ("cell", "person", "dog")


@pytest.fixture
def trained(tmp_path):
    """Weights of three classes, as a run writes them."""
    torch.manual_seed(0)
    model = build_model(load_config("mask_rcnn/mask_rcnn_r50_fpn_3x_coco", [*SMALL, "MODEL.NUM_CLASSES=3"]))
    nn.init.normal_(model.roi_heads.box_head.logits.bias)
    path = tmp_path / "model_final.pth"
    save_checkpoint(path, {"model": dict(model.state_dict()), "class_names": list(NAMES), "category_ids": [1, 2, 5]})
    return model, path


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("mask_rcnn_R_50_FPN_3x", "mask_rcnn_r50_fpn_3x_coco"),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x", "mask_rcnn_r50_fpn_3x_coco"),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml", "mask_rcnn_r50_fpn_3x_coco"),
        ("mask_rcnn_r50_fpn_3x_coco", "mask_rcnn_r50_fpn_3x_coco"),
        ("mask_rcnn/mask_rcnn_r50_fpn_3x_coco.yaml", "mask_rcnn_r50_fpn_3x_coco"),
        ("mask_rcnn_X_101_32x8d_FPN_3x", "mask_rcnn_x101_32x8d_fpn_3x_coco"),
        ("faster_rcnn_R_50_C4_1x", "faster_rcnn_r50_c4_1x_coco"),
        ("keypoint_rcnn_R_50_FPN_1x", "keypoint_rcnn_r50_fpn_1x_coco"),  # COCO-Keypoints', not the comparison
        ("Detectron1-Comparisons/keypoint_rcnn_R_50_FPN_1x", "keypoint_rcnn_r50_fpn_1500_1x_coco"),
        ("Cityscapes/mask_rcnn_R_50_FPN", "mask_rcnn_r50_fpn_24k_cityscapes_from_coco"),
    ],
)
def test_names(name, config):
    assert model_zoo.find(name).stem == config
    assert model_zoo.get_config(name, ["SEED=5"]) == load_config(f"mask_rcnn/{config}", ["SEED=5"])


def test_every_name_is_found_and_none_stands_twice():
    names = model_zoo.names()
    assert len(set(names)) == len(names) > 60 and {"Misc/mask_rcnn_R_50_FPN_1x_dconv_c3-c5"} < set(names)
    assert all(model_zoo.find(name).is_file() for name in names)


def test_an_unknown_name_lists_the_closest():
    with pytest.raises(ConfigError, match=r"no model 'mask_rcnn_R_50_FPN_4x'; did you mean .*mask_rcnn_R_50_FPN_3x"):
        model_zoo.get("mask_rcnn_R_50_FPN_4x")
    with pytest.raises(ConfigError, match=r"no model '7'; maskrcnn.model_zoo.names\(\) lists all"):
        model_zoo.get("7")


def test_fresh_weights_need_no_network_and_have_the_classes_of_the_data(monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("looked at the network"))
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *_, **__: pytest.fail("looked at the network"))
    with torch.device("meta"):
        model = model_zoo.get(NAME)
        assert not model.training and model.roi_heads.num_classes == 80
        assert model_zoo.get("keypoint_rcnn_R_50_FPN_3x").roi_heads.num_classes == 1
        assert model_zoo.get("Cityscapes/mask_rcnn_R_50_FPN").roi_heads.num_classes == 8
        assert model_zoo.get(NAME, num_classes=5).roi_heads.num_classes == 5
    # torchvision's model has 44,401,393 with 91 classes: 10 more logits, 44 more deltas, 11 more masks
    assert sum(p.numel() for p in model.parameters()) == 44_401_393 - 54 * 1025 - 11 * 257


def test_data_of_ones_own_need_a_number_of_classes():
    with pytest.raises(ConfigError, match="number of classes is not known.*give num_classes"):
        model_zoo.get("mask_rcnn_r18_fpn_small_scratch")


def test_weights_of_a_file(trained):
    model, path = trained
    found = model_zoo.get(NAME, weights=path, overrides=SMALL, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert found.state_dict().keys() == model.state_dict().keys() and not found.training
    assert all(torch.equal(found.state_dict()[key], value) for key, value in model.state_dict().items())
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    assert len(found([Sample(image, 0, (64, 64))])) == 1
    with pytest.raises(CheckpointError, match=r"model_final.pth: its SHA-256 is .* instead of 00ff"):
        model_zoo.get(NAME, weights=path, sha256="00ff", overrides=SMALL)


def test_weights_of_another_model_or_a_part_are_refused_for_prediction(trained, tmp_path):
    model, path = trained
    with pytest.raises(CheckpointError, match="weights of another architecture"):
        model_zoo.get("faster_rcnn_R_50_FPN_3x", weights=path, overrides=SMALL[:-2])
    save_checkpoint(tmp_path / "trunk.pth", {f"backbone.{k}": v for k, v in model.backbone.state_dict().items()})
    with pytest.raises(CheckpointError, match="tensors of the model are not in the weights"):
        model_zoo.get(NAME, weights=tmp_path / "trunk.pth", overrides=[*SMALL, "MODEL.NUM_CLASSES=3"])
    begun = model_zoo.get(NAME, weights=tmp_path / "trunk.pth", overrides=SMALL, num_classes=4)
    assert torch.equal(begun.backbone.stem.conv1.weight, model.backbone.stem.conv1.weight)


def test_weights_of_another_depth_than_the_name_says_are_refused(trained):
    model, path = trained
    with (
        torch.device("meta"),
        pytest.raises(
            CheckpointError,
            match=r"trunk.pth .*: these weights are of a model with MODEL.BACKBONE.DEPTH 18, but .*r50_fpn.* is 50",
        ),
    ):
        trunk = {f"backbone.bottom_up.{k.removeprefix('stages.')}": v for k, v in model.backbone.state_dict().items()}
        torch.save({"model": trunk}, path.with_name("trunk.pth"))
        model_zoo.get(NAME, weights=path.with_name("trunk.pth"), num_classes=3)


def rows(model):
    return model.roi_heads.box_head.logits.bias, model.roi_heads.mask_head.predictor.weight


def test_fine_tuning_on_another_number_of_classes(trained):
    model, path = trained
    begun = model_zoo.get(NAME, weights=path, overrides=SMALL, num_classes=7)
    assert [len(layer) for layer in rows(begun)] == [8, 7]
    assert torch.equal(begun.roi_heads.box_head.fc1.blocks[0].weight, model.roi_heads.box_head.fc1.blocks[0].weight)
    assert (begun.roi_heads.box_head.logits.bias == 0).all()  # fresh
    same = model_zoo.get(NAME, weights=path, overrides=SMALL, num_classes=3)
    assert all(torch.equal(a, b) for a, b in zip(rows(same), rows(model), strict=True))


def test_fine_tuning_keeps_the_rows_of_classes_that_are_known_by_name(trained):
    model, path = trained
    begun = model_zoo.get(NAME, weights=path, overrides=SMALL, class_names=["dog", "cat", "cell", "horse"])
    (logits, masks), (old_logits, old_masks) = rows(begun), rows(model)
    assert torch.equal(logits[[0, 2, 4]], old_logits[[2, 0, 3]])  # dog, cell, background
    assert torch.equal(masks[[0, 2]], old_masks[[2, 0]]) and (logits[[1, 3]] == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 2, "class_names": ["a"]}, "num_classes is 2, but there are 1 class_names"),
        ({"num_classes": 0}, "a model of 0 classes; give at least 1"),
        ({"class_names": []}, "a model of 0 classes"),
        ({"class_names": "cat"}, r"class_names is 'cat'; expected a list of names, such as \['cat'\]"),
        ({"class_names": ["a", "b", "a"]}, "class_names has 'a' more than once"),
        ({"num_classes": 3, "overrides": ["MODEL.NUM_CLASSES=3"]}, "the overrides give MODEL.NUM_CLASSES, and so do"),
        ({"class_names": ["a"], "overrides": ["MODEL.NUM_CLASSES", "1"]}, "the overrides give MODEL.NUM_CLASSES"),
        ({"sha256": "0" * 64}, "sha256 is given, but no weights"),
    ],
)
def test_classes_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        model_zoo.get(NAME, **options)


def test_a_url_needs_its_hash():
    with pytest.raises(CheckpointError, match=r"https://localhost/w.pth: weights from a URL need their SHA-256"):
        model_zoo.get(NAME, weights="https://localhost/w.pth")
