"""Geometry of the transforms: image, boxes, masks, keypoints, semantic map and proposals stay together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from maskrcnn.data.transforms import (
    RandomHorizontalFlip,
    ResizeShortestEdge,
    from_hwc,
    hflip,
    resize,
    resized_size,
    to_hwc,
)
from maskrcnn.structures.instances import Instances, Proposals
from maskrcnn.structures.polygon_masks import PolygonMasks
from maskrcnn.structures.samples import Sample

BOX = (10, 4, 30, 16)


def a_sample(height: int = 20, width: int = 40) -> Sample:
    """A white box on black, and everything that can be said about it."""
    pixels = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = BOX
    pixels[y1:y2, x1:x2] = 255
    boxes = torch.tensor([BOX], dtype=torch.float32)
    keypoints = torch.zeros(1, 17, 3)
    keypoints[0, 1] = torch.tensor([10.0, 4.0, 2.0])  # the left eye in the box's upper left corner
    polygon = np.array([x1, y1, x2, y1, x2, y2, x1, y2], np.float32)
    return Sample(
        image=from_hwc(pixels),
        image_id=1,
        original_size=(height, width),
        targets=Instances(
            boxes=boxes,
            labels=torch.tensor([3]),
            size=(height, width),
            masks=PolygonMasks.from_polygons([[polygon]]),
            keypoints=keypoints,
        ),
        semantic=torch.from_numpy(pixels[..., 0] // 255),
        proposals=Proposals(boxes=boxes, scores=torch.ones(1), size=(height, width)),
    )


def white_box(sample: Sample) -> list[float]:
    """XYXY of what is more white than black in the image."""
    rows, columns = (sample.image[0] > 127).nonzero(as_tuple=True)
    return [columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1]


def assert_together(sample: Sample) -> None:
    box = torch.tensor(white_box(sample), dtype=torch.float32)
    size = sample.image.shape[-2:]
    assert sample.targets.size == sample.proposals.size == tuple(size)
    assert sample.semantic.shape == size
    torch.testing.assert_close(sample.targets.boxes[0], box)
    torch.testing.assert_close(sample.proposals.boxes[0], box)
    torch.testing.assert_close(sample.semantic.bool(), sample.image[0] > 127)
    assert sample.targets.masks.crop(torch.tensor([0]), box[None], 8).all()
    whole = torch.tensor([[0.0, 0.0, size[1], size[0]]])
    covered = sample.targets.masks.crop(torch.tensor([0]), whole, 200).mean()
    torch.testing.assert_close(covered, sample.semantic.float().mean(), atol=0.01, rtol=0)


@pytest.mark.parametrize("size", [(40, 80), (10, 20), (20, 40)], ids=["larger", "smaller", "same"])
def test_resize(size):
    resized = resize(a_sample(), size)
    assert resized.size == size
    assert resized.original_size == (20, 40)
    assert_together(resized)
    torch.testing.assert_close(resized.targets.keypoints[0, 1, :2], resized.targets.boxes[0, :2])


def test_hflip():
    flipped = hflip(a_sample(20, 50))
    assert white_box(flipped) == [20, 4, 40, 16]
    assert_together(flipped)
    torch.testing.assert_close(flipped.targets.keypoints[0, 2], torch.tensor([40.0, 4.0, 2.0]))  # now the right eye
    assert_together(hflip(flipped))


def test_an_image_without_anything():
    sample = Sample(image=a_sample().image, image_id=1, original_size=(20, 40))
    assert hflip(resize(sample, (30, 60))).size == (30, 60)
    empty = Instances(
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        size=(20, 40),
        masks=PolygonMasks.from_polygons([]),
        keypoints=torch.zeros(0, 17, 3),
    )
    resized = hflip(resize(Sample(sample.image, 1, (20, 40), targets=empty), (30, 60)))
    assert len(resized.targets) == 0
    assert resized.targets.size == (30, 60)


def test_reducing_averages():
    """Stripes of one pixel become gray, where samples of single pixels would be black or white."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, ::2] = 255
    image = resize(Sample(from_hwc(pixels), 1, (64, 64)), (16, 16)).image
    assert ((image > 126) & (image < 129)).all()


