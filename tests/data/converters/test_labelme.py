from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskrcnn.data import DatasetError
from maskrcnn.data.converters import labelme_to_coco

TRIANGLE = [[10, 10], [20, 10], [10, 20.5]]


def shape(label: str, points: Any, **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": "polygon", "flags": {}, **more}


def labelme(shapes: Any, image: Any = "a.jpg", **more: Any) -> str:
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image, "imageData": None}
    return json.dumps(content | {"imageHeight": 30, "imageWidth": 40} | more)


def test_the_whole_file(folder):
    folder.image("b.jpg")
    folder.text("b.json", labelme([shape("dog", TRIANGLE)], "b.jpg"))
    folder.image("a.jpg")
    shapes = [
        shape("cat", [[30, 5], [20, 2]], shape_type="rectangle"),
        shape("dog", [[0, 0], [4, 0], [4, 4], [0, 4]], group_id=1),
        shape("__ignore__", TRIANGLE),
        shape("cat", [[0, 0], [5, 0], [5, 5]], group_id=1),
        shape("dog", [[10, 0], [14, 0], [14, 6], [10, 6]], group_id=1),
    ]
    folder.text("a.json", labelme(shapes))
    content = labelme_to_coco(folder.root)
    assert content["images"] == [
        {"id": 1, "file_name": "a.jpg", "height": 30, "width": 40},
        {"id": 2, "file_name": "b.jpg", "height": 30, "width": 40},
    ]
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    rectangle, two_parts, alone, triangle = content["annotations"]
    assert rectangle == {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": [20, 2, 10, 3],
        "area": 30,
        "iscrowd": 0,
        "segmentation": [[20, 2, 30, 2, 30, 5, 20, 5]],
    }
    assert two_parts == {
        "id": 2,
        "image_id": 1,
        "category_id": 2,
        "bbox": [0, 0, 14, 6],
        "area": 16 + 24,
        "iscrowd": 0,
        "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4], [10, 0, 14, 0, 14, 6, 10, 6]],
    }
    assert (alone["bbox"], alone["category_id"]) == ([0, 0, 5, 5], 1)  # another label is another object
    assert (triangle["id"], triangle["image_id"], triangle["segmentation"]) == (4, 2, [[10, 10, 20, 10, 10, 20.5]])
    data = folder.read(content)
    assert data.class_names == ("cat", "dog") and [len(record.objects) for record in data] == [3, 1]
    np.testing.assert_array_equal(data[1].objects[0].box, [10, 10, 20, 20.5])


def test_overlapping_parts_count_once(folder):
    folder.image("a.jpg")
    parts = [[[0, 0], [10, 10]], [[5, 5], [15, 15]]]
    folder.text("a.json", labelme([shape("cat", p, shape_type="rectangle", group_id="x") for p in parts]))
    (annotation,) = labelme_to_coco(folder.root)["annotations"]
    assert annotation["area"] == 100 + 100 - 25


def test_circle(folder):
    folder.image("a.jpg", 400, 300)
    circle = shape("cat", [[200, 150], [260, 230]], shape_type="circle")  # radius 100
    folder.text("a.json", labelme([circle], imageHeight=300, imageWidth=400))
    (annotation,) = labelme_to_coco(folder.root)["annotations"]
    assert annotation["bbox"] == [100, 50, 200, 200]
    assert annotation["area"] == pytest.approx(math.pi * 100**2, rel=0.005)
    points = np.reshape(annotation["segmentation"][0], (-1, 2))
    np.testing.assert_allclose(np.hypot(*(points - [200, 150]).T), 100, atol=1e-3)


def test_rectangle_of_four_corners(folder):
    folder.image("a.jpg")
    corners = [[1, 2], [9, 2], [9, 5], [1, 5]]
    folder.text("a.json", labelme([shape("cat", corners, shape_type="rectangle")]))
    assert labelme_to_coco(folder.root)["annotations"][0]["segmentation"] == [[1, 2, 9, 2, 9, 5, 1, 5]]


def test_the_first_versions_say_neither_type_nor_size(folder):
    folder.image("a.jpg")
    folder.text("a.json", json.dumps({"shapes": [{"label": "cat", "points": TRIANGLE}], "imagePath": "a.jpg"}))
    assert labelme_to_coco(folder.root)["annotations"][0]["bbox"] == [10, 10, 10, 10.5]


@pytest.mark.parametrize("named", ["../pictures/a.jpg", "..\\pictures\\a.jpg", "a.jpg", "C:\\somewhere\\else\\a.jpg"])
def test_where_images_are(folder, named):
    folder.image("pictures/a.jpg")
    folder.text("json/a.json", labelme([shape("cat", TRIANGLE)], named))
    content = labelme_to_coco(folder.root)
    assert content["images"][0]["file_name"] == "pictures/a.jpg"
    assert len(folder.read(content)) == 1


