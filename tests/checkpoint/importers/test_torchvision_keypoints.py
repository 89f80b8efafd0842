"""Our keypoint detector with torchvision's weights against torchvision's own."""

import pytest
from mask_rcnn import ours_like, textured_image
from peers import keypoint_rcnn
from torchvision_parity import same_detections

from maskrcnn.checkpoint.importers import recognise

SIZES = [(224, 320), (301, 233), (256, 256), (200, 384), (352, 288)]
PEOPLE = 25  # the head is most of the work
CONFIG = "mask_rcnn/keypoint_rcnn_r50_fpn_90k_coco.yaml"


@pytest.fixture(scope="module")
def models():
    images = [textured_image(size, 0) / 255 for size in SIZES[:2]]
    peer = keypoint_rcnn(images, min_size=240, max_size=400, detections=PEOPLE).eval()
    ours = ours_like(peer, config=CONFIG).eval()
    ours.roi_heads.detections_per_image = PEOPLE
    return ours, peer


@pytest.mark.parametrize("size", SIZES)
def test_same_people_and_keypoints_as_torchvision(models, size):
    got, _ = same_detections(*models, textured_image(size, 0))
    assert (got.labels == 0).all() and got.keypoints is not None


def test_every_tensor_has_a_place_and_the_class_a_name(models):
    ours, peer = models
    weights = recognise(peer.state_dict())
    assert weights.class_names == ("person",) and weights.needs["MODEL.NUM_CLASSES"] == 1
    expected = {name: value.shape for name, value in ours.state_dict().items()}
    assert {name: value.shape for name, value in weights.tensors.items()} == expected