def test_the_memory_stays_in_the_order_of_opencv():
    sample = hflip(resize(a_sample(), (30, 60)))
    assert sample.image.permute(1, 2, 0).is_contiguous()
    assert to_hwc(sample.image).ctypes.data == sample.image.data_ptr()


@pytest.mark.parametrize(
    ("size", "shorter", "limit", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),  # 1066.67
        ((640, 480), 800, 1333, (1067, 800)),
        ((300, 900), 800, 1333, (444, 1333)),  # the longer side decides: 444.33
        ((2, 5), 3, 100, (3, 8)),  # 7.5 is rounded up
        ((2, 1000), 800, 100, (1, 100)),  # 0.2 would be nothing
        ((500, 500), 500, 500, (500, 500)),
    ],
)
def test_resized_size(size, shorter, limit, expected):
    assert resized_size(size, shorter, limit) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1066)),  # 1066.67
        ((640, 480), (1066, 800)),
        ((428, 640), (800, 1196)),  # 1196.26
        ((300, 899), (445, 1333)),  # 444.83, and 445 * 899 / 300 = 1333.52
        ((300, 900), (444, 1332)),  # 444.33, and 444 * 3: not up to the limit
        ((500, 500), (800, 800)),
        ((1, 3000), (1, 3000)),  # 0.44 of a pixel would be nothing
    ],
)
def test_the_longer_side_rounded_down(size, expected):
    """maskrcnn-benchmark's rule by hand: the shorter side to the nearest pixel, the longer one from it."""
    assert resized_size(size, 800, 1333, "longer_down") == expected


def test_both_sides_rounded_down_as_torchvision_does():
    rng = np.random.default_rng(0)
    sizes = [(427, 640), (480, 640), (375, 500), (333, 500), *map(tuple, rng.integers(20, 700, (40, 2)).tolist())]
    peer = GeneralizedRCNNTransform(40, 67, [0.5] * 3, [0.5] * 3)
    theirs = [tuple(peer.resize(torch.zeros(3, *size), None)[0].shape[1:]) for size in sizes]
    assert [resized_size(size, 40, 67, "down") for size in sizes] == theirs
    assert [resized_size(size, 40, 67) for size in sizes] != theirs


def test_choice_takes_each_of_the_sizes():
    transform, rng = ResizeShortestEdge((10, 15, 25), 100), np.random.default_rng(0)
    assert {transform(a_sample(), rng).size[0] for _ in range(60)} == {10, 15, 25}


def test_range_takes_all_between_both_ends():
    transform, rng = ResizeShortestEdge((10, 13), 100, "range"), np.random.default_rng(0)
    assert {transform(a_sample(), rng).size[0] for _ in range(60)} == {10, 11, 12, 13}


def test_flip_probability():
    rng = np.random.default_rng(0)
    sample = a_sample(20, 50)
    flips = [RandomHorizontalFlip(0.25)(sample, rng) is not sample for _ in range(1000)]
    assert 200 < sum(flips) < 300
    assert not any(RandomHorizontalFlip(0)(sample, rng) is not sample for _ in range(20))
    assert all(RandomHorizontalFlip(1)(sample, rng) is not sample for _ in range(20))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResizeShortestEdge((), 100), "give one or more"),
        (lambda: ResizeShortestEdge((0,), 100), "at least 1 pixel"),
        (lambda: ResizeShortestEdge((10,), 100, "random"), "'random'; choose from choice, range"),
        (lambda: ResizeShortestEdge((10, 20, 30), 100, "range"), "smallest and the largest"),
        (lambda: ResizeShortestEdge((20, 10), 100, "range"), "smallest and the largest"),
        (lambda: ResizeShortestEdge((10,), 100, rounding="up"), "'up'; choose from half_up, down, longer_down"),
        (lambda: ResizeShortestEdge((800,), 600), "limit 600 of the longer side is below the shorter side 800"),
        (lambda: RandomHorizontalFlip(1.5), "1.5 is not between 0 and 1"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
