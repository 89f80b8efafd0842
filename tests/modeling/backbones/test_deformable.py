import pytest
import torch

from maskrcnn.modeling.backbones import ResNet
from maskrcnn.modeling.backbones.deformable import DeformConvNorm
from maskrcnn.modeling.layers import ConvNorm, fold_frozen_norms


def pair(modulated: bool, **options) -> tuple[DeformConvNorm, ConvNorm]:
    """A deformable convolution, and a plain one of the same weights."""
    torch.manual_seed(0)
    ours = DeformConvNorm(4, 6, 3, modulated=modulated, **options)
    plain = ConvNorm(4, 6, 3, **options)
    plain.load_state_dict({name: t for name, t in ours.state_dict().items() if not name.startswith("offset.")})
    return ours, plain


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2}, {"dilation": 2}, {"groups": 2, "norm": "FrozenBN"}, {"norm": "BN", "stride": 2}]
)
def test_at_first_it_is_the_plain_convolution(options):
    ours, plain = pair(modulated=False, **options)
    x = torch.randn(2, 4, 9, 11)
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"dilation": 2, "groups": 2}])
def test_at_first_the_modulated_one_is_half_of_it(options):
    ours, plain = pair(modulated=True, **options)
    torch.nn.init.zeros_(ours.bias), torch.nn.init.zeros_(plain.bias)
    x = torch.randn(2, 4, 9, 11)
    torch.testing.assert_close(2 * ours(x), plain(x), rtol=1e-4, atol=1e-5)


def deform_plainly(x, weight, bias, offset, modulation):
    """Dai et al. Eq. 2 with bilinear reading (Eq. 3-4) and Zhu et al. Eq. 1, tap by tap; one image, padding 1."""
    channels, height, width = x.shape
    out = bias[:, None, None].repeat(1, height, width)
    for y in range(height):
        for c in range(width):
            for k in range(9):
                py = y + k // 3 - 1 + offset[2 * k, y, c].item()
                px = c + k % 3 - 1 + offset[2 * k + 1, y, c].item()
                value = torch.zeros(channels)
                for v in range(height):
                    for u in range(width):
                        value += max(0, 1 - abs(py - v)) * max(0, 1 - abs(px - u)) * x[:, v, u]
                out[:, y, c] += modulation[k, y, c] * (weight[:, :, k // 3, k % 3] @ value)
    return out


@pytest.mark.parametrize("modulated", [False, True])
@torch.inference_mode()
def test_taps_move_by_the_predicted_offsets(modulated):
    ours, _ = pair(modulated)
    torch.nn.init.normal_(ours.offset.weight, std=0.2)
    torch.nn.init.normal_(ours.offset.bias)
    x = torch.randn(1, 4, 5, 6)
    predicted = torch.nn.functional.conv2d(x, ours.offset.weight, ours.offset.bias, padding=1)[0]
    modulation = predicted[18:].sigmoid() if modulated else torch.ones(9, 5, 6)
    expected = deform_plainly(x[0], ours.weight, ours.bias, predicted[:18], modulation)
    torch.testing.assert_close(ours(x)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
def test_a_deformable_trunk_trains(modulated, autocast):
    torch.manual_seed(0)
    trunk = ResNet(width=16, deform_stages=("res4", "res5"), deform_modulated=modulated, groups=2, width_per_group=32)
    offsets = [name for name, _ in trunk.named_parameters() if ".offset." in name]
    assert len(offsets) == 2 * (6 + 3)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        features = trunk(torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last))
        sum(f.float().square().mean() for f in features.values()).backward()
    trained = [(name, p) for name, p in trunk.named_parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for _, p in trained)
    assert all(p.grad.abs().sum() > 0 for name, p in trained if name in offsets)


@torch.inference_mode()
def test_its_frozen_norm_folds_for_good():
    ours, _ = pair(modulated=True, norm="FrozenBN")
    torch.nn.init.uniform_(ours.norm.running_var, 0.5, 2), torch.nn.init.normal_(ours.norm.running_mean)
    torch.nn.init.normal_(ours.offset.weight, std=0.2)
    x = torch.randn(1, 4, 7, 6)
    expected = ours.norm(torch.nn.Sequential(ours)[0]._convolve(x, ours.weight, None))
    fold_frozen_norms(ours)
    assert ours.norm is None
    torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-4)
