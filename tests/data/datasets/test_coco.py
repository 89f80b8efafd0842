"""The COCO reader: what it reads, against pycocotools, and each thing that a file can have wrong."""

from __future__ import annotations

import gc
import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from maskrcnn.data.apart import call_apart
from maskrcnn.data.datasets import coco, dataset
from maskrcnn.data.datasets.coco import LAYOUT, read_coco
from maskrcnn.data.records import Columns, DatasetError


def read(folder):
    folder.write()
    return read_coco(folder.json_path, folder.images)


def test_reads_images_and_categories(coco_folder):
    data = read(coco_folder)
    assert data.class_names == ("bar", "disc")  # by id, not in the file's order
    assert data.category_ids == (3, 7)
    assert data.name == "annotations"
    assert (data.json_path, data.image_root) == (coco_folder.json_path, coco_folder.images)
    assert [r.image_id for r in data] == [0, 10, 20]
    assert [r.size for r in data] == coco_folder.sizes
    assert [r.path for r in data] == [coco_folder.images / f"{i}.png" for i in range(3)]
    assert [[o.id for o in r.objects] for r in data] == [[4, 9, 6], [], [5]]
    assert data.num_objects.tolist() == [2, 0, 1]


def test_reads_objects(coco_folder):
    disc, clipped, crowd = read(coco_folder)[0].objects
    np.testing.assert_array_equal(disc.box, [1, 2, 21, 12])
    np.testing.assert_array_equal(clipped.box, [30, 20, 40, 30])
    assert (disc.label, clipped.label, disc.area, disc.crowd, crowd.crowd) == (1, 0, 200, False, True)
    assert [p.tolist() for p in disc.segmentation] == [[1, 2, 21, 2, 21, 12], [1, 2, 5, 12, 1, 12.5]]
    expected = np.zeros((30, 40), np.uint8)
    expected[:, 20] = 1  # runs go down the columns of 30 pixels
    np.testing.assert_array_equal(coco_mask.decode(crowd.segmentation), expected)


def test_compressed_rle_with_a_hole(coco_folder):
    ring = np.zeros((30, 40), np.uint8, order="F")
    ring[5:20, 5:20] = 1
    ring[10:15, 10:15] = 0
    rle = coco_mask.encode(ring)
    coco_folder.data["annotations"][1]["segmentation"] = {"size": [30, 40], "counts": rle["counts"].decode()}
    assert read(coco_folder)[0].objects[0].segmentation == {"size": [30, 40], "counts": rle["counts"].decode()}


@pytest.mark.parametrize("value", [None, []])
def test_objects_without_masks(coco_folder, value):
    for annotation in coco_folder.data["annotations"]:
        annotation["segmentation"] = value
        del annotation["iscrowd"], annotation["area"]
    data = read(coco_folder)
    assert not data.has_masks
    assert data[0].objects[0].segmentation is None
    assert data[0].objects[0].area == 200


def test_keypoints_move_to_pixel_centres(coco_folder):
    values = [0] * 51
    values[:6] = [3, 4, 2, 7, 8, 1]
    coco_folder.data["annotations"][1]["keypoints"] = values
    points = read(coco_folder)[0].objects[0].keypoints
    np.testing.assert_array_equal(points[:3], [[3.5, 4.5, 2], [7.5, 8.5, 1], [0, 0, 0]])


def test_images_in_subfolders(coco_folder):
    (coco_folder.images / "sub").mkdir()
    (coco_folder.images / "1.png").rename(coco_folder.images / "sub" / "1.png")
    coco_folder.data["images"][1]["file_name"] = "sub/1.png"
    assert read(coco_folder)[1].path == coco_folder.images / "sub" / "1.png"


