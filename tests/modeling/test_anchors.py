import pytest
import torch

from maskrcnn.conventions import OURS, TORCHVISION
from maskrcnn.modeling.anchors import AnchorGrid

CPU = torch.device("cpu")


def test_cell_anchors_have_the_area_and_the_ratio():
    anchors = AnchorGrid(sizes=((32, 64),), ratios=(0.5, 1.0, 2.0)).cell_anchors(0, 16, OURS)
    width, height = (anchors[:, 2:] - anchors[:, :2]).unbind(1)
    torch.testing.assert_close(width * height, torch.tensor([1024.0] * 3 + [4096.0] * 3))
    torch.testing.assert_close(height / width, torch.tensor([0.5, 1.0, 2.0] * 2))
    torch.testing.assert_close(anchors[:, :2], -anchors[:, 2:])


def test_the_grid_goes_by_rows_then_columns_then_anchors():
    grid = AnchorGrid(sizes=((4,),), ratios=(1.0,)).grid(0, (2, 3), (8, 16), OURS, CPU)
    assert grid.tolist() == [[x - 2, y - 2, x + 2, y + 2] for y in (0, 8) for x in (0, 16, 32)]


def test_an_empty_feature_map_has_no_anchors():
    assert AnchorGrid().grid(0, (0, 5), (4, 4), OURS, CPU).shape == (0, 4)


def test_rounded_anchors_equal_torchvisions():
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    theirs = AnchorGenerator(((32,), (64,)), ((0.5, 1.0, 2.0),) * 2).cell_anchors
    ours = AnchorGrid(sizes=((32,), (64,)))
    for level, anchors in enumerate(theirs):
        assert torch.equal(ours.cell_anchors(level, 4, TORCHVISION), anchors)


def test_levels_with_different_counts_are_refused():
    with pytest.raises(ValueError, match="different numbers of sizes"):
        _ = AnchorGrid(sizes=((32,), (64, 128))).per_cell


def test_a_grid_is_made_once_and_serves_training_after_inference():
    arguments = (0, (5, 7), (4, 4), OURS, CPU)
    with torch.inference_mode():
        first = AnchorGrid().grid(*arguments)
    assert AnchorGrid().grid(*arguments) is first and not first.is_inference()
    assert AnchorGrid().grid(0, (5, 7), (4, 8), OURS, CPU) is not first
    (torch.ones(1, requires_grad=True) * first).sum().backward()
