from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskrcnn.data import DatasetError
from maskrcnn.data.converters import voc_to_coco

SIDEWAYS = Image.Exif()
SIDEWAYS[0x0112] = 6
TWO_OBJECTS = """\
<annotation>
  <folder>VOC</folder><filename>b.jpg</filename>
  <size><width>40</width><height>30</height><depth>3</depth></size>
  <object>
    <name>person</name><pose>Left</pose><difficult>0</difficult>
    <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>40</xmax><ymax>30</ymax></bndbox>
    <part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></part>
  </object>
  <object>
    <name>dog</name><difficult>1</difficult>
    <bndbox><ymax>12</ymax><xmax>11.5</xmax><ymin>8</ymin><xmin>7</xmin></bndbox>
  </object>
</annotation>"""


@pytest.fixture
def voc(folder):
    folder.image("JPEGImages/b.jpg")
    folder.image("JPEGImages/a.jpg", 20, 50)
    folder.image("JPEGImages/without_annotations.jpg")
    folder.image("SegmentationClass/b.png")
    folder.text("Annotations/b.xml", TWO_OBJECTS)
    folder.text("Annotations/a.xml", "<annotation><filename>a.jpg</filename></annotation>")
    return folder


def test_the_whole_file(voc):
    """The first box is that of all pixels, 1 to 40 and 1 to 30."""
    content = voc_to_coco(voc.root)
    assert content == {
        "images": [
            {"id": 1, "file_name": "JPEGImages/a.jpg", "height": 50, "width": 20},
            {"id": 2, "file_name": "JPEGImages/b.jpg", "height": 30, "width": 40},
        ],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "person"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 2,
                "category_id": 2,
                "bbox": [0, 0, 40, 30],
                "area": 1200,
                "iscrowd": 0,
                "difficult": 0,
            },
            {
                "id": 2,
                "image_id": 2,
                "category_id": 1,
                "bbox": [6, 7, 5.5, 5],
                "area": 27.5,
                "iscrowd": 0,
                "difficult": 1,
            },
        ],
    }
    data = voc.read(content)
    assert data.class_names == ("dog", "person") and [len(record.objects) for record in data] == [0, 2]
    np.testing.assert_array_equal([o.box for o in data[1].objects], [[0, 0, 40, 30], [6, 7, 11.5, 12]])


def test_difficult_objects_as_crowd(voc):
    annotations = voc_to_coco(voc.root, difficult_as_crowd=True)["annotations"]
    assert [(a["difficult"], a["iscrowd"]) for a in annotations] == [(0, 0), (1, 1)]


def test_names_give_the_order(voc):
    content = voc_to_coco(voc.root, class_names=["person", "cat", "dog"])
    assert [c["name"] for c in content["categories"]] == ["person", "cat", "dog"]
    assert [a["category_id"] for a in content["annotations"]] == [1, 3]
    with pytest.raises(DatasetError, match=r"b\.xml: object 2 \(dog\): 'dog' is none of person, cat;"):
        voc_to_coco(voc.root, class_names=["person", "cat"])


def test_split(voc):
    voc.text("ImageSets/Main/train.txt", "b  1\n\n")
    voc.text("ImageSets/Main/val.txt", "a\n")
    assert [i["file_name"] for i in voc_to_coco(voc.root, split="train")["images"]] == ["JPEGImages/b.jpg"]
    with pytest.raises(DatasetError, match=r"test\.txt: no such list of images; lists in its folder: train, val"):
        voc_to_coco(voc.root, split="test")
    voc.text("ImageSets/Main/val.txt", "a\nc\n")
    with pytest.raises(DatasetError, match=r"val\.txt: lists 'c', but there is no c\.xml"):
        voc_to_coco(voc.root, split="val")


def test_images_by_the_name_of_the_xml_file(voc):
    """`filename` may be of another program, or a folder, or missing."""
    for name in ("b", "IMG_1.jpg", "", r"C:\photos\b.jpg", "photos/b.jpg"):
        voc.text("Annotations/b.xml", TWO_OBJECTS.replace("b.jpg", name))
        assert voc_to_coco(voc.root)["images"][1]["file_name"] == "JPEGImages/b.jpg"


def test_the_nearest_of_several_images_of_one_name(folder):
    for part in ("train", "val"):
        folder.image(f"{part}/1.png")
        folder.text(f"{part}/1.xml", TWO_OBJECTS.replace("b.jpg", "1.png"))
    assert [i["file_name"] for i in voc_to_coco(folder.root)["images"]] == ["train/1.png", "val/1.png"]
    folder.text("train/1.xml", "<annotation/>").rename(folder.root / "1.xml")
    with pytest.raises(DatasetError, match=r"1\.xml: its image '1' may be .*train/1\.png or .*val/1\.png; convert"):
        voc_to_coco(folder.root)


def test_the_frame_that_was_annotated(folder):
    """A camera held sideways: viewers show 30 x 40, the file holds 40 x 30; `<size>` tells which was drawn on."""
    folder.image("b.jpg", exif=SIDEWAYS)
    for size in ("<width>30</width><height>40</height>", "<width>0</width><height>0</height>", ""):
        folder.text("b.xml", f"<annotation><size>{size}</size></annotation>")
        (image,) = voc_to_coco(folder.root, class_names=["dog"])["images"]
        assert (image["height"], image["width"]) == (40, 30)
    folder.text("b.xml", TWO_OBJECTS)
    content = voc_to_coco(folder.root)
    assert (content["images"][0]["height"], content["images"][0]["width"]) == (30, 40)


