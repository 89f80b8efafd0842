"""Our detectors with torchvision's weights against torchvision's own."""

import copy

import pytest
import torch
import torchvision
from mask_rcnn import ours_like, textured_image
from peers import detector, detector_v2
from torchvision.models.detection import (
    FasterRCNN,
    MaskRCNN,
    fasterrcnn_resnet50_fpn_v2,
    maskrcnn_resnet50_fpn_v2,
)
from torchvision_parity import same_detections

from maskrcnn.checkpoint.importers import ImportFailed, recognise
from maskrcnn.checkpoint.importers.torchvision import fold_zero_eps, read_named
from maskrcnn.modeling.layers import FrozenBatchNorm2d
from maskrcnn.ops.reference.roi_align import assign_levels

SIZES = [(224, 320), (301, 233), (256, 256), (200, 384), (352, 288)]
# The heads are most of the work. Few anchors of each level, and all boxes made of them: also those of the coarse ones.
FEW = {
    "rpn_pre_nms_top_n_test": 60,
    "rpn_post_nms_top_n_test": 300,
    "box_detections_per_img": 50,
    "min_size": 160,
    "max_size": 320,
    "boldness": 0.4,
}
OVERRIDES = ["MODEL.PROPOSALS.PRE_NMS_TOPK_TEST", "60", "MODEL.PROPOSALS.POST_NMS_TOPK_TEST", "300"]
OVERRIDES += ["TEST.DETECTIONS_PER_IMAGE", "50"]
CONFIGS = {kind: f"mask_rcnn/{kind}_rcnn_r50_fpn_1x_coco.yaml" for kind in ("faster", "mask")}
RESNET50 = {"DEPTH": 50, "WIDTH": 64, "GROUPS": 1, "WIDTH_PER_GROUP": 64, "NORM": "FrozenBN", "STRIDE_IN_1X1": False}
SLOW = {"faster", "faster_v2", "mask_v2"}
PEERS = {
    "faster": lambda images: detector(FasterRCNN, images, 91, **FEW),
    "mask": lambda images: detector(MaskRCNN, images, 91, **FEW),
    "faster_v2": lambda images: detector_v2(fasterrcnn_resnet50_fpn_v2, images, **FEW),
    "mask_v2": lambda images: detector_v2(maskrcnn_resnet50_fpn_v2, images, **FEW),
}


@pytest.fixture(
    scope="module", params=[pytest.param(kind, marks=[pytest.mark.slow] if kind in SLOW else []) for kind in PEERS]
)
def models(request):
    peer = PEERS[request.param]([textured_image(size, 0) / 255 for size in SIZES[:2]])
    return ours_like(peer, config=CONFIGS[request.param.split("_")[0]], overrides=OVERRIDES).eval(), peer


def test_same_detections_as_torchvision(models):
    """In double precision: through fifty random layers, in single, torchvision's own scores are off by 7e-5."""
    ours, peer = (copy.deepcopy(model).double() for model in models)
    levels, classes = set(), set()
    for i, size in enumerate(SIZES):
        side = 600 if i == 0 else 160  # in the large one there are boxes for the coarsest level
        peer.transform.min_size, peer.transform.max_size = (side,), 2 * side
        got, proposals = same_detections(ours, peer, textured_image(size, 0), torch.float64)
        classes |= set(got.labels.tolist())
        rule = {"canonical_level": 4, "canonical_size": 224, "epsilon": 1e-6, "finest": 2, "extent": 0.0}
        levels |= set(assign_levels(proposals, 4, **rule).tolist())
    assert len(levels) == 4 and len(classes) >= 5


def test_every_tensor_has_a_place(models):
    ours, peer = models
    expected = {name: value.shape for name, value in ours.state_dict().items() if "num_batches" not in name}
    assert {name: value.shape for name, value in recognise(peer.state_dict()).tensors.items()} == expected


def test_old_names_mean_eps_zero():
    norm = FrozenBatchNorm2d(3)
    norm.running_var.copy_(torch.tensor([1e-4, 0.01, 2.0]))
    tensors = {f"x.norm.{name}": value.clone() for name, value in norm.state_dict().items()}
    fold_zero_eps(tensors)
    folded = FrozenBatchNorm2d(3)
    folded.load_state_dict({name.removeprefix("x.norm."): value for name, value in tensors.items()})
    torch.testing.assert_close(folded.scale_and_shift()[0], norm.running_var.rsqrt())


