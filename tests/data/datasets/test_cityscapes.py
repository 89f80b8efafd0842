"""Cityscapes from its original folders: objects against pycocotools, and each thing that the folders can have wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from cityscapes_sets import write_image
from pycocotools import mask as coco_mask

from maskrcnn.cli import main
from maskrcnn.data import DatasetError, InstanceMapper, dataset
from maskrcnn.data.datasets.cityscapes import ids_path, objects, read_ids
from maskrcnn.data.layouts import LAYOUTS

TRAIN, VAL, TEST = (f"cityscapes_fine_instance_seg_{split}" for split in ("train", "val", "test"))


def example() -> np.ndarray:
    """A road with a car in two parts, one person in front of it, a group of persons, a caravan and a bicycle."""
    ids = np.full((20, 30), 7, np.uint16)
    ids[5:15, 2:20] = 26001
    ids[3:18, 8:10] = 24000
    ids[0:4, 20:30] = 24
    ids[10:12, 22:25] = 29000
    ids[19, 29] = 33002
    return ids


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_image(tmp_path, "ulm_000001_000019", example())
    write_image(tmp_path, "aachen_000000_000019", np.full((10, 12), 7, np.uint16))
    write_image(tmp_path, "berlin_000000_000019", np.full((8, 9), 7, np.uint16), "test")
    return tmp_path


def test_objects_in_the_official_order_of_classes(root: Path) -> None:
    data = dataset(VAL, root)
    names = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    assert (data.class_names, data.category_ids) == (names, (24, 25, 26, 27, 28, 31, 32, 33))
    assert [record.path.name for record in data] == [
        "aachen_000000_000019_leftImg8bit.png",
        "ulm_000001_000019_leftImg8bit.png",
    ]
    assert [(record.image_id, record.size, len(record.objects)) for record in data] == [
        (1, (10, 12), 0),
        (2, (20, 30), 4),
    ]
    group, person, car, bicycle = data[1].objects
    assert [(o.id, o.label, o.crowd) for o in data[1].objects] == [
        (24, 0, True),
        (24000, 0, False),
        (26001, 2, False),
        (33002, 7, False),
    ]
    assert (group.box.tolist(), group.area) == ([20, 0, 30, 4], 40)
    assert (person.box.tolist(), person.area) == ([8, 3, 10, 18], 30)
    assert (car.box.tolist(), car.area) == ([2, 5, 20, 15], 180 - 20)
    assert (bicycle.box.tolist(), bicycle.area) == ([29, 19, 30, 20], 1)
    assert data.num_objects.tolist() == [0, 3]


@pytest.mark.parametrize("seed", range(5))
def test_masks_are_those_that_pycocotools_encodes(seed: int) -> None:
    """On noise: runs that end at an edge of the image, begin at the first pixel, or go on over columns."""
    rng = np.random.default_rng(seed)
    for _ in range(30):
        ids = rng.choice([0, 24, 24001, 33002, 29001, 26000, 26999], size=rng.integers(1, 9, 2)).astype(np.uint16)
        found = objects(ids)
        assert [o.id for o in found] == sorted({24, 24001, 26000, 26999, 33002} & set(ids.ravel().tolist()))
        for o in found:
            rle = coco_mask.encode(np.asfortranarray(ids == o.id, dtype=np.uint8))
            assert o.segmentation == {"size": list(ids.shape), "counts": rle["counts"].decode()}
            x, y, w, h = coco_mask.toBbox(rle)
            assert o.box.tolist() == [x, y, x + w, y + h] and o.area == coco_mask.area(rle)


def test_groups_are_not_trained_on(root: Path) -> None:
    targets = InstanceMapper([], training=True)(dataset(VAL, root)[1], np.random.default_rng(0)).targets
    assert targets.labels.tolist() == [0, 2, 7] and len(targets.masks) == 3


def test_the_test_split_has_images_alone(root: Path) -> None:
    data = dataset(TEST, root)
    assert [(record.size, record.objects) for record in data] == [((8, 9), [])] and not data.has_masks


def test_where_the_annotation_of_an_image_is(root: Path) -> None:
    path = dataset(VAL, root)[1].path
    np.testing.assert_array_equal(read_ids(ids_path(path)), example())
    with pytest.raises(DatasetError, match=r"0001\.jpg is no image of Cityscapes, leftImg8bit/SPLIT/CITY/"):
        ids_path(Path("photos/0001.jpg"))


def test_prepare_data_links_what_was_unpacked(root: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    layout = LAYOUTS["cityscapes"]
    few = {name: tuple(replace(part, images=1) for part in parts) for name, parts in layout.data_sets.items()}
    monkeypatch.setitem(LAYOUTS, "cityscapes", replace(layout, data_sets=few))
    command = ["prepare_data", "cityscapes", "--source", str(root), "--root", str(tmp_path / "data")]
    assert main(command) == 1
    assert "cityscapes/gtFine/train: missing: get gtFine_trainvaltest.zip and unpack it" in capsys.readouterr().out
    write_image(root, "bonn_000000_000019", example(), "train")
    assert main(command) == 0
    found = dataset(TRAIN, tmp_path / "data")
    assert found.num_objects.tolist() == [3] and (tmp_path / "data/cityscapes/gtFine/train").is_symlink()
    np.testing.assert_array_equal(read_ids(ids_path(found[0].path)), example())  # found beside the link


def spoil(truth: Path, image: Path, how: str) -> None:
    match how:
        case "no annotation":
            truth.unlink()
        case "no image":
            image.unlink()
        case "truncated":
            truth.write_bytes(truth.read_bytes()[:-20])
        case "empty":
            truth.write_bytes(b"")
        case "web page":
            truth.write_text("<html>not found</html>")
        case "colours":
            cv2.imwrite(str(truth), np.zeros((20, 30, 3), np.uint8))
        case "label ids":
            cv2.imwrite(str(truth), np.zeros((20, 30), np.uint8))
        case "unknown class" | "between":
            ids = example()
            ids[4, 5] = 34001 if how == "unknown class" else 255
            cv2.imwrite(str(truth), ids)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            "no annotation",
            r"gtFine/val: 1 of 2 images have no annotations, the first missing file is ulm/ulm_000001_000019_gt",
        ),
        ("no image", r"leftImg8bit/val: 1 of 2 annotated images are missing, the first is ulm/ulm_000001_000019_left"),
        ("truncated", r"000019_gtFine_instanceIds\.png: not a whole PNG file"),
        ("empty", r"000019_gtFine_instanceIds\.png: not a whole PNG file \(0 bytes\)"),
        ("web page", r"000019_gtFine_instanceIds\.png: not a whole PNG file"),
        ("colours", r"instanceIds\.png: the pixels are uint8 with 3 channels, but ids are uint16 with one channel"),
        ("label ids", r"instanceIds\.png: the pixels are uint8 with 1 channels"),
        (
            "unknown class",
            r"instanceIds\.png: the pixel at row 4, column 5 is 34001, but an id is 0 to 33, or 1000 times",
        ),
        ("between", r"instanceIds\.png: the pixel at row 4, column 5 is 255"),
    ],
)
def test_one_clear_error(root: Path, how: str, message: str) -> None:
    image = dataset(VAL, root)[1].path
    spoil(ids_path(image), image, how)
    with pytest.raises(DatasetError, match=message):
        dataset(VAL, root)


def test_folders_that_are_not_there(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no folder .*cityscapes/leftImg8bit/train; DATASETS\.ROOT, or the env"):
        dataset(TRAIN, root)
    (root / "cityscapes/leftImg8bit/train/ulm").mkdir(parents=True)
    (root / "cityscapes/gtFine/train").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"leftImg8bit/train: no CITY/\*_leftImg8bit\.png in there"):
        dataset(TRAIN, root)
