"""Each kind of damage to a data set is found and named at its place, and gone after `drop` and after `repair`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

from maskrcnn.data import DatasetError, read_coco
from maskrcnn.data.checking import KINDS, check_coco, text_of

NAN, INF = float("nan"), float("inf")


def on(id_: int, **values: Any) -> Callable[[Any], None]:
    """Other values in an annotation."""
    return lambda clean: clean.annotation(id_).update(values)


def on_image(id_: int, **values: Any) -> Callable[[Any], None]:
    return lambda clean: clean.image(id_).update(values)


def without(id_: int, key: str) -> Callable[[Any], None]:
    return lambda clean: clean.annotation(id_).pop(key)


def top(**values: Any) -> Callable[[Any], None]:
    return lambda clean: clean.data.update(values)


def added(section: str, entry: Any) -> Callable[[Any], None]:
    return lambda clean: clean.data[section].append(entry)


def copied(section: str, **changes: Any) -> Callable[[Any], None]:
    """The first entry once more."""
    return lambda clean: clean.data[section].append({**clean.data[section][0], **changes})


def cut(clean: Any) -> None:
    clean.file(1).write_bytes(clean.file(1).read_bytes()[:4000])


def other_size(clean: Any) -> None:
    cv2.imwrite(str(clean.file(1)), np.zeros((60, 90, 3), np.uint8))


def normalised(clean: Any) -> None:
    for a in clean.data["annotations"]:
        h, w = next((i["height"], i["width"]) for i in clean.data["images"] if i["id"] == a["image_id"])
        x, y, bw, bh = a["bbox"]
        a["bbox"] = [x / w, y / h, bw / w, bh / h]


def corners(clean: Any) -> None:
    boxes = [[30, 40, 70, 55], [40, 30, 79, 59], [10, 20, 60, 58], [50, 30, 75, 50]]
    clean.data["annotations"] = [
        {"id": i + 1, "image_id": 1 + i % 2, "category_id": 5, "bbox": box} for i, box in enumerate(boxes)
    ]


def half_rle(**values: Any) -> dict[str, Any]:
    return {"size": [60, 80], "counts": [2400, 2400], **values}


SEEN_IN_PIXELS = {"image-unreadable", "image-truncated", "image-mis-sized"}  # which reading does not look at
EIGHT = [10.0, 10, 30, 10, 30, 30, 10, 30]

# What is done; the kind of problem; where it is; how many of the 8 annotations `repair` costs, None if nothing helps.
DAMAGE: dict[str, tuple[Callable[[Any], Any], str, str, int | None]] = {
    "no images key": (lambda c: c.data.pop("images"), "wrong-top-level", "", None),
    "annotations no list": (top(annotations={}), "wrong-top-level", "", None),
    "no category": (top(categories=[]), "no-categories", "", None),
    "no image": (top(images=[]), "no-images", "", None),
    "folder gone": (lambda c: shutil.rmtree(c.images), "no-image-folder", "", None),
    "wrong folder": (
        lambda c: [c.image(i).update(file_name=f"x{i}.png") for i in range(1, 6)],
        "no-image-files",
        "",
        None,
    ),
    "fractions": (normalised, "boxes-normalised", "", None),
    "corners": (corners, "boxes-as-corners", "", None),
    "image no object": (added("images", "1.png"), "entry-not-object", "image '1.png'", 0),
    "category no object": (added("categories", None), "entry-not-object", "category None", 0),
    "annotation no object": (added("annotations", [1, 2]), "entry-not-object", "annotation [1, 2]", 0),
    "image without height": (lambda c: c.image(1).pop("height"), "missing-field", "image 1", 2),
    "image without name": (lambda c: c.image(1).pop("file_name"), "missing-field", "image 1", 2),
    "category without name": (lambda c: c.data["categories"][0].pop("name"), "missing-field", "category 5", 0),
    "name a number": (lambda c: c.data["categories"][0].update(name=7), "wrong-type", "category 5", 0),
    "annotation without id": (lambda c: c.data["annotations"][0].pop("id"), "missing-field", "annotation {", 0),
    "annotation without image": (without(1, "image_id"), "missing-field", "annotation 1", 1),
    "annotation without category": (without(1, "category_id"), "missing-field", "annotation 1", 1),
    "annotation without box": (without(3, "bbox"), "missing-field", "annotation 3", 0),
    "id a text": (lambda c: c.data["annotations"][0].update(id="1"), "wrong-type", "annotation '1'", 0),
    "id beyond 64 bits": (lambda c: c.data["annotations"][0].update(id=2**70), "wrong-type", "annotation 1180591", 0),
    "category a text": (on(1, category_id="5"), "wrong-type", "annotation 1", 0),
    "category a float": (on(1, category_id=5.0), "wrong-type", "annotation 1", 0),
    "category a word": (on(1, category_id="ball"), "wrong-type", "annotation 1", 1),
    "category true": (on(1, category_id=True), "wrong-type", "annotation 1", 1),
    "image id a list": (on(1, image_id=[1]), "wrong-type", "annotation 1", 1),
    "image id of an image a text": (on_image(1, id="1"), "wrong-type", "image '1'", 0),
    "width a text": (on_image(1, width="80"), "wrong-type", "image 1", 0),
    "file name a number": (on_image(1, file_name=1), "wrong-type", "image 1", 2),
    "box a text": (on(1, bbox="40,10,20,20"), "wrong-type", "annotation 1", 0),
    "text in a box": (on(1, bbox=[40, 10, "20", 20]), "wrong-type", "annotation 1", 0),
    "area a text": (on(1, area="400"), "wrong-type", "annotation 1", 0),
    "mask a text": (on(1, segmentation="abc"), "wrong-type", "annotation 1", 1),
    "text in a mask": (on(2, segmentation=[["a"] * 6, EIGHT]), "wrong-type", "annotation 2", 0),
    "keypoints no list": (on(2, keypoints={}), "wrong-type", "annotation 2", 0),
    "NaN in a box": (on(1, bbox=[40, NAN, 20, 20]), "not-finite", "annotation 1", 0),
    "infinite box": (on(3, bbox=[20, 10, 30, INF]), "not-finite", "annotation 3", 0),
    "enormous box": (on(1, bbox=[40, 10, 10**400, 20]), "not-finite", "annotation 1", 0),
    "NaN in a polygon": (on(1, segmentation=[[40, 10, 60, 10, 60, NAN]]), "not-finite", "annotation 1", 1),
    "NaN area": (on(1, area=NAN), "not-finite", "annotation 1", 0),
    "infinite keypoint": (on(2, keypoints=[INF] + [0] * 50), "not-finite", "annotation 2", 0),
    "category twice": (copied("categories"), "duplicate-category-id", "category 5", 0),
    "category twice, other name": (copied("categories", name="cube"), "duplicate-category-id", "category 5", 5),
    "category name twice": (
        lambda c: c.data["categories"][1].update(name="ball"),
        "duplicate-category-name",
        "category 1",
        0,
    ),
    "category unused": (added("categories", {"id": 9, "name": "cube"}), "category-without-instances", "category 9", 0),
    "height 0": (on_image(1, height=0), "image-size", "image 1", 2),
    "width beyond 32 bits": (on_image(1, width=2**40), "image-size", "image 1", 2),
    "file name empty": (on_image(1, file_name=""), "file-name-empty", "image 1", 2),
    "image twice": (copied("images"), "duplicate-image-id", "image 1", 0),
    "image id of another": (
        lambda c: (c.image(2).update(id=1), c.annotation(3).update(image_id=1), c.annotation(4).update(image_id=1)),
        "duplicate-image-id",
        "image 1",
        4,
    ),
    "one file, two ids": (
        lambda c: (c.data["images"].append({**c.image(1), "id": 11}), c.annotation(2).update(image_id=11)),
        "duplicate-file-name",
        "image 11",
        0,
    ),
    "nothing on an image": (
        lambda c: c.data["annotations"].remove(c.annotation(6)),
        "image-without-annotations",
        "image 4",
        1,
    ),
    "image missing": (lambda c: c.file(1).unlink(), "image-missing", "image 1", 2),
    "image of another folder": (on_image(3, file_name="3.png"), "image-missing", "image 3", 1),
    "null character in a name": (on_image(1, file_name="a\0b"), "image-missing", "image 1", 2),
    "half a character in a name": (on_image(1, file_name="\ud800"), "image-missing", "image 1", 2),
    "upper case": (on_image(3, file_name="sub/3.PNG"), "file-name-case", "image 3", 0),
    "no image in the file": (lambda c: c.file(1).write_text("<html>"), "image-unreadable", "image 1", 2),
    "image file empty": (lambda c: c.file(1).write_bytes(b""), "image-unreadable", "image 1", 2),
    "image cut off": (cut, "image-truncated", "image 1", 2),
    "image of another size": (other_size, "image-mis-sized", "image 1", 2),
    "sides swapped": (on_image(1, height=80, width=60), "image-mis-sized", "image 1", 2),
    "annotation twice": (copied("annotations"), "duplicate-annotation-id", "annotation 1", 0),
    "annotation id of another": (lambda c: c.annotation(2).update(id=1), "duplicate-annotation-id", "annotation 1", 0),
    "image unknown": (on(1, image_id=99), "unknown-image", "annotation 1", 1),
    "category unknown": (on(1, category_id=2), "unknown-category", "annotation 1", 1),
    "crowd 2": (on(1, iscrowd=2), "iscrowd-value", "annotation 1", 1),
    "crowd null": (on(1, iscrowd=None), "iscrowd-value", "annotation 1", 0),
    "crowd a text": (on(1, iscrowd="0"), "iscrowd-value", "annotation 1", 0),
    "area negative": (on(1, area=-4), "area-negative", "annotation 1", 0),
    "three numbers": (on(1, bbox=[40, 10, 20]), "bbox-length", "annotation 1", 0),
    "no numbers": (on(3, bbox=[]), "bbox-length", "annotation 3", 0),
    "negative side": (on(1, bbox=[60, 10, -20, 20]), "bbox-negative-side", "annotation 1", 0),
    "box outside": (on(1, bbox=[200, 10, 20, 20]), "bbox-outside", "annotation 1", 0),
    "box and mask outside": (
        on(1, bbox=[200, 10, 20, 20], segmentation=[[200, 10, 220, 10, 220, 30]]),
        "bbox-outside",
        "annotation 1",
        1,
    ),
    "box partly outside": (on(6, bbox=[0, 0, 50, 60]), "bbox-partly-outside", "annotation 6", 0),
    "box without width": (on(1, bbox=[40, 10, 0, 20]), "bbox-without-area", "annotation 1", 0),
    "box elsewhere": (on(1, bbox=[2, 40, 20, 20]), "box-mask-apart", "annotation 1", 0),
    "box of RLE elsewhere": (on(3, bbox=[60, 50, 10, 8]), "box-mask-apart", "annotation 3", 0),
    "box too large": (on(1, bbox=[20, 10, 50, 40]), "box-mask-differ", "annotation 1", 0),
    "mask null": (on(1, segmentation=None), "mask-missing", "annotation 1", 1),
    "mask an empty list": (on(1, segmentation=[]), "mask-missing", "annotation 1", 1),
    "polygon not in a list": (on(1, segmentation=[40, 10, 60, 10, 60, 30]), "segmentation-flat", "annotation 1", 0),
    "four numbers": (on(1, segmentation=[[40, 10, 20, 20]]), "polygon-four-numbers", "annotation 1", 1),
    "four numbers in a part": (on(2, segmentation=[EIGHT, [1, 2, 3, 4]]), "polygon-four-numbers", "annotation 2", 0),
    "one point": (on(1, segmentation=[[40, 10]]), "polygon-too-few-points", "annotation 1", 1),
    "empty part": (on(2, segmentation=[[], EIGHT]), "polygon-too-few-points", "annotation 2", 0),
    "odd count": (on(1, segmentation=[[40, 10, 60, 10, 60, 30, 1]]), "polygon-odd-count", "annotation 1", 1),
    "polygon on a line": (on(1, segmentation=[[40, 10, 60, 10, 50, 10]]), "mask-without-area", "annotation 1", 1),
    "RLE empty": (on(3, segmentation=half_rle(counts=[4800])), "mask-without-area", "annotation 3", 1),
    "RLE transposed": (on(3, segmentation=half_rle(size=[80, 60])), "rle-size", "annotation 3", 1),
    "RLE without size": (on(3, segmentation={"counts": [4800]}), "rle-size", "annotation 3", 1),
    "RLE without counts": (on(3, segmentation={"size": [60, 80]}), "rle-counts", "annotation 3", 1),
    "RLE too short": (on(3, segmentation=half_rle(counts=[2400, 30])), "rle-counts", "annotation 3", 1),
    "RLE too long": (on(3, segmentation=half_rle(counts=[2400, 2400, 2400])), "rle-counts", "annotation 3", 1),
    "RLE negative": (on(3, segmentation=half_rle(counts=[4900, -100])), "rle-counts", "annotation 3", 1),
    "RLE in floats": (on(3, segmentation=half_rle(counts=[2400.0, 2400.0])), "rle-counts", "annotation 3", 1),
    "RLE text cut off": (
        lambda c: c.annotation(3)["segmentation"].update(counts=c.annotation(3)["segmentation"]["counts"][:-3]),
        "rle-counts",
        "annotation 3",
        1,
    ),
    "RLE text of another code": (on(3, segmentation=half_rle(counts="\\tabc é")), "rle-counts", "annotation 3", 1),
    "5 keypoints": (on(2, keypoints=[1, 2, 2] * 5), "keypoint-count", "annotation 2", 0),
    "visibility 3": (on(2, keypoints=[1, 2, 3] * 17), "keypoint-visibility", "annotation 2", 0),
    "keypoints miscounted": (on(2, num_keypoints=3), "num-keypoints", "annotation 2", 0),
}


def test_there_are_many_kinds() -> None:
    found = {kind for _, kind, _, _ in DAMAGE.values()}
    elsewhere = {"no-file", "not-json", "categories-differ", "shared-image"}  # test_splits.py, test_coco.py
    assert found | elsewhere == set(KINDS) and len(found) >= 30


def test_a_clean_file_is_one_line(clean: Any) -> None:
    report = check_coco(clean.write().json_path, clean.images, decode=None)
    assert text_of(report) == f"{clean.json_path}: no problems in 5 images with 8 annotations"
    assert report.content == clean.data and not report.changes and report.clean and not report.refused


@pytest.mark.parametrize(("spoil", "kind", "where", "lost"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_found_and_mended(
    clean: Any, spoil: Callable[[Any], Any], kind: str, where: str, lost: int | None
) -> None:
    spoil(clean)
    clean.write()
    report = check_coco(clean.json_path, clean.images, decode=None)
    assert {p.kind for p in report.problems} >= {kind}, report.problems
    problem = next(p for p in report.problems if p.kind == kind)
    assert problem.where.startswith(where) and bool(problem.where) == bool(where)
    assert not [p for p in report.problems if p.kind != kind and p.severity in ("fatal", "error")], (
        "one cause, one error"
    )
    assert kind in text_of(report)

    severity = KINDS[kind].severity
    assert report.refused == (severity in ("fatal", "error"))
    if report.refused and kind not in SEEN_IN_PIXELS:
        with pytest.raises(DatasetError) as error:
            read_coco(clean.json_path, clean.images)
        assert where in str(error.value) and str(clean.json_path) in str(error.value)

    for policy in ("drop", "repair"):
        mended = check_coco(clean.json_path, clean.images, policy=policy, decode=None)
        assert mended.refused == (lost is None)
        if mended.refused:
            continue
        assert bool(mended.changes) == (severity == "error" or (severity, policy) == ("warning", "repair"))
        written = clean.json_path.with_name("written.json")
        written.write_text(json.dumps(mended.content, allow_nan=False))
        again = check_coco(written, clean.images, decode=None)
        assert not again.errors and (policy == "drop" or again.clean), again.problems
        left = sum(len(record.objects) for record in read_coco(written, clean.images))
        if policy == "repair":
            assert left == 8 - lost, mended.changes
        else:
            assert left >= 2


def test_several_mistakes_are_all_found_and_mended_together(clean: Any) -> None:
    clean.annotation(1).update(bbox=[60, 10, -20, 20], area=-1, iscrowd=None, category_id="5")
    clean.annotation(2).update(segmentation=[[1, 2], EIGHT, [NAN] * 6], num_keypoints="two")
    clean.annotation(3).update(bbox=None, area=NAN)
    clean.file(4).unlink()
    clean.write()
    report = check_coco(clean.json_path, clean.images)
    assert sorted((p.where, p.kind) for p in report.problems if p.severity != "note") == [
        ("annotation 1", "area-negative"),
        ("annotation 1", "bbox-negative-side"),
        ("annotation 1", "iscrowd-value"),
        ("annotation 1", "wrong-type"),
        ("annotation 2", "not-finite"),
        ("annotation 2", "num-keypoints"),
        ("annotation 2", "polygon-too-few-points"),
        ("annotation 3", "not-finite"),
        ("annotation 3", "wrong-type"),
        ("image 4", "image-missing"),
    ]
    with pytest.raises(DatasetError) as error:
        read_coco(clean.json_path, clean.images)
    lines = str(error.value).splitlines()
    assert lines[0] == f"{clean.json_path}: 9 errors, 1 warning"
    assert len(lines) == 1 + 8 + 1 + 2 and "maskrcnn check_data --json" in lines[-2]

    mended = check_coco(clean.json_path, clean.images, policy="repair")
    found = {a["id"]: a for a in mended.content["annotations"]}
    assert list(found) == [1, 2, 3, 4, 5, 7, 8]
    assert {key: found[1][key] for key in ("bbox", "area", "iscrowd", "category_id")} == {
        "bbox": [40, 10, 20, 20],
        "area": 400,
        "iscrowd": 0,
        "category_id": 5,
    }
    assert found[2]["segmentation"] == [EIGHT] and found[2]["num_keypoints"] == 2
    assert found[2]["bbox"] == [10, 10, 20, 20], "it was that of the parts which are gone"
    assert found[3]["bbox"] == [20, 10, 30, 30] and found[3]["area"] == 900
    assert clean.annotation(3)["bbox"] is None, "what is checked is not touched"
    changed = [(change.where, change.action) for change in mended.changes]
    assert ("annotation 6", "dropped") in changed and ("annotation 3", "changed") in changed
    (lost,) = (change for change in mended.changes if change.where == "annotation 6")
    assert lost.cause == "image 4 was dropped"


def test_an_error_and_what_the_reader_makes_of_it(clean: Any, caplog: Any) -> None:
    clean.annotation(1).update(bbox=[40, 10, 20])
    clean.write()
    with pytest.raises(DatasetError) as error:
        read_coco(clean.json_path, clean.images)
    assert str(error.value) == (
        f"{clean.json_path}: annotation 1: 'bbox' is [40, 10, 20]: it must be four numbers [x, y, width, height]; "
        "write [x, y, width, height]"
    )
    data = read_coco(clean.json_path, clean.images, policy="repair")
    np.testing.assert_array_equal(data[0].objects[0].box, [40, 10, 60, 30])
    (change,) = data.changes
    assert (change.where, change.kinds) == ("annotation 1", ("bbox-length",))
    assert (change.before, change.after) == ("bbox [40, 10, 20]", "bbox [40.0, 10.0, 20.0, 20.0]")
    assert "1 annotation changed" in caplog.text
    dropped = read_coco(clean.json_path, clean.images, policy="drop")
    assert [o.id for o in dropped[0].objects] == [2] and dropped.changes[0].action == "dropped"
    with pytest.raises(ValueError, match="policy 'fix'; it must be error, drop, repair"):
        read_coco(clean.json_path, clean.images, policy="fix")


def test_warnings_are_logged_and_trained_on(clean: Any, caplog: Any) -> None:
    clean.annotation(6).update(bbox=[0, 0, 50, 60])
    clean.write()
    data = read_coco(clean.json_path, clean.images)
    np.testing.assert_array_equal(data[3].objects[0].box, [0, 0, 50, 50])
    assert not data.changes
    assert "1 boxes that reach beyond their image (bbox-partly-outside), the first being annotation 6" in caplog.text


def test_corners_are_recognised_beside_a_mask(clean: Any) -> None:
    """Even where the box, cut off at the image's edge, still overlaps its mask by half."""
    clean.annotation(1).update(bbox=[40, 10, 60, 30])
    clean.annotation(5).update(bbox=[10.5, 20.25, 40.5, 60.25])
    clean.annotation(3).update(bbox=[20, 10, 55, 45])  # too large, but no corners
    report = check_coco(clean.write().json_path, policy="repair")
    found = {(p.where, p.kind): "read as two corners" in p.message for p in report.problems}
    assert found.pop(("annotation 1", "box-mask-apart")) and found.pop(("annotation 5", "box-mask-apart"))
    assert not found.pop(("annotation 3", "box-mask-differ"))
    assert {kind for _, kind in found} == {"bbox-partly-outside"}
    boxes = {a["id"]: a["bbox"] for a in report.content["annotations"]}
    assert (boxes[1], boxes[5], boxes[3]) == ([40, 10, 20, 20], [10.5, 20.25, 30, 40], [20, 10, 30, 30])


def test_rounding_is_no_problem(clean: Any) -> None:
    clean.annotation(6).update(bbox=[-0.4, 0, 50.8, 50.3])  # within a pixel of the image
    clean.annotation(8).update(bbox=[31, 5, 10, 10])  # a pixel inside its mask on each side
    clean.annotation(1).update(segmentation=[[40, 10, 41, 10, 41, 11]], bbox=[40, 10, 0.4, 0.4])  # of a tiny object
    assert check_coco(clean.write().json_path, clean.images).clean
