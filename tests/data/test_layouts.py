"""The table of known data sets, against the figures that cocodataset.org and cityscapes-dataset.com give."""

from __future__ import annotations

from maskrcnn.data.datasets.coco import LAYOUT
from maskrcnn.data.layouts import LAYOUTS, Part


def test_coco_is_laid_out_as_detectron2s_users_have_it():
    assert LAYOUT["coco_2017_val"] == ("coco/annotations/instances_val2017.json", "coco/val2017")
    assert LAYOUT["coco_2014_train"] == ("coco/annotations/instances_train2014.json", "coco/train2014")
    assert LAYOUT["keypoints_coco_2014_val"] == ("coco/annotations/person_keypoints_val2014.json", "coco/val2014")
    assert LAYOUT["keypoints_coco_2017_train"] == ("coco/annotations/person_keypoints_train2017.json", "coco/train2017")
    test = ("coco/annotations/image_info_test-dev2017.json", "coco/test2017")
    assert LAYOUT["coco_2017_test-dev"] == LAYOUT["keypoints_coco_2017_test-dev"] == test
    assert len(LAYOUT) == 14


def test_the_halves_of_val2014_share_its_images():
    for prefix, kind in (("", "instances"), ("keypoints_", "person_keypoints")):
        for split in ("minival", "valminusminival"):
            assert LAYOUT[f"{prefix}coco_2014_{split}"] == (f"coco/annotations/{kind}_{split}2014.json", "coco/val2014")
    first, images, second = LAYOUTS["keypoints_coco2014_minival"].parts
    assert {first.archive, second.archive} == {"coco_annotations_minival.tgz"}
    assert images in LAYOUTS["coco2014"].parts and images.images == 40_504


def test_numbers_and_addresses_of_images():
    images = {part.path: part for layout in LAYOUTS.values() for part in layout.parts if part.images}
    assert {path: part.images for path, part in images.items()} == {
        "coco/train2014": 82_783,
        "coco/val2014": 40_504,
        "coco/train2017": 118_287,
        "coco/val2017": 5_000,
        "coco/test2017": 40_670,
        "cityscapes/leftImg8bit/train": 2_975,
        "cityscapes/gtFine/train": 2_975,
        "cityscapes/leftImg8bit/val": 500,
        "cityscapes/gtFine/val": 500,
        "cityscapes/leftImg8bit/test": 1_525,
    }
    assert images["coco/train2014"].address == "http://images.cocodataset.org/zips/train2014.zip"
    assert images["coco/train2014"].archive == "train2014.zip"
    assert images["cityscapes/gtFine/val"].archive == "gtFine_trainvaltest.zip"


def test_what_a_part_lacks(tmp_path):
    folder, file = Part("a/b", "b", "x/b.zip", images=2), Part("a/c.json", "c.json", "x/c.zip")
    assert folder.lack(tmp_path / "b") == file.lack(tmp_path / "c.json") == "is missing"
    (tmp_path / "b" / "inner").mkdir(parents=True)
    for name in ("1.JPG", "notes.txt"):
        (tmp_path / "b" / name).touch()
    assert folder.lack(tmp_path / "b") == "has 1 of 2 images"
    (tmp_path / "b" / "inner" / "2.png").touch()
    assert folder.lack(tmp_path / "b") == ""
    (tmp_path / "c.json").touch()
    assert (file.lack(tmp_path / "c.json"), file.lack(tmp_path)) == ("is empty", "is no file")
    (tmp_path / "c.json").write_text("{}")
    assert file.lack(tmp_path / "c.json") == ""
