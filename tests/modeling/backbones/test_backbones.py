import pytest
import torch
import torchvision
from torch import nn

from maskrcnn.checkpoint.importers import recognise
from maskrcnn.modeling.backbones import FPN, ResNet
from maskrcnn.modeling.layers import FeatureSpec, FrozenBatchNorm2d


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_resnet_equals_torchvisions(depth):
    peer = getattr(torchvision.models, f"resnet{depth}")(weights=None).eval()
    for module in peer.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    ours = ResNet(depth=depth).eval()
    weights = recognise(peer.state_dict())
    assert weights.needs["MODEL.BACKBONE.DEPTH"] == depth
    ours.load_state_dict({name.removeprefix("backbone."): t for name, t in weights.tensors.items()})

    images = torch.randn(1, 3, 70, 95)  # sides that no stride divides
    x = peer.maxpool(peer.relu(peer.bn1(peer.conv1(images))))
    features = ours(images)
    for name, stage in zip(features, (peer.layer1, peer.layer2, peer.layer3, peer.layer4), strict=True):
        x = stage(x)
        torch.testing.assert_close(features[name], x, rtol=1e-3, atol=1e-4 * x.abs().max().item())
        assert features[name].shape[1] == ours.specs[name].channels


def test_frozen_stages_do_not_train_and_have_frozen_norms():
    backbone = ResNet(depth=18, norm="BN", freeze_at=2)
    assert not any(p.requires_grad for p in [*backbone.stem.parameters(), *backbone.stages["res2"].parameters()])
    assert all(p.requires_grad for p in backbone.stages["res3"].parameters())
    assert isinstance(backbone.stages["res2"][0].conv1.norm, FrozenBatchNorm2d)
    assert isinstance(backbone.stages["res3"][0].conv1.norm, nn.BatchNorm2d)
    assert all(p.requires_grad for p in ResNet(depth=18, norm="GN", freeze_at=0).parameters())


def test_a_narrow_trunk_keeps_its_shape():
    backbone = ResNet(depth=18, width=16)
    assert [spec.channels for spec in backbone.specs.values()] == [16, 32, 64, 128]
    features = backbone(torch.randn(1, 3, 64, 64))
    assert [f.shape[1] for f in features.values()] == [16, 32, 64, 128]


def test_stages_behind_the_last_level_are_not_built():
    backbone = ResNet(depth=18, out_features=("res3", "res4"))
    assert list(backbone.stages) == ["res2", "res3", "res4"] and list(backbone.specs) == ["res3", "res4"]
    assert list(backbone(torch.randn(1, 3, 64, 64))) == ["res3", "res4"]


def test_the_stride_moves_to_the_first_convolution():
    block = ResNet(depth=50, stride_in_1x1=True).stages["res3"][0]
    assert block.conv1.stride == (2, 2) and block.conv2.stride == (1, 1)


@pytest.mark.parametrize("options", [{"depth": 20}, {"out_features": ("res9",)}])
def test_bad_options_say_what_there_is(options):
    with pytest.raises(ValueError, match="34, 50|res2, res3"):
        ResNet(**options)


def test_fpn_equals_torchvisions():
    specs = {f"res{i}": FeatureSpec(4 * i, 2**i) for i in (2, 3, 4, 5)}
    ours = FPN(specs, channels=8)
    peer = torchvision.ops.FeaturePyramidNetwork([8, 12, 16, 20], 8)
    for i, name in enumerate(specs):
        peer.inner_blocks[i][0].load_state_dict(ours.lateral[name].state_dict())
        peer.layer_blocks[i][0].load_state_dict(ours.output[name].state_dict())
    features = {name: torch.randn(2, s.channels, 64 // s.stride, 96 // s.stride) for name, s in specs.items()}
    got, expected = ours(features), peer(features)
    for name in specs:
        torch.testing.assert_close(got[name.replace("res", "p")], expected[name])
    assert torch.equal(got["p6"], got["p5"][:, :, ::2, ::2])
    assert list(got) == list(ours.specs) == ["p2", "p3", "p4", "p5", "p6"] and ours.specs["p6"].stride == 64