def test_images_outside_the_folder(folder):
    folder.image("pictures/a.jpg")
    folder.text("json/a.json", labelme([shape("cat", TRIANGLE)], "../pictures/a.jpg"))
    assert labelme_to_coco(folder.root / "json")["images"][0]["file_name"] == "../pictures/a.jpg"


def test_names_of_labelmes_own_list(folder):
    folder.image("a.jpg")
    folder.text("a.json", labelme([shape("dog", TRIANGLE)]))
    content = labelme_to_coco(folder.root, class_names=["__ignore__", "_background_", "dog", "cat"])
    assert content["categories"] == [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    with pytest.raises(DatasetError, match=r"a\.json: shape 1 \(dog\): 'dog' is none of cat;"):
        labelme_to_coco(folder.root, class_names=["cat"])


def test_an_earlier_result_in_the_folder(folder):
    folder.image("a.jpg")
    folder.text("a.json", labelme([shape("dog", TRIANGLE)]))
    content = labelme_to_coco(folder.root)
    folder.text("coco.json", json.dumps(content))
    assert labelme_to_coco(folder.root) == content


def test_an_image_on_its_side(folder):
    """LabelMe shows it upright, 30 x 40; other programs that write its format may not."""
    exif = Image.Exif()
    exif[0x0112] = 6
    folder.image("a.jpg", exif=exif)
    folder.text("a.json", labelme([shape("dog", TRIANGLE)], imageHeight=40, imageWidth=30))
    assert labelme_to_coco(folder.root)["images"][0]["height"] == 40
    folder.text("a.json", labelme([shape("dog", TRIANGLE)]))
    assert labelme_to_coco(folder.root)["images"][0]["height"] == 30


WRONG = {
    "not JSON": ("{", "not a JSON file: .* in line 1"),
    "a list": ("[1]", "not LabelMe's: it holds no object"),
    "no shapes": ('{"imagePath": "a.jpg"}', "not LabelMe's: it has no list 'shapes'"),
    "a shape that is none": (labelme(["cat"]), "not LabelMe's: it has no list 'shapes'"),
    "no image named": (labelme([], None), "'imagePath' is None, but must name the image"),
    "no image": (labelme([], "b.jpg"), r"no image 'b\.jpg' in .*set; add it, or remove this file"),
    "another size": (
        labelme([], imageWidth=41),
        "says that its image is 41 wide and 30 high, but .*a.jpg is 40 wide and 30 high",
    ),
    "no label": (labelme([shape("", TRIANGLE)]), "shape 1: 'label' is '', but must name its class"),
    "group": (labelme([shape("cat", TRIANGLE, group_id=[1])]), r"shape 1 \(cat\): 'group_id' is \[1\]"),
    "line": (
        labelme([shape("cat", TRIANGLE), shape("cat", [[1, 2], [3, 4]], shape_type="line")]),
        r"shape 2 \(cat\): 'shape_type' is 'line', .* draw it as one of polygon, rectangle, circle, or remove it",
    ),
    "two points": (
        labelme([shape("cat", TRIANGLE[:2])]),
        r"shape 1 \(cat\): 'points' has 2 points, but a polygon has at least three",
    ),
    "three corners": (
        labelme([shape("cat", TRIANGLE, shape_type="rectangle")]),
        r"shape 1 \(cat\): 'points' has 3 points, but a rectangle has two opposite corners",
    ),
    "circle": (labelme([shape("cat", TRIANGLE, shape_type="circle")]), "shape 1 .*has 3 points, but a circle has its"),
    "no points": (labelme([shape("cat", None)]), r"shape 1 \(cat\): 'points' must be a list of \[x, y\]"),
    "a point of three": (labelme([shape("cat", [[1, 2, 3]] * 3)]), r"shape 1 \(cat\): 'points' must be"),
    "NaN": (labelme([shape("cat", [[1, float("nan")]] * 3)]), r"shape 1 \(cat\): 'points' must be .* finite"),
    "text": (labelme([shape("cat", [["1", "2"]] * 3)]), r"shape 1 \(cat\): 'points' must be"),
    "outside": (
        labelme([shape("cat", [[50, 1], [60, 1], [60, 9]])]),
        r"shape 1 \(cat\): its box, x 50 to 60 .*no area",
    ),
    "circle of no radius": (
        labelme([shape("cat", [[5, 5], [5, 5]], shape_type="circle")]),
        r"shape 1 \(cat\): its box, .*no area",
    ),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG)
def test_one_clear_error(folder, content, message):
    folder.image("a.jpg")
    folder.text("a.json", content)
    with pytest.raises(DatasetError, match=rf"^\S*a\.json: {message}"):
        labelme_to_coco(folder.root, class_names=["cat"])


def test_nothing_to_convert(folder):
    folder.image("a.jpg")
    with pytest.raises(DatasetError, match=r"set: no LabelMe \.json file in it"):
        labelme_to_coco(folder.root)
