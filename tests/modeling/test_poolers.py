import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign

from maskrcnn.conventions import TORCHVISION
from maskrcnn.modeling.layers import FeatureSpec
from maskrcnn.modeling.poolers import RoIPooler

SPECS = {f"p{k}": FeatureSpec(8, 2**k) for k in (2, 3, 4, 5, 6)}


def pyramid(height: int = 64, width: int = 96) -> dict[str, torch.Tensor]:
    return {name: torch.randn(2, 8, height // s.stride, width // s.stride) for name, s in SPECS.items()}


def random_boxes(count: int) -> torch.Tensor:
    corner = torch.rand(count, 2) * torch.tensor([96.0, 64.0])
    return torch.cat([corner, corner + 2 ** (torch.rand(count, 2) * 9)], dim=1)


def test_boxes_are_pooled_from_the_level_of_their_size():
    """FPN Eq. 1. Maps that hold their own number tell which one was read."""
    side = torch.tensor([10.0, 111.9, 112.1, 223.9, 224.1, 447.9, 448.1, 3000.0])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), side, side], dim=1)
    boxes = torch.cat([boxes, torch.tensor([[5.0, 5, 5, 5], [9, 9, 3, 3]])])
    features = {name: torch.full((1, 1, 4000 // s.stride, 4000 // s.stride), s.stride) for name, s in SPECS.items()}
    features = {name: level.float() for name, level in features.items()}
    pooled = RoIPooler(SPECS, size=1)(features, [boxes])
    assert pooled[:, 0].flatten().tolist() == [4, 4, 8, 8, 16, 16, 32, 32, 4, 4]


def test_pooling_equals_torchvisions_multi_scale_roi_align():
    features, boxes = pyramid(), [random_boxes(30), random_boxes(20)]
    peer = MultiScaleRoIAlign(["p2", "p3", "p4", "p5"], output_size=7, sampling_ratio=2)
    expected = peer({k: v for k, v in features.items() if k != "p6"}, boxes, [(64, 96)] * 2)
    torch.testing.assert_close(RoIPooler(SPECS, TORCHVISION)(features, boxes), expected, rtol=1e-4, atol=1e-4)


def test_all_levels_are_pooled_for_every_box():
    features, boxes = pyramid(), [random_boxes(3), random_boxes(2)]
    pooled = RoIPooler(SPECS, levels="all", in_features=("p2", "p3"), size=5)(features, boxes)
    assert pooled.shape == (2, 5, 8, 5, 5)
    single = RoIPooler(SPECS, in_features=("p3",), size=5)(features, boxes)  # one level, whatever a box's size
    assert torch.equal(pooled[1], single)


def test_no_boxes_give_no_rows():
    pooled = RoIPooler(SPECS)(pyramid(), [torch.zeros(0, 4), torch.zeros(0, 4)])
    assert pooled.shape == (0, 8, 7, 7)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="'some' is neither"):
        RoIPooler(SPECS, levels="some")
