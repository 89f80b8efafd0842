from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from maskrcnn.data import DatasetError
from maskrcnn.data.converters import yolo_to_coco

NAMES = "path: .\ntrain: images/train\nnames:\n  0: cat\n  1: dog\n"


@pytest.fixture
def yolo(folder):
    """40 wide and 30 high; the second image has no objects, the third no label file."""
    folder.text("data.yaml", NAMES)
    for name in "abc":
        folder.image(f"images/train/{name}.jpg")
    folder.text("labels/train/a.txt", "1 0.5 0.5 0.5 0.2\n\n0 0 0 0.25 0 0.25 0.1 0 0.1\n")
    folder.text("labels/train/b.txt", "")
    return folder


def test_the_whole_file(yolo):
    content = yolo_to_coco(yolo.root)
    assert content == {
        "images": [
            {"id": i, "file_name": f"images/train/{name}.jpg", "height": 30, "width": 40}
            for i, name in enumerate("abc", start=1)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 2, "bbox": [10, 12, 20, 6], "area": 120, "iscrowd": 0},
            {
                "id": 2,
                "image_id": 1,
                "category_id": 1,
                "bbox": [0, 0, 10, 3],
                "area": 30,
                "iscrowd": 0,
                "segmentation": [[0, 0, 10, 0, 10, 3, 0, 3]],
            },
        ],
    }
    with pytest.raises(DatasetError, match="annotation 1: no 'segmentation', which other annotations have"):
        yolo.read(content)
    del content["annotations"][1]["segmentation"]
    data = yolo.read(content)
    assert data.class_names == ("cat", "dog") and [len(record.objects) for record in data] == [2, 0, 0]
    np.testing.assert_array_equal([o.box for o in data[0].objects], [[10, 12, 30, 18], [0, 0, 10, 3]])


def test_polygons_are_read_as_masks(yolo):
    content = yolo_to_coco(yolo.root)
    del content["annotations"][0]
    mask = yolo.read(content)[0].objects[0].segmentation
    np.testing.assert_array_equal(mask, [[0, 0, 10, 0, 10, 3, 0, 3]])


def test_one_folder_of_images(yolo, monkeypatch):
    """The labels and data.yaml are found from there too, by a relative path as well."""
    yolo.image("images/val/d.jpg")
    yolo.text("labels/val/d.txt", "")
    expected = yolo_to_coco(yolo.root / "images" / "train")
    assert [image["file_name"] for image in expected["images"]] == ["a.jpg", "b.jpg", "c.jpg"]
    assert len(expected["annotations"]) == 2
    monkeypatch.chdir(yolo.root / "images")
    assert yolo_to_coco("train") == expected


@pytest.mark.parametrize(
    ("image", "label", "names"),
    [
        ("a.jpg", "a.txt", "classes.txt"),
        ("train/images/a.jpg", "train/labels/a.txt", "train/labels/classes.txt"),
        ("images/a.b.JPG", "labels/a.b.txt", "labels/classes.txt"),
        ("images/a.jpg", "images/a.txt", "images/classes.txt"),
        ("obj_train_data/a.png", "obj_train_data/a.txt", "obj.names"),
    ],
)
def test_where_labels_and_names_are_looked_for(folder, image, label, names):
    folder.image(image)
    folder.text(label, "1 .5 .5 1 1")
    folder.text(names, "cat\ndog\n\n")
    content = yolo_to_coco(folder.root)
    assert [image["file_name"] for image in content["images"]] == [image]
    assert [a["bbox"] for a in content["annotations"]] == [[0, 0, 40, 30]]
    assert [c["name"] for c in content["categories"]] == ["cat", "dog"]


def test_names_given(yolo):
    content = yolo_to_coco(yolo.root, class_names=["lion", "wolf", "owl"])
    assert [c["name"] for c in content["categories"]] == ["lion", "wolf", "owl"]
    assert [a["category_id"] for a in content["annotations"]] == [2, 1]


