"""From records to samples."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn.data.datasets.coco import read_coco
from maskrcnn.data.images import read_image
from maskrcnn.data.mappers import InstanceMapper
from maskrcnn.data.records import DatasetError, ImageRecord, ObjectRecord
from maskrcnn.data.transforms import RandomHorizontalFlip, ResizeShortestEdge
from maskrcnn.structures.bitmap_masks import BitmapMasks
from maskrcnn.structures.polygon_masks import PolygonMasks

RNG = np.random.default_rng(0)
TRAIN = InstanceMapper([], training=True)


def records(folder) -> list[ImageRecord]:
    folder.write()
    return list(read_coco(folder.json_path, folder.images))


def test_targets_are_the_objects_to_learn_from(coco_folder):
    coco_folder.data["annotations"].append(
        {"id": 20, "image_id": 0, "category_id": 3, "bbox": [5, 2, 0, 9], "segmentation": [[5, 2, 5, 2, 5, 11]]}
    )  # a box without area
    record = records(coco_folder)[0]
    sample = TRAIN(record, RNG)
    assert (sample.image_id, sample.original_size, sample.size) == (0, (30, 40), (30, 40))
    np.testing.assert_array_equal(sample.image.permute(1, 2, 0), read_image(record.path))
    assert sample.targets.boxes.tolist() == [[1, 2, 21, 12], [30, 20, 40, 30]]
    assert sample.targets.labels.tolist() == [1, 0]
    assert (sample.targets.boxes.dtype, sample.targets.labels.dtype) == (torch.float32, torch.int64)
    assert isinstance(sample.targets.masks, PolygonMasks)
    assert len(sample.targets.masks) == 2
    assert sample.targets.size == (30, 40)
    assert sample.targets.keypoints is None


def test_without_training_there_are_no_targets(coco_folder):
    assert InstanceMapper([], training=False)(records(coco_folder)[0], RNG).targets is None


def test_an_image_without_objects(coco_folder):
    sample = InstanceMapper([ResizeShortestEdge((15,), 100), RandomHorizontalFlip(1)], training=True)(
        records(coco_folder)[1], RNG
    )
    assert sample.size == sample.targets.size == (15, 20)
    assert sample.original_size == (30, 40)
    assert sample.targets.boxes.shape == (0, 4)
    assert len(sample.targets.masks) == 0
    assert sample.targets.keypoints.shape == (0, 17, 3)


def test_transforms_run_in_order(coco_folder):
    sample = InstanceMapper([ResizeShortestEdge((60,), 100), RandomHorizontalFlip(1)], training=True)(
        records(coco_folder)[0], RNG
    )
    assert sample.size == (60, 80)
    assert sample.targets.boxes.tolist() == [[38, 4, 78, 24], [0, 40, 20, 60]]


def test_one_rle_makes_all_bitmaps(coco_folder):
    coco_folder.data["annotations"][2]["segmentation"] = {"size": [30, 40], "counts": [920, 10, 270]}
    masks = TRAIN(records(coco_folder)[0], RNG).targets.masks
    assert isinstance(masks, BitmapMasks)
    inside = masks.crop(torch.tensor([0]), torch.tensor([[12.0, 2.0, 20.0, 6.0]]), 4)  # of the first triangle
    assert inside.mean() > 0.9
    column = masks.crop(torch.tensor([1]), torch.tensor([[30.0, 20.0, 31.0, 30.0]]), 4)  # pixel 920 = 30 * 30 + 20
    assert column.all()


def test_objects_with_boxes_only(coco_folder):
    for annotation in coco_folder.data["annotations"]:
        del annotation["segmentation"]
    assert TRAIN(records(coco_folder)[0], RNG).targets.masks is None


def test_only_some_masks(coco_folder):
    record = records(coco_folder)[0]
    record.objects[0] = dataclasses.replace(record.objects[0], segmentation=None)  # by somebody's own reader
    with pytest.raises(DatasetError, match=r"image 0 \(.*0\.png\): annotation 4 has no 'segmentation'"):
        TRAIN(record, RNG)


def test_keypoints(coco_folder):
    coco_folder.data["annotations"][1]["keypoints"] = [4, 5, 2] * 17
    sample = InstanceMapper([RandomHorizontalFlip(1)], training=True)(records(coco_folder)[0], RNG)
    assert sample.targets.keypoints.shape == (2, 17, 3)
    assert sample.targets.keypoints[0, 0].tolist() == [35.5, 5.5, 2]
    assert not sample.targets.keypoints[1, :, 2].any()


def test_another_size_than_recorded(coco_folder):
    coco_folder.data["images"][0]["height"] = 31
    coco_folder.data["annotations"].clear()
    record = records(coco_folder)[0]
    with pytest.raises(
        DatasetError, match=r"0\.png: the image is 30 high and 40 wide, but the record of image 0 says 31"
    ):
        TRAIN(record, RNG)


def test_missing_and_truncated_image(coco_folder):
    record = records(coco_folder)[0]
    record.path.write_bytes(record.path.read_bytes()[:200])
    with pytest.raises(DatasetError, match=r"0\.png"):
        TRAIN(record, RNG)
    record.path.unlink()
    with pytest.raises(DatasetError, match=r"0\.png: no such image file"):
        TRAIN(record, RNG)


@pytest.mark.parametrize("size", [(60, 40), (40, 60)], ids=["as displayed", "as stored"])
def test_annotations_agree_with_the_pixels_of_a_turned_image(tmp_path, size):
    """The record's size says in which frame the annotator worked; a white patch must lie in the box there."""
    path = tmp_path / "turned.jpg"
    displayed = np.zeros((60, 40, 3), np.uint8)
    displayed[8:24, 24:40] = 255
    stored = np.ascontiguousarray(displayed.swapaxes(0, 1)[::-1])  # orientation 6: shown after a quarter turn clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(path, exif=exif, quality=95)
    frame = displayed if size == displayed.shape[:2] else stored
    rows, columns = frame[..., 0].nonzero()
    box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)
    record = ImageRecord(1, path, size, [ObjectRecord(1, box, 0, False, 256.0)])
    sample = TRAIN(record, RNG)
    assert sample.size == sample.original_size == size
    x1, y1, x2, y2 = sample.targets.boxes[0].int().tolist()
    assert sample.image[:, y1:y2, x1:x2].float().mean() > 240
    assert sample.image.float().mean() < 40
