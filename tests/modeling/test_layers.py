import copy

import pytest
import torch
from torch import nn

from maskrcnn.modeling.layers import ConvNorm, FeatureSpec, FrozenBatchNorm2d, PerLevel, make_norm, pick_levels


def test_a_frozen_norm_is_batch_norm_at_test_time():
    norm, frozen = nn.BatchNorm2d(5).eval(), FrozenBatchNorm2d(5)
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    frozen.load_state_dict({k: v for k, v in norm.state_dict().items() if k != "num_batches_tracked"})
    x = torch.randn(2, 5, 4, 3)
    torch.testing.assert_close(frozen(x), norm(x))


def test_folding_the_frozen_norm_changes_neither_values_nor_gradients():
    conv = ConvNorm(4, 6, 3, norm="FrozenBN", stride=2).double()
    nn.init.normal_(conv.norm.running_mean)
    nn.init.uniform_(conv.norm.running_var, 0.5, 2)
    x = torch.randn(2, 4, 9, 7, dtype=torch.float64)
    apart = copy.deepcopy(conv)
    expected = apart.norm(nn.functional.conv2d(x, apart.weight, None, stride=2, padding=1))
    got = conv(x)
    torch.testing.assert_close(got, expected)
    got.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(conv.weight.grad, apart.weight.grad)


@pytest.mark.parametrize("name", ["", "FrozenBN", "BN", "SyncBN", "GN"])
def test_norms_keep_the_shape(name):
    conv = ConvNorm(3, 8, 3, norm=name).eval()
    assert conv(torch.randn(2, 3, 6, 5)).shape == (2, 8, 6, 5)
    assert (conv.bias is not None) == (name == "")


def test_an_unknown_norm_is_named():
    with pytest.raises(ValueError, match="'LN'.*'GN'"):
        make_norm("LN", 8)


def test_a_missing_level_names_reader_and_levels():
    with pytest.raises(ValueError, match="RPN reads p7, but the levels are p2"):
        pick_levels({"p2": FeatureSpec(8, 4)}, ["p2", "p7"], "RPN")


def test_per_level_blocks_are_fused_by_the_maximum():
    per_level = PerLevel(lambda: nn.Linear(3, 2), levels=2)
    x = torch.randn(2, 5, 3)
    first, second = (block(level) for block, level in zip(per_level.blocks, x, strict=True))
    assert torch.equal(per_level(x), torch.maximum(first, second))
    assert PerLevel(lambda: nn.Linear(3, 2), levels=1)(x[0]).shape == (5, 2)
