import pytest
import torch
import torchvision
from torch import nn

from maskrcnn.checkpoint.importers import recognise
from maskrcnn.modeling.backbones import FPN, ResNet
from maskrcnn.modeling.layers import FeatureSpec, FrozenBatchNorm2d

TRUNKS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d"]


def random_peer(name: str) -> nn.Module:
    """torchvision's classifier with random weights, and statistics that it sees on noise."""
    torch.manual_seed(0)
    peer = getattr(torchvision.models, name)(weights=None)
    for layer, norm in peer.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.1)
            if layer.endswith("bn3"):
                norm.weight.data *= 0.2  # as in trained networks; else 152 layers blow up float32's rounding
    with torch.no_grad():
        peer.train()(torch.randn(2, 3, 64, 64))
    return peer.eval()


def ours_like(peer: nn.Module, **options) -> ResNet:
    """Our trunk of the shape that the importer reads from the peer's weights, with these weights."""
    weights = recognise(peer.state_dict())
    of_trunk = {key: value for key, value in weights.needs.items() if key.startswith("MODEL.BACKBONE.")}
    wanted = {key.rpartition(".")[2].lower(): value for key, value in of_trunk.items()}
    ours = ResNet(**wanted, **options).eval()
    ours.load_state_dict({name.removeprefix("backbone."): t for name, t in weights.tensors.items()})
    return ours


@pytest.mark.parametrize("name", TRUNKS)
@torch.inference_mode()
def test_trunk_equals_torchvisions(name):
    peer = random_peer(name)
    ours = ours_like(peer)
    assert str(ours.depth) in name

    images = torch.randn(1, 3, 70, 95)  # sides that no stride divides
    x = peer.maxpool(peer.relu(peer.bn1(peer.conv1(images))))
    features = ours(images)
    for name, stage in zip(features, (peer.layer1, peer.layer2, peer.layer3, peer.layer4), strict=True):
        x = stage(x)
        torch.testing.assert_close(features[name], x, rtol=1e-3, atol=1e-4 * x.abs().max().item())
        assert features[name].shape[1] == ours.specs[name].channels and x.std() > 0.1


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


@torch.inference_mode()
def test_a_dilated_res5_computes_at_every_place_what_the_strided_one_does_at_every_other():
    """DC5. It holds where the first block's 3x3 convolution has its centre alone, whose neighbours move apart too."""
    peer = random_peer("resnet50")
    strided, dilated = ours_like(peer), ours_like(peer, res5_dilation=2)
    assert dilated.specs["res5"].stride == dilated.specs["res4"].stride == 16
    around = torch.ones(3, 3, dtype=torch.bool)
    around[1, 1] = False
    for trunk in (strided, dilated):
        trunk.stages["res5"][0].conv2.weight[:, :, around] = 0
    x = torch.randn(1, 1024, 14, 18)
    once, every = strided.stages["res5"](x), dilated.stages["res5"](x)
    assert every.shape[-2:] == x.shape[-2:]
    torch.testing.assert_close(every[:, :, ::2, ::2], once, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_the_dilated_stage_equals_torchvisions_behind_its_first_block():
    """torchvision dilates from the second block on (a stage's first block has the dilation before it)."""
    torch.manual_seed(0)
    peer = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=[False, False, True]).eval()
    ours = ours_like(peer, res5_dilation=2).stages["res5"]
    ours[0].conv2.dilation = ours[0].conv2.padding = (1, 1)
    x = torch.randn(1, 1024, 9, 12)
    torch.testing.assert_close(ours(x), peer.layer4(x), rtol=1e-3, atol=1e-3)


def test_the_roi_stage_is_the_trunks_last_stage():
    peer = random_peer("resnet50")
    whole, trunk = ours_like(peer), ResNet(out_features=("res4",))
    name, stage, channels = trunk.roi_stage(stride=2)
    assert name == "stages.res5" and channels == 2048 and "res5" not in trunk.stages
    stage.load_state_dict(whole.stages["res5"].state_dict())
    x = torch.randn(2, 1024, 14, 14)
    assert torch.equal(stage(x), whole.stages["res5"](x))
    assert trunk.roi_stage(stride=1)[1](x[:, :, :7, :7]).shape == (2, 2048, 7, 7)
    with pytest.raises(ValueError, match="leaves no stage to run on RoIs"):
        whole.roi_stage(stride=2)


def test_a_frozen_roi_stage_does_not_train():
    _, stage, _ = ResNet(out_features=("res4",), norm="BN", freeze_at=5).roi_stage(stride=1)
    assert not any(p.requires_grad for p in stage.parameters())
    assert isinstance(stage[0].conv1.norm, FrozenBatchNorm2d)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 20}, "34, 50"),
        ({"out_features": ("res9",)}, "res2, res3"),
        ({"deform_stages": ("res6",)}, "no level res6"),
        ({"res5_dilation": 4}, "RES5_DILATION: 4"),
        ({"depth": 34, "groups": 32, "width_per_group": 4}, "34 has no bottlenecks"),
        ({"depth": 18, "deform_stages": ("res5",)}, "18 has no bottlenecks"),
    ],
)
def test_bad_options_say_what_there_is(options, message):
    with pytest.raises(ValueError, match=message):
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


def test_fpn_refuses_levels_that_do_not_halve():
    with pytest.raises(ValueError, match="strides 4, 8, 16, 16"):
        FPN(ResNet(depth=18, res5_dilation=2).specs)