def test_the_needs_of_v2_say_what_v1_does_not_have():
    with torch.device("meta"):
        v1 = recognise(torchvision_model("fasterrcnn_resnet50_fpn"))
        v2 = recognise(torchvision_model("maskrcnn_resnet50_fpn_v2"))
    assert {key: value for key, value in v2.needs.items() if v1.needs.get(key) != value} == {
        "MODEL.ROI_HEADS.MASK_POOLER.SAMPLING_RATIO": 2,
        "MODEL.BACKBONE.NORM": "BN",
        "MODEL.NECK.NORM": "BN",
        "MODEL.PROPOSALS.NUM_CONVS": 2,
        "MODEL.ROI_HEADS.BOX_HEAD.NAME": "ConvFCBoxHead",
        "MODEL.ROI_HEADS.BOX_HEAD.NUM_CONVS": 4,
        "MODEL.ROI_HEADS.BOX_HEAD.NORM": "BN",
        "MODEL.ROI_HEADS.MASK_HEAD.NORM": "BN",
    }


def test_the_needs_of_a_detector_are_complete():
    """With a Detectron2 model's weights before them in MODEL.WEIGHTS, none of its values may stay."""
    with torch.device("meta"):
        people = recognise(torchvision_model("keypointrcnn_resnet50_fpn")).needs
        incomplete = torchvision_model("fasterrcnn_resnet50_fpn")
    heads = "MODEL.ROI_HEADS."
    assert people == {
        "MODEL.NUM_CLASSES": 1,
        "MODEL.CONVENTIONS": "torchvision",
        "MODEL.PIXEL_MEAN": (123.675, 116.28, 103.53),
        "MODEL.PIXEL_STD": (58.395, 57.12, 57.375),
        "INPUT.SIZE_ROUNDING": "down",
        **{f"MODEL.BACKBONE.{key}": value for key, value in RESNET50.items()},
        "MODEL.NECK.NORM": "",
        **{f"{heads}{kind}_POOLER.SAMPLING_RATIO": 2 for kind in ("BOX", "KEYPOINT")},
        f"{heads}KEYPOINT_HEAD.SCORE": "logit",
    }
    with pytest.raises(ImportFailed, match=r"roi_heads\.box_head\.logits.* is missing"):
        recognise({name: t for name, t in incomplete.items() if "box_predictor" not in name})
    with pytest.raises(ImportFailed, match=r"roi_heads\.box_head\.logits"):
        recognise({name: t for name, t in incomplete.items() if "roi_heads" not in name})


def test_a_trunk_alone_asks_for_no_norm():
    with torch.device("meta"):
        trunk = recognise(torchvision.models.resnext50_32x4d().state_dict()).needs
    wanted = {**RESNET50, "GROUPS": 32, "WIDTH_PER_GROUP": 4}
    del wanted["NORM"]
    assert {key.removeprefix("MODEL.BACKBONE."): value for key, value in trunk.items()} == {
        **wanted,
        "MODEL.PIXEL_MEAN": (123.675, 116.28, 103.53),
        "MODEL.PIXEL_STD": (58.395, 57.12, 57.375),
    }


def torchvision_model(name):
    return torchvision.models.get_model(name, weights=None, weights_backbone=None).state_dict()


def test_what_is_left_over_is_listed():
    with torch.device("meta"):
        state = torchvision_model("fasterrcnn_resnet50_fpn")
    state["roi_heads.point_head.0.weight"] = torch.zeros(1)
    with pytest.raises(ImportFailed, match=r"roi_heads\.point_head\.0\.weight"):
        recognise(state)


def test_other_layouts_are_not_recognised():
    assert recognise({"backbone.stem.conv1.weight": torch.zeros(1)}) is None


def test_an_unknown_name_says_so():
    with pytest.raises(ImportFailed, match="no weights 'ResNet51"):
        read_named("torchvision://ResNet51_Weights.IMAGENET1K_V1")


def test_weights_that_cannot_be_had_name_file_and_address(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_network(*args, **kwargs):
        raise OSError("network is unreachable")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    with pytest.raises(ImportFailed, match=r"resnet50-0676ba61\.pth.*https://download\.pytorch\.org"):
        read_named("torchvision://ResNet50_Weights.IMAGENET1K_V1")