def test_the_displayed_size_counts(yolo):
    exif = Image.Exif()
    exif[0x0112] = 8
    yolo.image("images/train/a.jpg", exif=exif)  # stored 40 x 30, shown 30 x 40
    content = yolo_to_coco(yolo.root)
    assert (content["images"][0]["width"], content["images"][0]["height"]) == (30, 40)
    assert content["annotations"][0]["bbox"] == [7.5, 16, 15, 8]


def test_what_rounding_puts_outside_is_cut_off(yolo):
    yolo.text("labels/train/a.txt", "0 0.5 0.5 1.000001 1.000001\n0 -0.000001 0 1.000001 0 1.000001 0.5\n")
    content = yolo_to_coco(yolo.root)
    assert [a["bbox"] for a in content["annotations"]] == [[0, 0, 40, 30], [0, 0, 40, 15]]
    assert content["annotations"][1]["segmentation"] == [[0, 0, 40, 0, 40, 15]]


WRONG = {
    "pixels": ("0 .5 .5 .1 .1\n0 20 15 5 5", "line 2: number 2 is 20, but must be from 0 to 1: pixels divided"),
    "text": ("cat .5 .5 .1 .1", "line 1: number 1 is 'cat', but must be a number"),
    "NaN": ("0 .5 nan .1 .1", "line 1: number 3 is 'nan', but must be a number"),
    "class too large": ("2 .5 .5 .1 .1", "line 1: the class is 2, but there are 2 names: 0 to 1"),
    "class negative": ("-1 .5 .5 .1 .1", "line 1: the class is -1, but there are 2 names"),
    "class between": ("0.5 .5 .5 .1 .1", "line 1: the class is 0.5, but"),
    "too few": ("0 .5 .5", "line 1: has 3 numbers; a box is 'class cx cy w h'"),
    "only the class": ("0", "line 1: has 1 numbers"),
    "odd": ("0 .1 .1 .2 .2 .3 .3 .4", "line 1: has 8 numbers; .* three points or more"),
    "score": ("0 .5 .5 .1 .1 .9", "line 1: has six numbers; remove the last one, if it is the score"),
    "no area": ("0 .5 .5 0 .1", "line 1: its box, x 20 to 20 and .* has no area"),
    "a flat polygon": ("0 .1 .1 .2 .1 .3 .1", "line 1: its box, .* and y 3 to 3, has no area"),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG)
def test_one_clear_error(yolo, content, message):
    yolo.text("labels/train/a.txt", content)
    with pytest.raises(DatasetError, match=rf"^\S*labels/train/a\.txt, {message}"):
        yolo_to_coco(yolo.root)


def test_a_label_file_that_is_no_text(yolo):
    (yolo.root / "labels/train/a.txt").write_bytes(b"\xff\xfe0\0")
    with pytest.raises(DatasetError, match=r"a\.txt: not a text file in UTF-8"):
        yolo_to_coco(yolo.root)


def test_missing_images_labels_and_names(yolo):
    path = yolo.text("labels/train/lost.txt", "0 .5 .5 .1 .1")
    with pytest.raises(DatasetError, match=r"lost\.txt: there is no image of this name"):
        yolo_to_coco(yolo.root)
    path.unlink()
    (yolo.root / "data.yaml").unlink()
    with pytest.raises(DatasetError, match=r"set: no data\.yaml or classes\.txt names the classes"):
        yolo_to_coco(yolo.root)
    with pytest.raises(DatasetError, match="labels: no image files in it"):
        yolo_to_coco(yolo.root / "labels")
    (yolo.root / "labels").rename(yolo.root / "label")
    with pytest.raises(DatasetError, match=r"none of its 3 images has a label file; .*labels/train/a\.txt, for one"):
        yolo_to_coco(yolo.root)


def test_keypoint_labels_are_refused(yolo):
    yolo.text("data.yaml", NAMES + "kpt_shape: [17, 2]\n")
    with pytest.raises(DatasetError, match=r"data\.yaml: has 'kpt_shape'"):
        yolo_to_coco(yolo.root)
