"""What is exported for torchvision, against torchvision's own models: names, rows, answers."""

import pytest
import torch
import torchvision
from mask_rcnn import ours_like, textured_image
from peers import detector
from torchvision.models import resnet18
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision_parity import same_detections

import maskrcnn
from maskrcnn.checkpoint import Weights
from maskrcnn.checkpoint.exporters import TARGETS, ExportFailed
from maskrcnn.checkpoint.importers import recognise

CONFIGS = {kind: f"mask_rcnn/{kind}_rcnn_r50_fpn_1x_coco.yaml" for kind in ("faster", "mask", "keypoint")}
BACKGROUND = {"roi_heads.box_predictor.bbox_pred": 4, "roi_heads.mask_predictor.mask_fcn_logits": 1}  # unread rows


def config_of(name, weights, *overrides):
    needs = [str(item) for pair in weights.needs.items() for item in pair]
    return maskrcnn.load_config(name, [*needs, *overrides])


@pytest.mark.parametrize(
    "name",
    [
        "fasterrcnn_resnet50_fpn",
        "fasterrcnn_resnet50_fpn_v2",
        "maskrcnn_resnet50_fpn",
        "maskrcnn_resnet50_fpn_v2",
        "keypointrcnn_resnet50_fpn",
    ],
)
def test_torchvisions_weights_come_back(name):
    torch.manual_seed(0)
    peer = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    original = peer.state_dict()
    for values in original.values():
        if values.is_floating_point():
            values.copy_(torch.rand_like(values))  # no two tensors of one shape are alike, nor zero
    weights = recognise(original)
    exported = TARGETS["torchvision"](weights, config_of(CONFIGS[name.split("rcnn")[0]], weights))
    copy = torchvision.models.get_model(name, weights=None, weights_backbone=None, **exported.settings)
    copy.load_state_dict(exported.content, strict=True)
    for key, values in exported.content.items():
        rows = BACKGROUND.get(key.rpartition(".")[0], 0)
        assert torch.equal(values[rows:], original[key][rows:]), key
        assert not values[:rows].any()
    back = recognise(exported.content).tensors
    assert back.keys() == weights.tensors.keys()
    assert all(torch.equal(back[key], values) for key, values in weights.tensors.items())


def test_torchvision_finds_with_them_what_we_find():
    """Also with other settings than torchvision's, which the settings tell it."""
    image = textured_image((128, 192), 0)
    peer = detector(MaskRCNN, [image / 255], 7, trunk=resnet18, boldness=0.4, min_size=128, max_size=192)
    options = ["MODEL.PIXEL_MEAN", "[100, 110, 120]", "MODEL.PIXEL_STD", "[60, 60, 61]"]
    options += ["MODEL.ROI_HEADS.NMS_THRESH_TEST", "0.6", "TEST.DETECTIONS_PER_IMAGE", "30"]
    options += ["INPUT.MIN_SIZE_TEST", "128", "INPUT.MAX_SIZE_TEST", "192"]
    ours = ours_like(peer, config=CONFIGS["mask"], overrides=options).eval()
    config = config_of(CONFIGS["mask"], recognise(peer.state_dict()), *options)
    exported = TARGETS["torchvision"](Weights(ours.state_dict(), "ours"), config)
    assert exported.settings["num_classes"] == 7 and exported.notes == ()
    other = MaskRCNN(_resnet_fpn_extractor(resnet18(weights=None), 3), **exported.settings).eval()
    other.load_state_dict(exported.content, strict=True)
    got, _ = same_detections(ours.double(), other.double(), image, torch.float64)
    assert len(got) == 30


@pytest.mark.parametrize(
    ("config", "overrides", "part"),
    [
        ("mask_rcnn/mask_rcnn_r50_c4_1x_coco", [], r"MODEL.NECK.NAME ''; MODEL.ROI_HEADS.NAME 'C4RoIHeads'"),
        (CONFIGS["mask"], ["MODEL.ROI_HEADS.MASK_HEAD.PREDICTS", "softmax"], "masks of the kind 'softmax'"),
        (CONFIGS["mask"], ["MODEL.ROI_HEADS.MASK_HEAD.NAME", "MLPMaskHead"], "MASK_HEAD.NAME 'MLPMaskHead'"),
        (CONFIGS["mask"], ["MODEL.BACKBONE.STRIDE_IN_1X1", "True"], "strides in the 1x1"),
        (CONFIGS["mask"], ["MODEL.NECK.NORM", "GN"], "group normalisation"),
        (CONFIGS["mask"], ["MODEL.ROI_HEADS.BOX_POOLER.LEVELS", "all"], "from all levels"),
        (CONFIGS["keypoint"], ["MODEL.ROI_HEADS.KEYPOINT_HEAD.SCORE", "probability"], "scores of keypoints"),
    ],
)
def test_what_torchvision_does_not_have_is_named(config, overrides, part):
    cfg = maskrcnn.load_config(config, overrides)
    with pytest.raises(ExportFailed, match=f"torchvision's layout has no place for .*{part}"):
        TARGETS["torchvision"](Weights({}, "ours"), cfg)


def test_other_conventions_are_noted_and_classes_named():
    cfg = maskrcnn.load_config(CONFIGS["faster"], ["MODEL.NUM_CLASSES", "2"])
    with torch.device("meta"):
        state = maskrcnn.build_model(cfg).state_dict()
    state = {name: torch.zeros(values.shape) for name, values in state.items()}
    notes = " ".join(TARGETS["torchvision"](Weights(state, "ours", ("cat", "dog")), cfg).notes)
    assert "labels 1, 2, ... are cat, dog" in notes and "MODEL.CONVENTIONS is 'ours'" in notes
    state["extra.weight"] = torch.zeros(1)
    with pytest.raises(ExportFailed, match=r"1 tensors: extra\.weight"):
        TARGETS["torchvision"](Weights(state, "ours"), cfg)
    del state["extra.weight"], state["roi_heads.box_head.logits.bias"]
    with pytest.raises(ExportFailed, match="no box predictor"):
        TARGETS["torchvision"](Weights(state, "ours"), cfg)
