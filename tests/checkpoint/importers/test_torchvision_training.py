"""One training step of our detectors and torchvision's, from the same weights: each loss and each gradient."""

import pytest
import torch
from mask_rcnn import ours_like, textured_image
from peers import detector, detector_v2
from torchvision.models import resnet18
from torchvision.models.detection import (
    FasterRCNN,
    KeypointRCNN,
    MaskRCNN,
    fasterrcnn_resnet50_fpn_v2,
    maskrcnn_resnet50_fpn_v2,
)
from torchvision_parity import random_objects, same_training_step

SIZES = [(128, 192), (192, 128)]
FEW = {"min_size": 128, "max_size": 192, "rpn_batch_size_per_image": 64, "box_batch_size_per_image": 24}
IMAGES = [textured_image(size, seed) for seed, size in enumerate(SIZES)]
CONFIGS = {kind: f"mask_rcnn/{kind}_rcnn_r50_fpn_1x_coco.yaml" for kind in ("faster", "mask", "keypoint")}
TORCHVISION_BETA = [f"{part}.SMOOTH_L1_BETA={1 / 9}" for part in ("MODEL.PROPOSALS", "MODEL.ROI_HEADS.BOX_HEAD")]


def compare(peer, kind: str, num_classes: int, overrides: list[str]) -> int:
    ours = ours_like(peer, config=CONFIGS[kind], overrides=[*TORCHVISION_BETA, *overrides])
    objects = [random_objects(size, 5, num_classes, seed) for seed, size in enumerate(SIZES)]
    torch.manual_seed(0)
    return same_training_step(ours, peer, IMAGES, objects)


def test_mask_rcnn_of_a_small_trunk():
    peer = detector(MaskRCNN, [i / 255 for i in IMAGES], 7, trunk=resnet18, **FEW)
    # convolutions of layer2 to layer4, and weights and biases of FPN, RPN, box branch and mask branch
    assert compare(peer, "mask", 6, []) == 3 * 5 + 16 + 6 + 8 + 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "peer_class", "count"),
    [("faster", FasterRCNN, 91), ("mask", MaskRCNN, 91), ("keypoint", KeypointRCNN, 2)],
    ids=["faster", "mask", "keypoint"],
)
def test_v1(kind, peer_class, count):
    peer = detector(peer_class, [i / 255 for i in IMAGES], count, **FEW)
    assert compare(peer, kind, count - 1, []) > 60


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "builder"), [("faster", fasterrcnn_resnet50_fpn_v2), ("mask", maskrcnn_resnet50_fpn_v2)]
)
def test_v2(kind, builder):
    """All is trained, and all norms, also those of the stem, are over the batch."""
    peer = detector_v2(builder, [i / 255 for i in IMAGES], **FEW)
    assert compare(peer, kind, 90, ["MODEL.BACKBONE.FREEZE_AT", "0"]) > 200
