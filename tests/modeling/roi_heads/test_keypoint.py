"""The keypoint branch against the text of §5, by hand and against torchvision's loss."""

import math

import pytest
import torch
from torchvision.models.detection.roi_heads import keypointrcnn_loss, keypoints_to_heatmap

from maskrcnn.data.datasets.shapes_figures import KEYPOINTS
from maskrcnn.modeling.layers import RoISpec
from maskrcnn.modeling.roi_heads import FCNKeypointHead
from maskrcnn.modeling.roi_heads.keypoint import IGNORED, keypoint_cells
from maskrcnn.structures import Detections, Instances, RoISamples

SIZE = (100, 120)


def people(*points: tuple[int, float, float, float]) -> Instances:
    """Two objects, the second without keypoints; rows: index, x, y, visibility of the first one's."""
    keypoints = torch.zeros(2, 17, 3)
    for index, *triple in points:
        keypoints[0, index] = torch.tensor(triple)
    return Instances(torch.tensor([[10.0, 10, 66, 66], [0, 0, 5, 5]]), torch.zeros(2).long(), SIZE, None, keypoints)


def rois(*boxes: tuple[float, ...], gt: tuple[int, ...] | None = None) -> RoISamples:
    gt_index = torch.tensor(gt if gt is not None else [0] * len(boxes), dtype=torch.int64)
    labels = torch.where(gt_index < 0, 1, 0)
    return RoISamples(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels, gt_index, SIZE, 1)


def small_head(**options) -> FCNKeypointHead:
    return FCNKeypointHead(RoISpec(4, (14, 14)), 1, num_convs=2, conv_dim=8, **options)


def test_cells_by_hand():
    targets = people(
        (0, 10.0, 10.0, 2),  # the corner: cell 0, 0
        (1, 11.9, 10.4, 1),  # hidden ones count
        (2, 66.0, 66.0, 2),  # the right and lower edges belong to the last cell
        (3, 66.1, 30.0, 2),  # outside
        (4, 30.0, 30.0, 0),  # not labelled
        (5, 9.9, 30.0, 2),
    )
    (cells,) = keypoint_cells(targets, rois((10, 10, 66, 66)), size=56)
    assert cells[:6].tolist() == [0, 1, 56 * 56 - 1, IGNORED, IGNORED, IGNORED] and (cells[6:] == IGNORED).all()
    (wide,) = keypoint_cells(targets, rois((10, 10, 122, 38)), size=56)  # cells of 2 x 0.5 px
    assert wide[:6].tolist() == [0, 0, IGNORED, 40 * 56 + 28, IGNORED, IGNORED]


def test_cells_are_torchvisions():
    torch.manual_seed(0)
    keypoints = torch.cat([torch.rand(6, 17, 2) * 90, torch.randint(0, 3, (6, 17, 1))], dim=2)
    corner = torch.rand(6, 2) * 50
    boxes = torch.cat([corner, corner + 20 + torch.rand(6, 2) * 40], dim=1)
    keypoints[0, 0], keypoints[1, 1] = torch.tensor([*boxes[0, 2:], 2]), torch.tensor([*boxes[1, :2], 2])
    targets = Instances(boxes, torch.zeros(6).long(), SIZE, None, keypoints)
    samples = RoISamples(boxes, torch.zeros(6).long(), torch.arange(6), SIZE, 1)
    theirs, valid = keypoints_to_heatmap(keypoints, boxes, 56)
    assert 10 < valid.sum() < 80
    assert torch.equal(keypoint_cells(targets, samples, 56), torch.where(valid == 1, theirs, IGNORED))


def test_learns_from_rois_with_a_visible_keypoint_inside():
    targets = people((0, 30, 30, 2), (1, 50, 50, 0))
    samples = rois((10, 10, 66, 66), (40, 40, 66, 66), (0, 0, 5, 5), (20, 20, 60, 60), gt=(0, 0, 1, -1))
    (kept,) = small_head().samples([samples], [targets])
    assert kept.boxes.tolist() == [[10, 10, 66, 66]] and kept.gt_index.tolist() == [0]


