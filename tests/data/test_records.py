"""Packing records into columns and getting them back."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from maskrcnn.data import records
from maskrcnn.data.records import Dataset, DatasetError, ImageRecord, ObjectRecord, concatenate

CLASSES = {"class_names": ("bar", "disc"), "category_ids": (3, 7)}


def an_object(id_: int = 1, **changes) -> ObjectRecord:
    values = {
        "box": np.array([1, 2, 3.5, 4], np.float32),
        "label": 1,
        "crowd": False,
        "area": 5.25,
        "segmentation": [np.array([1, 2, 3, 2, 3, 4], np.float32), np.arange(8, dtype=np.float32)],
    }
    return ObjectRecord(id=id_, **(values | changes))


def some_records() -> list[ImageRecord]:
    bitmap = np.asfortranarray(np.eye(6, 5, dtype=np.uint8))
    text = coco_mask.encode(bitmap)["counts"].decode()
    return [
        ImageRecord(11, Path("/images/a b.jpg"), (6, 5), [an_object(2**40)]),
        ImageRecord(3, Path("/images/none.jpg"), (9, 10), []),
        ImageRecord(
            7,
            Path("/images/café/ü.png"),
            (6, 5),
            [
                an_object(5, segmentation={"size": [6, 5], "counts": text}, crowd=True),
                an_object(6, segmentation=None, label=0),
                an_object(7, segmentation={"size": [6, 5], "counts": [10, 5, 15]}),
            ],
        ),
    ]


def a_dataset(rows: list[ImageRecord] | None = None, **changes) -> Dataset:
    return Dataset.from_records(some_records() if rows is None else rows, **(CLASSES | {"name": "some"} | changes))


def assert_same(found: ImageRecord, expected: ImageRecord) -> None:
    assert (found.image_id, found.path, found.size) == (expected.image_id, expected.path, expected.size)
    assert len(found.objects) == len(expected.objects)
    for a, b in zip(found.objects, expected.objects, strict=True):
        assert (a.id, a.label, a.crowd, a.area) == (b.id, b.label, b.crowd, b.area)
        np.testing.assert_array_equal(a.box, b.box)
        if isinstance(b.segmentation, list):
            for p, q in zip(a.segmentation, b.segmentation, strict=True):
                np.testing.assert_array_equal(p, q)
        elif b.segmentation is None:
            assert a.segmentation is None
        else:
            whole = b.segmentation
            if isinstance(whole["counts"], list):
                whole = coco_mask.frPyObjects(whole, *whole["size"])
            np.testing.assert_array_equal(coco_mask.decode(a.segmentation), coco_mask.decode(whole))


def test_records_come_back():
    dataset = a_dataset()
    assert len(dataset) == 3
    for found, expected in zip(dataset, some_records(), strict=True):
        assert_same(found, expected)
    assert_same(dataset[-1], some_records()[2])
    with pytest.raises(IndexError, match="image 3"):
        dataset[3]


def test_facts_by_image():
    dataset = a_dataset()
    assert dataset.image_ids.tolist() == [11, 3, 7]
    np.testing.assert_allclose(dataset.aspect_ratios, [5 / 6, 10 / 9, 5 / 6])
    assert dataset.num_objects.tolist() == [1, 0, 2]
    assert dataset.has_masks
    assert not dataset.has_keypoints


def test_keypoints_are_there_for_every_object_or_for_none():
    points = np.arange(51, dtype=np.float32).reshape(17, 3)
    rows = [
        ImageRecord(1, Path("a"), (9, 9), [an_object(1), an_object(2, keypoints=points)]),
        ImageRecord(2, Path("b"), (9, 9), [an_object(3)]),
    ]
    first, second = a_dataset(rows)
    np.testing.assert_array_equal(first.objects[1].keypoints, points)
    assert not first.objects[0].keypoints.any()
    assert not second.objects[0].keypoints.any()
    assert a_dataset()[0].objects[0].keypoints is None
    assert a_dataset(rows).num_keypoints.tolist() == [17, 0]  # 2, 5, 8, ...: all are above 0
    assert a_dataset().num_keypoints.tolist() == [0, 0, 0] and a_dataset([]).num_keypoints.tolist() == []


def test_no_image_and_no_object():
    assert len(a_dataset([])) == 0
    assert a_dataset([]).num_objects.tolist() == []
    empty = a_dataset([ImageRecord(1, Path("a"), (4, 4), [])])
    assert empty[0].objects == []
    assert not empty.has_masks
    empty.check_masks()


def test_the_memory_is_one_shared_block():
    dataset = a_dataset()
    assert dataset._arrays._block.is_shared()
    restored = pickle.loads(pickle.dumps(dataset))
    for found, expected in zip(restored, some_records(), strict=True):
        assert_same(found, expected)
    with pytest.raises(ValueError, match="read-only"):
        dataset[0].objects[0].box[0] = 7


def test_without_shared_memory_it_is_private(monkeypatch):
    def too_small(arrays):
        raise RuntimeError("unable to allocate shared memory")

    monkeypatch.setattr(records, "SharedArrays", too_small)
    dataset = pickle.loads(pickle.dumps(a_dataset()))
    for found, expected in zip(dataset, some_records(), strict=True):
        assert_same(found, expected)


def test_check_masks():
    with pytest.raises(DatasetError, match=r"some: 1 of 3 objects have no 'segmentation', .* annotation 6"):
        a_dataset().check_masks()
    crowd_only = [ImageRecord(1, Path("a"), (9, 9), [an_object(segmentation=None, crowd=True), an_object(2)])]
    a_dataset(crowd_only).check_masks()


def test_concatenate():
    first, second = a_dataset(name="a"), a_dataset(some_records()[:1], name="b")
    both = concatenate([first, second])
    assert (both.name, both.class_names, both.category_ids) == ("a + b", ("bar", "disc"), (3, 7))
    assert both.json_path is None
    for found, expected in zip(both, some_records() + some_records()[:1], strict=True):
        assert_same(found, expected)
    assert concatenate([first]) is first
    with pytest.raises(DatasetError, match="no data set"):
        concatenate([])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"category_ids": (3, 8)}, r"id 7 \('disc'\) against id 8 \('disc'\)"),
        ({"class_names": ("bar", "ring")}, r"id 7 \('disc'\) against id 7 \('ring'\)"),
        ({"class_names": ("bar",), "category_ids": (3,)}, r"id 7 \('disc'\) against none"),
    ],
    ids=["id", "name", "one fewer"],
)
def test_concatenate_wants_the_same_categories(changes, message):
    other = a_dataset([], json_path=Path("/there/b.json"), **changes)
    with pytest.raises(DatasetError, match=rf"/here/a\.json and /there/b\.json .*{message}"):
        concatenate([a_dataset(json_path=Path("/here/a.json")), other])
