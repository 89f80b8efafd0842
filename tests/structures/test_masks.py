import numpy as np
import pycocotools.mask
import pytest
import torch

from maskrcnn.structures import BitmapMasks, PolygonMasks, masks_of

SQUARE = [[2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]]
RLE = {"size": [10, 12], "counts": [30, 5, 85]}


def test_polygons_stay_polygons():
    masks = masks_of([SQUARE, [np.array(SQUARE[0]), np.array([0, 0, 1, 0, 1, 1])]], (10, 12))
    assert isinstance(masks, PolygonMasks)
    assert masks.object_offsets.tolist() == [0, 1, 3]
    assert len(masks_of([], (10, 12))) == 0


def test_among_rle_polygons_become_pixels():
    masks = masks_of([RLE, SQUARE, RLE], (10, 12))
    assert isinstance(masks, BitmapMasks)
    bitmaps = pycocotools.mask.decode(masks.to_rle((10, 12)))
    assert [int(b.sum()) for b in bitmaps.transpose(2, 0, 1)] == [5, 36, 5]
    assert bitmaps[2:8, 2:8, 1].all()


def test_both_kinds_answer_alike():
    polygons = PolygonMasks.from_polygons([SQUARE])
    bitmaps = BitmapMasks.from_rle(polygons.to_rle((10, 12)))
    index, boxes = torch.tensor([0, 0]), torch.tensor([[0.0, 0.0, 10.0, 10.0], [3.0, 1.0, 11.0, 9.0]])
    for change in (lambda m: m, lambda m: m.hflip(12), lambda m: m.resize(2, 0.5)):
        a, b = change(polygons), change(bitmaps)
        assert torch.equal(a.crop(index, boxes, 5), b.crop(index, boxes, 5))
        points = torch.tensor([[[6.0, 5.0]], [[1.0, 0.5]]])
        assert torch.equal(a.sample(index, points), b.sample(index, points))


def test_rle_of_another_size_than_the_image():
    with pytest.raises(ValueError, match=r"RLE of size \[10, 12\] for an image of size \[12, 10\]"):
        masks_of([RLE], (12, 10))
