import dataclasses
import pickle

import pytest
import torch

from maskrcnn.structures import BitmapMasks, Candidates, Detections, Instances, PolygonMasks, Proposals, RoISamples, cat

BOXES = torch.tensor([[1.0, 2.0, 5.0, 8.0], [0.0, 0.0, 20.0, 10.0], [-3.0, 4.0, 25.0, 12.0]])
SQUARES = [[[1, 2, 5, 2, 5, 8, 1, 8]], [[0, 0, 20, 0, 20, 10, 0, 10]], [[3, 4, 9, 4, 9, 7]]]


def instances():
    keypoints = torch.stack([torch.arange(17.0), torch.arange(17.0) / 2, torch.ones(17)], dim=1).repeat(3, 1, 1)
    return Instances(BOXES, torch.tensor([4, 0, 7]), (10, 20), PolygonMasks.from_polygons(SQUARES), keypoints)


def detections():
    return Detections(BOXES, torch.tensor([0.9, 0.5, 0.1]), torch.tensor([1, 2, 3]), (10, 20), torch.rand(3, 4, 4))


@pytest.mark.parametrize(
    "index", [torch.tensor([2, 0]), torch.tensor([True, False, True]), slice(1, 3), slice(0, 0), 1, -1], ids=str
)
def test_indexing_takes_the_rows_of_every_field(index):
    whole, part = instances(), instances()[index]
    rows = torch.arange(3)[index].reshape(-1)
    assert len(part) == len(part.masks) == len(rows)
    assert torch.equal(part.boxes, whole.boxes[rows])
    assert torch.equal(part.labels, whole.labels[rows])
    assert torch.equal(part.keypoints, whole.keypoints[rows])
    assert part.size == whole.size
    assert [rle["counts"] for rle in part.masks.to_rle((10, 20))] == [
        whole.masks.to_rle((10, 20))[i]["counts"] for i in rows
    ]


def test_iteration_gives_one_row_at_a_time():
    assert [row.labels.tolist() for row in instances()] == [[4], [0], [7]]


def test_clip():
    clipped = instances().clip()
    assert clipped.boxes[2].tolist() == [0, 4, 20, 10]
    assert torch.equal(clipped.boxes[:2], BOXES[:2])


def test_hflip_by_hand():
    flipped = instances().hflip()
    assert flipped.boxes.tolist() == [[15, 2, 19, 8], [0, 0, 20, 10], [-5, 4, 23, 12]]
    assert flipped.keypoints[0, 0].tolist() == [20, 0, 1]  # the nose
    assert flipped.keypoints[0, 1].tolist() == [18, 1, 1]  # the left eye is the mirrored right one, point 2
    assert flipped.keypoints[0, 16].tolist() == [5, 7.5, 1]  # the right ankle is the mirrored left one, point 15
    assert flipped.masks.points[:4].tolist() == [[19, 2], [15, 2], [15, 8], [19, 8]]


def test_resize_by_hand():
    resized = instances().resize((30, 40))
    assert resized.size == (30, 40)
    assert resized.boxes[0].tolist() == [2, 6, 10, 24]
    assert resized.keypoints[0, 4].tolist() == [8, 6, 1]
    assert resized.masks.points[2].tolist() == [10, 24]


@pytest.mark.parametrize("make", [instances, detections])
def test_mirrored_twice_and_back_to_size(make):
    start = make()
    end = start.hflip().resize((7, 13)).resize((10, 20)).hflip()
    for field in dataclasses.fields(start):
        a, b = getattr(start, field.name), getattr(end, field.name)
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(a, b)
    assert end.size == (10, 20)


def test_soft_masks_go_along_with_their_boxes():
    before = detections()
    assert torch.equal(before.hflip().masks, before.masks.flip(2))
    assert torch.equal(before.resize((99, 7)).masks, before.masks)


def test_windows_of_segment_proposals_move_like_boxes():
    proposals = Proposals(BOXES, torch.ones(3), (10, 20), torch.rand(3, 4, 4), BOXES + 1)
    assert torch.equal(proposals.hflip().windows, Proposals(BOXES + 1, torch.ones(3), (10, 20)).hflip().boxes)
    assert torch.equal(proposals.resize((20, 20)).windows, (BOXES + 1) * torch.tensor([1, 2, 1, 2]))


def test_candidates_have_boxes_of_each_class():
    boxes = BOXES[:, None].repeat(1, 5, 1)
    candidates = Candidates(boxes, torch.rand(3, 5), (10, 20))
    assert torch.equal(candidates.hflip().boxes[:, 3], instances().hflip().boxes)
    assert candidates.clip().boxes.shape == (3, 5, 4)


def test_foreground():
    samples = RoISamples(BOXES, torch.tensor([0, 5, 4]), torch.tensor([1, -1, 0]), (10, 20), num_classes=5)
    foreground = samples.foreground()
    assert foreground.labels.tolist() == [0, 4]
    assert foreground.gt_index.tolist() == [1, 0]
    assert foreground.num_classes == 5


def test_cat():
    a, b = detections(), Detections.empty((10, 20))
    assert len(cat([a, a[:1]])) == 4
    assert cat([a, a[:1]]).masks.shape == (4, 4, 4)
    proposals = Proposals(BOXES, torch.ones(3), (10, 20))
    assert cat([proposals, proposals[:0]]).masks is None
    with pytest.raises(AssertionError, match="different frames"):
        cat([proposals, proposals.resize((5, 5))])
    assert len(cat([b, b])) == 0


def test_empty_takes_the_same_path():
    none = Detections.empty((10, 20))
    assert len(none.hflip().resize((5, 5)).clip().to("cpu")) == 0
    assert none.labels.dtype == torch.int64
    for masks in (PolygonMasks.from_polygons([]), BitmapMasks.from_rle([])):
        targets = Instances(
            torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), (10, 20), masks, torch.zeros(0, 17, 3)
        )
        assert len(targets.hflip().resize((5, 5)).clip().to("cpu")[torch.zeros(0, dtype=torch.bool)]) == 0


def test_structures_are_values():
    with pytest.raises(dataclasses.FrozenInstanceError):
        detections().scores = torch.zeros(3)
    with pytest.raises((AttributeError, TypeError)):
        detections().extra = 1
    again = pickle.loads(pickle.dumps(instances()))  # to and from a spawned worker
    assert torch.equal(again.masks.points, instances().masks.points)