# Each case: what to change in the content, and what the one message must say.
BROKEN = {
    "no images key": (lambda d: d.pop("images"), "no 'images'; .* this one has 'categories', 'annotations'"),
    "no annotations key": (lambda d: d.pop("annotations"), "no 'annotations'"),
    "no categories key": (lambda d: d.pop("categories"), "no 'categories'"),
    "annotations of wrong type": (lambda d: d.update(annotations={}), r"'annotations' is \{\}, but must be a list"),
    "entry of wrong type": (
        lambda d: d["images"].append("a.jpg"),
        r"image 'a.jpg': it is 'a.jpg', but must be an object",
    ),
    "no categories": (lambda d: d.update(categories=[]), "'categories' is empty"),
    "no image": (lambda d: d.update(images=[]), "'images' is empty"),
    "category without id": (lambda d: d["categories"][0].pop("id"), "category {'name': 'disc'}: no 'id'"),
    "category without name": (lambda d: d["categories"][0].pop("name"), "category 7: no 'name'"),
    "category twice": (
        lambda d: d["categories"][0].update(id=3),
        "category 3: two categories have the id 3: 'disc' and 'bar'",
    ),
    "image without height": (lambda d: d["images"][0].pop("height"), "image 0: no 'height'"),
    "image without width": (lambda d: d["images"][0].pop("width"), "image 0: no 'width'"),
    "image without name": (lambda d: d["images"][1].pop("file_name"), "image 10: no 'file_name'"),
    "image with empty name": (lambda d: d["images"][1].update(file_name=""), "image 10: 'file_name' is empty"),
    "image without id": (lambda d: d["images"][1].pop("id"), "image {.*1.png.*}: no 'id'"),
    "image id as text": (lambda d: d["images"][1].update(id="10"), "image '10': 'id' is '10', but must be an integer"),
    "height 0": (lambda d: d["images"][0].update(height=0), "image 0: 'height' is 0, but must be at least 1"),
    "width as text": (lambda d: d["images"][0].update(width="40"), "image 0: 'width' is '40', but must be an integer"),
    "image twice": (lambda d: d["images"][1].update(id=0), "image 0: two images have the id 0: '0.png' and '1.png'"),
    "file missing": (
        lambda d: d["images"][1].update(file_name="x.png"),
        "image 10: there is no file 'x.png' in .*images; name the right folder, or add the file",
    ),
    "annotation twice": (lambda d: d["annotations"][0].update(id=4), "annotation 4: two annotations have the id 4"),
    "unknown image": (lambda d: d["annotations"][0].update(image_id=99), "annotation 5: 'image_id' is 99"),
    "unknown category": (
        lambda d: d["annotations"][0].update(category_id=1),
        r"annotation 5: 'category_id' is 1: 'categories' defines only \[3, 7\]",
    ),
    "category as text": (
        lambda d: d["annotations"][0].update(category_id="3"),
        "annotation 5: 'category_id' is '3', but must be an integer",
    ),
    "no box": (lambda d: d["annotations"][0].pop("bbox"), "annotation 5: no 'bbox'"),
    "three numbers": (lambda d: d["annotations"][0].update(bbox=[1, 2, 3]), r"annotation 5: 'bbox' is \[1, 2, 3\]"),
    "text in a box": (lambda d: d["annotations"][0].update(bbox=[1, 2, 3, "4"]), "annotation 5: 'bbox' is .*'4'"),
    "infinite box": (
        lambda d: d["annotations"][0].update(bbox=[1, 2, 3, 1e999]),
        "annotation 5: 'bbox' .* four finite",
    ),
    "negative side": (lambda d: d["annotations"][0].update(bbox=[9, 9, -3, 4]), "annotation 5: 'bbox' .* negative"),
    "crowd of 2": (lambda d: d["annotations"][0].update(iscrowd=2), "annotation 5: 'iscrowd' is 2"),
    "area as text": (
        lambda d: d["annotations"][0].update(area="9"),
        "annotation 5: 'area' is '9', but must be a number",
    ),
    "two points": (
        lambda d: d["annotations"][0].update(segmentation=[[1, 2, 3, 4]]),
        "annotation 5: 'segmentation' is .*: a polygon in it has 4 numbers, but at least three points",
    ),
    "odd count": (
        lambda d: d["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, 6, 7]]),
        "annotation 5: 'segmentation' is .* has 7 numbers",
    ),
    "empty part": (
        lambda d: d["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, 6], []]),
        "annotation 5: 'segmentation' is .* has 0 numbers",
    ),
    "one flat polygon": (
        lambda d: d["annotations"][0].update(segmentation=[1, 2, 3, 4, 5, 6]),
        "annotation 5: 'segmentation' is .* each polygon must be a list",
    ),
    "NaN in a polygon": (
        lambda d: d["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, float("nan")]]),
        "annotation 5: 'segmentation' is .* finite",
    ),
    "mask as text": (lambda d: d["annotations"][0].update(segmentation="abc"), "annotation 5: 'segmentation' is 'abc'"),
    "RLE of another size": (
        lambda d: d["annotations"][3].update(segmentation={"size": [40, 30], "counts": [1200]}),
        r"annotation 6: .* RLE's 'size' is \[40, 30\], but its image has \[height, width\] \[30, 40\]",
    ),
    "RLE too short": (
        lambda d: d["annotations"][3].update(segmentation={"size": [30, 40], "counts": [600, 30]}),
        "annotation 6: 'segmentation' is not whole RLE: .* 630",
    ),
    "RLE negative": (
        lambda d: d["annotations"][3].update(segmentation={"size": [30, 40], "counts": [1230, -30]}),
        "annotation 6: 'segmentation' is not whole RLE",
    ),
    "RLE not COCO's": (
        lambda d: d["annotations"][3].update(segmentation={"size": [30, 40], "counts": "\\tabc"}),
        "annotation 6: 'segmentation' is not whole RLE",
    ),
    "RLE without counts": (
        lambda d: d["annotations"][3].update(segmentation={"size": [30, 40]}),
        "annotation 6: .*'counts' must be",
    ),
    "5 keypoints": (
        lambda d: d["annotations"][0].update(keypoints=[1, 2, 2] * 5),
        r"annotation 5: 'keypoints' is .* 17 times x, y, visibility",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), BROKEN.values(), ids=BROKEN)
def test_one_clear_error(coco_folder, spoil, message):
    spoil(coco_folder.data)
    with pytest.raises(DatasetError, match=rf"^\S*annotations\.json: {message}") as error:
        read(coco_folder)
    assert "\n" not in str(error.value)
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a JSON file: .* ends too early"),
        (b'{"images": [{"id": 1, "file_na', "not a JSON file: .* ends too early"),
        (b'{"images": [{"id": 1},', "not a JSON file: .* ends too early"),
        (b"<!DOCTYPE html><html>not found</html>", "not a JSON file: .* web page"),
        (b"{'images': []}", "not a JSON file: .* line 1, column 2"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "not a JSON file"),
        (b"[]", r"holds \[\], .* results files"),
        (b"3", "holds 3"),
        (b"{}", "no 'images'; .* this one has nothing"),
    ],
)
def test_not_an_annotation_file(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"a\.json: {message}"):
        read_coco(path, tmp_path)


def test_missing_annotation_file(tmp_path):
    with pytest.raises(DatasetError, match=r"a\.json: no such annotation file \(looked in "):
        read_coco(tmp_path / "a.json", tmp_path)


def test_missing_folder_of_images(coco_folder):
    coco_folder.write()
    with pytest.raises(
        DatasetError, match=r"annotations\.json: the images should be in .*elsewhere, which is no folder"
    ):
        read_coco(coco_folder.json_path, coco_folder.images / "elsewhere")


def test_dataset_by_files(coco_folder):
    coco_folder.write()
    spec = {"JSON": str(coco_folder.json_path), "IMAGES": str(coco_folder.images)}
    assert len(dataset(spec, "nowhere")) == 3
    with pytest.raises(DatasetError, match="exactly the keys JSON"):
        dataset({"JSON": "a", "IMAGE": "b"}, "nowhere")


def test_dataset_by_name(tmp_path, coco_folder):
    coco_folder.write()
    json_path, images = (tmp_path / part for part in LAYOUT["coco_2017_val"])
    json_path.parent.mkdir(parents=True)
    coco_folder.json_path.rename(json_path)
    coco_folder.images.rename(images)
    data = dataset("coco_2017_val", tmp_path)
    assert (data.name, len(data)) == ("coco_2017_val", 3)


@pytest.mark.parametrize("name", LAYOUT)
def test_registered_data_set_that_is_not_there(tmp_path, name):
    with pytest.raises(DatasetError, match=rf"{name}.*{tmp_path}.*DATASETS\.ROOT.*MASKRCNN_DATASETS"):
        dataset(name, tmp_path)


def test_unknown_name(tmp_path):
    with pytest.raises(ValueError, match=r"no data set 'coco_2017_vall' \(did you mean coco_2017_val"):
        dataset("coco_2017_vall", tmp_path)


@pytest.mark.parametrize(
    ("folder", "split", "images", "objects", "crowds"),
    [
        ("coco_mini", "train", 403, 3388 - 34, 34),
        ("coco_mini", "val", 125, 934 - 7, 7),
        ("nuclei", "train", 240, 6526, 0),
        ("nuclei", "val", 60, 1740, 0),
    ],
)
def test_real_data(real_data, folder, split, images, objects, crowds):
    data = read_coco(real_data / folder / f"annotations/instances_{split}.json", real_data / folder / split)
    assert len(data) == images
    assert data.num_objects.sum() == objects
    assert sum(o.crowd for record in data for o in record.objects) == crowds
    data.check_masks()


def test_masks_of_real_data_are_those_of_pycocotools(real_data):
    json_path = real_data / "coco_mini/annotations/instances_val.json"
    coco = COCO(json_path)
    for record in list(read_coco(json_path, real_data / "coco_mini/val"))[:40]:
        for obj in record.objects:
            annotation = coco.anns[obj.id]
            assert annotation["category_id"] == coco.getCatIds()[obj.label]
            x, y, w, h = annotation["bbox"]
            np.testing.assert_allclose(obj.box, [x, y, x + w, y + h], atol=0.02)
            rle = obj.segmentation
            if isinstance(rle, list):
                # As written in the file, for the rasteriser is sensitive: corners often lie just where it rounds.
                parts = [np.round(p.astype(float), 3).tolist() for p in rle]
                rle = coco_mask.merge(coco_mask.frPyObjects(parts, *record.size))
            np.testing.assert_array_equal(coco_mask.decode(rle), coco.annToMask(annotation))


def test_real_keypoints(real_data):
    json_path = real_data / "coco_mini/annotations/person_keypoints_val.json"
    data = read_coco(json_path, real_data / "coco_mini/val")
    people = [o for record in data for o in record.objects]
    assert len(people) == 240
    assert sum(bool((o.keypoints[:, 2] > 0).any()) for o in people) == 153
    content = json.loads(Path(json_path).read_text())
    labelled = {a["id"]: a["num_keypoints"] for a in content["annotations"]}
    assert all((o.keypoints[:, 2] > 0).sum() == labelled[o.id] for o in people)


def test_a_large_file_is_read_in_a_process_of_its_own(coco_folder, monkeypatch):
    """To the same data, and to the same error."""
    here = read(coco_folder)
    calls = []
    monkeypatch.setattr(coco, "LARGE", 0)
    monkeypatch.setattr(coco, "call_apart", lambda *call: calls.append(call) or call_apart(*call))
    apart = read(coco_folder)
    assert len(calls) == 1 and (apart.class_names, apart.category_ids) == (here.class_names, here.category_ids)
    for column in fields(Columns):
        ours, theirs = (getattr(data._columns, column.name) for data in (apart, here))
        np.testing.assert_array_equal(ours, theirs)
    coco_folder.json_path.write_text("{")
    with pytest.raises(DatasetError, match="not a JSON file"):
        read_coco(coco_folder.json_path, coco_folder.images)