WRONG = {
    "not XML": (TWO_OBJECTS[:-20], "not an XML file"),
    "another kind": ("<svg></svg>", "not VOC's: it begins with <svg>"),
    "image of another size": (
        TWO_OBJECTS.replace("<width>40", "<width>41"),
        "says that its image is 41 wide and 30 high, but .*b.jpg is 40 wide and 30 high",
    ),
    "no name": (TWO_OBJECTS.replace("<name>dog</name>", ""), "object 2: no <name>"),
    "no box": (TWO_OBJECTS.replace("bndbox>", "polygon>"), r"object 1 \(person\): no <bndbox>"),
    "no corner": (TWO_OBJECTS.replace("<xmin>7</xmin>", ""), r"object 2 \(dog\): <xmin> is '', but must be a number"),
    "no number": (TWO_OBJECTS.replace("11.5", "nan"), r"object 2 \(dog\): <xmax> is 'nan', but must be a number"),
    "turned round": (TWO_OBJECTS.replace("11.5", "6"), r"object 2 \(dog\): <xmax> is 6, less than <xmin>, 7"),
    "difficult": (
        TWO_OBJECTS.replace("<difficult>1", "<difficult>yes"),
        r"object 2 \(dog\): <difficult> is 'yes', but must be 0 or 1",
    ),
    "outside": (
        TWO_OBJECTS.replace("<ymax>12", "<ymax>80").replace("<ymin>8", "<ymin>31"),
        r"object 2 \(dog\): its box, x 6 to 11.5 and y 30 to 80, has no area inside the image, which is 40 wide and 30",
    ),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG)
def test_one_clear_error(voc, content, message):
    voc.text("Annotations/b.xml", content)
    with pytest.raises(DatasetError, match=rf"^\S*b\.xml: {message}"):
        voc_to_coco(voc.root)


def test_missing_images_and_files(voc, tmp_path):
    voc.text("Annotations/c.xml", "<annotation><filename>d.jpg</filename></annotation>")
    with pytest.raises(DatasetError, match=r"c\.xml: no image 'd\.jpg' or 'c' in .*set; add it, or remove"):
        voc_to_coco(voc.root)
    voc.text("Annotations/c.xml", "<annotation><filename>b.jpg</filename></annotation>")
    with pytest.raises(DatasetError, match=r"c\.xml and .*b\.xml are both about the image .*b\.jpg"):
        voc_to_coco(voc.root)
    with pytest.raises(DatasetError, match=r"JPEGImages: no \.xml file in it"):
        voc_to_coco(voc.root / "JPEGImages")
    with pytest.raises(DatasetError, match="nowhere: no such folder"):
        voc_to_coco(tmp_path / "nowhere")


def test_no_object_anywhere(folder):
    folder.image("a.jpg")
    folder.text("a.xml", "<annotation/>")
    with pytest.raises(DatasetError, match="no object in any of its 1 images; name the classes"):
        voc_to_coco(folder.root)
    assert len(folder.read(voc_to_coco(folder.root, class_names=["dog"]))) == 1


def test_boxes_of_real_masks(folder):
    """VOC's own counting: the first and last row and column of an object's pixels, from 1."""
    data = Path(os.environ.get("MASKRCNN_TEST_DATA", "nowhere"), "voc_sample")
    if not data.is_dir():
        pytest.skip("needs the sample data: MASKRCNN_TEST_DATA is not set, or has no voc_sample")
    corners = []
    for mask_path in sorted(data.glob("SegmentationObject/*.png")):
        ids = np.asarray(Image.open(mask_path))
        root = ET.Element("annotation")
        ET.SubElement(root, "filename").text = f"{mask_path.stem}.jpg"
        for id_ in sorted(set(ids[(ids > 0) & (ids < 255)].tolist())):
            rows, columns = np.nonzero(ids == id_)
            obj = ET.SubElement(root, "object")
            ET.SubElement(obj, "name").text = "thing"
            box = ET.SubElement(obj, "bndbox")
            for name, value in zip(("xmin", "xmax"), (columns.min() + 1, columns.max() + 1), strict=True):
                ET.SubElement(box, name).text = str(value)
            for name, value in zip(("ymin", "ymax"), (rows.min() + 1, rows.max() + 1), strict=True):
                ET.SubElement(box, name).text = str(value)
            # continuous: what is between the first pixel's left side and the last one's right side
            corners.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        folder.text(f"Annotations/{mask_path.stem}.xml", ET.tostring(root, encoding="unicode"))
    (folder.root / "JPEGImages").symlink_to(data / "JPEGImages")
    (folder.root / "SegmentationObject").symlink_to(data / "SegmentationObject")
    read = folder.read(voc_to_coco(folder.root))
    assert len(corners) == 12
    np.testing.assert_array_equal([o.box for record in read for o in record.objects], corners)
