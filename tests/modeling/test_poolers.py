import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign, roi_pool

from maskrcnn.conventions import TORCHVISION
from maskrcnn.modeling.layers import FeatureSpec
from maskrcnn.modeling.poolers import METHODS, RoIPooler

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
    assert pooled[:, 0].flatten().round().tolist() == [4, 4, 8, 8, 16, 16, 32, 32, 4, 4]


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


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="'RoICrop' is not one of RoIAlign, RoIAlignMax"):
        RoIPooler(SPECS, method="RoICrop")


SINGLE = {"p4": FeatureSpec(8, 16)}
RAMP = torch.arange(12.0).repeat(9, 1)[None, None] + 100 * torch.arange(9.0)[:, None]  # value = column + 100 * row


def pooled_ramp(method: str, box: list[float], **options) -> torch.Tensor:
    pooler = RoIPooler({"p4": FeatureSpec(1, 16)}, TORCHVISION, in_features=["p4"], method=method, **options)
    return pooler({"p4": RAMP}, [torch.tensor([box])])[0, 0]


def test_each_method_on_a_ramp():
    """Corners at columns 1.4 and 5.4, rows 2.3 and 4.3: on a plane, bilinear values are those of the plane itself."""
    box = [1.4 * 16, 2.3 * 16, 5.4 * 16, 4.3 * 16]
    # Bins two columns wide: points at a quarter and three quarters of each; the same of rows, one high.
    columns, rows = torch.tensor([2.4, 4.4]), torch.tensor([2.8, 3.8])
    plane = columns[None] + 100 * rows[:, None]
    assert torch.allclose(pooled_ramp("RoIAlign", box, size=2), plane, atol=1e-3)
    assert torch.allclose(pooled_ramp("RoIAlignMax", box, size=2), plane + 0.5 + 25, atol=1e-3)
    rounded = plane - 0.4 - 30  # corners at columns 1 and 5, rows 2 and 4
    assert torch.allclose(pooled_ramp("RoIWarp", box, size=2), rounded, atol=1e-3)
    assert torch.allclose(pooled_ramp("RoIWarpMax", box, size=2), rounded + 0.5 + 25, atol=1e-3)
    # Pixels 1..5 and 2..4, the ends included: bins of 2.5 columns and 1.5 rows reach from floor to ceiling.
    assert pooled_ramp("RoIPool", box, size=2).tolist() == [[303.0, 305.0], [403.0, 405.0]]


def test_roi_pool_equals_torchvisions_on_every_level():
    features, boxes = pyramid(), [random_boxes(30), random_boxes(20)]
    names = ("p2", "p3", "p4", "p5")
    rois = torch.cat([torch.cat([torch.full((len(b), 1), i), b], dim=1) for i, b in enumerate(boxes)])
    every = torch.stack([roi_pool(features[n], rois, 7, 1 / SPECS[n].stride) for n in names])
    assert torch.equal(RoIPooler(SPECS, method="RoIPool", levels="all")(features, boxes), every)
    sides = (rois[:, 3:] - rois[:, 1:3]).prod(dim=1).sqrt()
    level = (sides[:, None] >= torch.tensor([112.0, 224.0, 448.0])).sum(dim=1)  # FPN Eq. 1
    assert len(level.unique()) > 2
    assigned = RoIPooler(SPECS, method="RoIPool")(features, boxes)
    assert torch.equal(assigned, every[level, torch.arange(len(rois))])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("specs", [SPECS, SINGLE], ids=["pyramid", "one level"])
def test_every_method_takes_no_boxes_degenerate_ones_and_has_a_gradient(method, specs):
    names = [name for name in specs if name != "p6"]
    features = {name: level.requires_grad_() for name, level in pyramid().items() if name in names}
    pooler = RoIPooler(specs, in_features=names, method=method)
    empty = pooler(features, [torch.zeros(0, 4)] * 2)
    assert empty.shape == (0, 8, 7, 7)
    empty.sum().backward()
    assert all(level.grad is not None and not level.grad.any() for level in features.values())
    degenerate = torch.tensor([[5.0, 5, 5, 5], [9, 9, 3, 3], [-50, -50, -20, -20], [0, 0, 900, 900]])
    pooled = pooler(features, [degenerate, random_boxes(3)])
    assert pooled.shape == (7, 8, 7, 7) and pooled.isfinite().all()
    pooled.sum().backward()
    assert all(level.grad.isfinite().all() for level in features.values())
    assert features[names[-1]].grad.any()  # of the box of 900 pixels
