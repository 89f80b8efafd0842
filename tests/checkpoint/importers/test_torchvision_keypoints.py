"""Our keypoint detector with torchvision's weights against torchvision's own: detections, points, loss, gradients."""

import pytest
import torch
from mask_rcnn import ours_like, textured_image
from peers import keypoint_rcnn
from torchvision.models.detection.roi_heads import keypointrcnn_loss

from maskrcnn.checkpoint.importers import recognise
from maskrcnn.structures import Instances, RoISamples, Sample

SIZES = [(224, 320), (301, 233), (256, 256), (200, 384), (352, 288)]
CONFIG = "mask_rcnn/keypoint_rcnn_r50_fpn_1x_coco.yaml"


@pytest.fixture(scope="module")
def models():
    peer = keypoint_rcnn([textured_image(size, 0) / 255 for size in SIZES], min_size=200, max_size=400).eval()
    return ours_like(peer, config=CONFIG).eval(), peer


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
    gt_index = torch.arange(6).repeat(2)
    rois = boxes[gt_index] + torch.randn(12, 4) * 4
    features = peer.backbone(peer.transform([textured_image(size, 0) / 255])[0].tensors)
    features = {name: value.detach() for name, value in features.items()}
    heads = peer.roi_heads
    pooled = heads.keypoint_roi_pool(features, [rois], [size])
    theirs = keypointrcnn_loss(heads.keypoint_predictor(heads.keypoint_head(pooled)), [rois], [keypoints], [gt_index])
    theirs.backward()

    targets = Instances(boxes, torch.zeros(6).long(), size, None, keypoints)
    samples = [RoISamples(rois, torch.zeros(12).long(), gt_index, size, 1)]
    mine = {f"p{int(name) + 2}": value for name, value in features.items() if name != "pool"}
    head = ours.roi_heads.keypoint_head
    samples = head.samples(samples, [targets])
    loss = head.losses(ours.roi_heads.keypoint_logits(mine, samples), samples, [targets])["loss_keypoint"]
    loss.backward()
    assert loss > 1
    torch.testing.assert_close(loss, theirs, rtol=0, atol=1e-5)
    grads = {name: p.grad for name, p in peer.named_parameters() if "keypoint" in name}
    names = [name for name, _ in ours.named_parameters() if "keypoint" in name]
    assert len(grads) == len(names) == 18
    assert all(p.grad is not None for name, p in ours.named_parameters() if name in names)
    of_ours = recognise_gradients(peer, grads)
    for name in names:
        expected, got = of_ours[name], ours.get_parameter(name).grad
        assert (got - expected).abs().max() <= 1e-4 * expected.abs().max(), name


def recognise_gradients(peer, grads):
    """The peer's gradients under our names: its state dict with the gradients in the place of the weights."""
    return recognise({**peer.state_dict(), **grads}).tensors


def test_every_tensor_has_a_place_and_the_class_a_name(models):
    ours, peer = models
    weights = recognise(peer.state_dict())
    assert weights.class_names == ("person",) and weights.needs["MODEL.NUM_CLASSES"] == 1
    expected = {name: value.shape for name, value in ours.state_dict().items()}
    assert {name: value.shape for name, value in weights.tensors.items()} == expected