def test_loss_by_hand_and_as_torchvisions():
    torch.manual_seed(0)
    targets = [people((0, 30, 30, 2), (3, 12, 60, 1)), people((16, 20, 20, 2))]
    samples = [rois((10, 10, 66, 66), (8, 12, 50, 68)), rois((5, 5, 60, 60))]
    logits = torch.randn(3, 17, 56, 56, requires_grad=True)
    loss = small_head().losses(logits, samples, targets)["loss_keypoint"]
    cells = {(0, 0): (20, 20), (0, 3): (50, 2), (1, 0): (18, 29), (1, 3): (48, 5), (2, 16): (15, 15)}  # y, x
    by_hand = -sum(
        math.log(logits[r, k].detach().flatten().softmax(0).view(56, 56)[yx]) for (r, k), yx in cells.items()
    )
    assert loss.item() == pytest.approx(by_hand / 5, rel=1e-5)
    theirs = keypointrcnn_loss(
        logits, [s.boxes for s in samples], [t.keypoints for t in targets], [s.gt_index for s in samples]
    )
    torch.testing.assert_close(loss, theirs, rtol=0, atol=1e-5)
    for ours, peer in zip(torch.autograd.grad(loss, logits), torch.autograd.grad(theirs, logits), strict=True):
        torch.testing.assert_close(ours, peer, rtol=0, atol=1e-7)


@pytest.mark.parametrize("case", ["no RoIs", "no objects", "nothing visible", "RoIs without area"])
def test_without_keypoints_the_loss_is_zero_and_reaches_every_parameter(case):
    head = small_head()
    nothing = Instances(torch.zeros(0, 4), torch.zeros(0).long(), SIZE, None, torch.zeros(0, 17, 3))
    samples = {"nothing visible": rois((10, 10, 66, 66)), "RoIs without area": rois((30, 30, 30, 30))}.get(case, rois())
    targets = nothing if case == "no objects" else people((0, 30, 30, 2 if case == "RoIs without area" else 0))
    for chosen in ([samples], head.samples([samples], [targets])):
        head.zero_grad()
        loss = head.losses(head(torch.randn(len(chosen[0]), 4, 14, 14)), chosen, [targets])["loss_keypoint"]
        loss.backward()
        assert loss == 0
        assert all(p.grad is not None and (p.grad == 0).all() for p in head.parameters())


def test_annotations_without_keypoints_say_so():
    with pytest.raises(ValueError, match="keypoint branch needs keypoints"):
        keypoint_cells(Instances(torch.zeros(1, 4), torch.zeros(1).long(), SIZE), rois((0, 0, 5, 5)), 56)


def test_the_head_is_that_of_the_paper():
    head = FCNKeypointHead(RoISpec(256, (14, 14)), 1)
    convs = [m for m in head.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size) for c in convs] == [
        (256 if i == 0 else 512, 512, (3, 3)) for i in range(8)
    ]
    assert head(torch.zeros(2, 256, 14, 14)).shape == (2, 17, 56, 56)
    assert head(torch.zeros(0, 256, 14, 14)).shape == (0, 17, 56, 56)
    assert FCNKeypointHead(RoISpec(4, (14, 14), levels=3), 1, num_convs=1, conv_dim=8)(
        torch.zeros(3, 2, 4, 14, 14)
    ).shape == (2, 17, 56, 56)


def test_inference_gives_the_place_in_the_image_and_the_score():
    logits = torch.zeros(2, 17, 56, 56)
    logits[0, 0, 28, 14], logits[1, 5, 0, 55] = 20.0, 20.0
    found = [
        Detections(torch.tensor([[10.0, 20, 66, 76]]), torch.ones(1), torch.zeros(1).long(), SIZE),
        Detections(torch.tensor([[0.0, 0, 112, 28]]), torch.ones(1), torch.zeros(1).long(), SIZE),
    ]
    points = small_head().inference(logits, found)
    assert points.shape == (2, 17, 3)
    torch.testing.assert_close(points[0, 0], torch.tensor([24.5, 48.5, 20.0]), rtol=0, atol=1e-3)
    assert (points[1, 5, :2] - torch.tensor([111.0, 0.25])).abs().max() <= 1  # cells of 2 x 0.5 px
    probable = small_head(score="probability").inference(logits, found)
    assert torch.equal(probable[..., :2], points[..., :2]) and 0.99 < probable[0, 0, 2] < 1.01
    nothing = Detections.empty(SIZE)
    assert small_head().inference(torch.zeros(0, 17, 56, 56), [nothing]).shape == (0, 17, 3)


@pytest.mark.parametrize(
    ("options", "message"), [({"num_convs": 0}, "NUM_CONVS: 0"), ({"score": "p"}, "SCORE: 'p' is neither")]
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        FCNKeypointHead(RoISpec(4, (14, 14)), 1, **options)


def test_a_mirror_swaps_the_names_left_and_right():
    mirrored = Instances(
        torch.zeros(1, 4), torch.zeros(1).long(), SIZE, None, torch.arange(51.0).view(1, 17, 3)
    ).hflip()
    came_from = (mirrored.keypoints[0, :, 1] / 3).floor().long().tolist()
    swapped = [name.replace("left", "L").replace("right", "left").replace("L", "right") for name in KEYPOINTS]
    assert [KEYPOINTS[i] for i in came_from] == swapped and len(set(KEYPOINTS)) == 17
