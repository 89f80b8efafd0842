"""Our keypoint detector with torchvision's weights against torchvision's own: detections, points, loss, gradients."""

import copy

import pytest
import torch
from mask_rcnn import ours_like, textured_image
from peers import keypoint_rcnn
from torchvision.models.detection.roi_heads import keypointrcnn_loss

from maskrcnn.checkpoint.importers import recognise
from maskrcnn.structures import Instances, RoISamples, Sample

SIZES = [(224, 320), (301, 233), (256, 256), (200, 384), (352, 288)]
PEOPLE = 25  # the head is most of the work
CONFIG = "mask_rcnn/keypoint_rcnn_r50_fpn_90k_coco.yaml"


@pytest.fixture(scope="module")
def models():
    images = [textured_image(size, 0) / 255 for size in SIZES[:2]]
    peer = keypoint_rcnn(images, min_size=200, max_size=400, detections=PEOPLE).eval()
    ours = ours_like(peer, config=CONFIG).eval()
    ours.roi_heads.detections_per_image = PEOPLE
    return ours, peer


@pytest.mark.parametrize("size", SIZES)
def test_same_people_and_keypoints_as_torchvision(models, size):
    ours, peer = models
    peer.transform.min_size, peer.transform.max_size = (min(size),), max(size)  # no resize
    image = textured_image(size, 0)
    with torch.inference_mode():
        (got,) = ours([Sample(image, 0, size)])
        (expected,) = peer([image / 255])
    assert len(got) == len(expected["boxes"]) >= 20
    assert (got.labels == 0).all() and (expected["labels"] == 1).all()
    torch.testing.assert_close(got.boxes, expected["boxes"], rtol=0, atol=1e-3)
    torch.testing.assert_close(got.scores, expected["scores"], rtol=0, atol=1e-5)
    torch.testing.assert_close(got.keypoints[..., 2], expected["keypoints_scores"], rtol=0, atol=1e-4)
    torch.testing.assert_close(got.keypoints[..., :2], expected["keypoints"][..., :2], rtol=0, atol=1e-3)


def test_same_loss_and_gradients_as_torchvision(models):
    ours, peer = models
    torch.manual_seed(0)
    size = SIZES[0]
    corner = torch.rand(6, 2) * 100
    boxes = torch.cat([corner, corner + 20 + torch.rand(6, 2) * 90], dim=1)
    around = boxes[:, None, :2] + torch.rand(6, 17, 2) * (boxes[:, None, 2:] - boxes[:, None, :2]) * 1.2
    keypoints = torch.cat([around, torch.randint(0, 3, (6, 17, 1))], dim=2)
    gt_index = torch.arange(6)
    rois = boxes + torch.randn(6, 4) * 4
    targets = Instances(boxes, torch.zeros(6).long(), size, None, keypoints)
    samples = [RoISamples(rois, torch.zeros(6).long(), gt_index, size, 1)]
    head, peer_head = ours.roi_heads.keypoint_head, peer.roi_heads
    with torch.no_grad():
        features = peer.backbone(peer.transform([textured_image(size, 0) / 255])[0].tensors)
        pooled = peer_head.keypoint_roi_pool(features, [rois], [size])
        logits = peer_head.keypoint_predictor(peer_head.keypoint_head(pooled))
        theirs = keypointrcnn_loss(logits, [rois], [keypoints], [gt_index])
        mine = {f"p{int(name) + 2}": value for name, value in features.items() if name != "pool"}
        labelled = head.samples(samples, [targets])
        loss = head.losses(ours.roi_heads.keypoint_logits(mine, labelled), labelled, [targets])["loss_keypoint"]
    assert loss > 1
    torch.testing.assert_close(loss, theirs, rtol=0, atol=1e-5)

    # In double precision: in single, a rounding error in front of a ReLU turns a cell on or off.
    ours, peer, pooled = copy.deepcopy(ours).double(), copy.deepcopy(peer).double(), pooled.double()
    head, peer_head = ours.roi_heads.keypoint_head, peer.roi_heads
    head.losses(head(pooled), samples, [targets])["loss_keypoint"].backward()
    logits = peer_head.keypoint_predictor(peer_head.keypoint_head(pooled))
    keypointrcnn_loss(logits, [rois.double()], [keypoints.double()], [gt_index]).backward()
    grads = {name: p.grad for name, p in peer.named_parameters() if p.grad is not None}
    expected = recognise({**peer.state_dict(), **grads}).tensors  # under our names
    names = [name for name, p in ours.named_parameters() if p.grad is not None]
    assert len(grads) == len(names) == 18
    for name in names:
        difference = (ours.get_parameter(name).grad - expected[name]).abs().max()
        assert difference <= max(1e-4 * expected[name].abs().max(), 1e-7), name  # the last bias has none: a softmax


def test_every_tensor_has_a_place_and_the_class_a_name(models):
    ours, peer = models
    weights = recognise(peer.state_dict())
    assert weights.class_names == ("person",) and weights.needs["MODEL.NUM_CLASSES"] == 1
    expected = {name: value.shape for name, value in ours.state_dict().items()}
    assert {name: value.shape for name, value in weights.tensors.items()} == expected
