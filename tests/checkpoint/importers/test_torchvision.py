"""Our detector with torchvision's weights against torchvision's own detector."""

import pytest
import torch
from mask_rcnn import disagreement, ours_like, textured_image
from peers import mask_rcnn

from maskrcnn.checkpoint.importers import ImportFailed, recognise
from maskrcnn.checkpoint.importers.torchvision import fold_zero_eps, read_named
from maskrcnn.modeling.layers import FrozenBatchNorm2d
from maskrcnn.structures import Sample

SIZES = [(224, 320), (301, 233), (256, 256)]


@pytest.fixture(scope="module")
def models():
    peer = mask_rcnn([textured_image(size, 0) / 255 for size in SIZES], min_size=200, max_size=400).eval()
    peer.transform.fixed_size = None
    return ours_like(peer).eval(), peer


@pytest.mark.parametrize("size", SIZES)
def test_same_detections_as_torchvision(models, size):
    ours, peer = models
    peer.transform.min_size, peer.transform.max_size = (min(size),), max(size)  # no resize
    image = textured_image(size, 0)
    with torch.inference_mode():
        (got,) = ours([Sample(image, 0, size)])
        (expected,) = peer([image / 255])
        disagreement(got, expected)
        assert len(got.labels.unique()) >= 5
        # torchvision returns pasted masks; its soft 28 x 28 ones come from the head on our boxes.
        features = peer.backbone(peer.transform([image / 255])[0].tensors)
        roi_heads = peer.roi_heads
        pooled = roi_heads.mask_roi_pool(features, [got.boxes], [size])
        logits = roi_heads.mask_predictor(roi_heads.mask_head(pooled))
    soft = logits[torch.arange(len(got)), got.labels + 1].sigmoid()
    torch.testing.assert_close(got.masks, soft, rtol=0, atol=1e-4)


def test_old_names_mean_eps_zero():
    norm = FrozenBatchNorm2d(3)
    norm.running_var.copy_(torch.tensor([1e-4, 0.01, 2.0]))
    tensors = {f"x.norm.{name}": value.clone() for name, value in norm.state_dict().items()}
    fold_zero_eps(tensors)
    folded = FrozenBatchNorm2d(3)
    folded.load_state_dict({name.removeprefix("x.norm."): value for name, value in tensors.items()})
    torch.testing.assert_close(folded.scale_and_shift()[0], norm.running_var.rsqrt())


def test_what_is_left_over_is_listed(models):
    state = dict(models[1].state_dict())
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
