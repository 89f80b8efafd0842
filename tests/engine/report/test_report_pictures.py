"""Pictures that are made smaller, masks with them, and which ones are chosen."""

import base64
import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
from coco_sets import compressed
from pycocotools import mask as coco_mask

from maskrcnn.data.records import ImageRecord, ObjectRecord
from maskrcnn.engine.report.examples import fitting, groups, left_off, spread
from maskrcnn.engine.report.pictures import Picture, cut_mask, encode, leave_off, resampled, shrunk, shrunk_size

JUDGED = {"objects": {"found_by": {}}, "detections": {"error": {}, "iou": {}}}


def disc(size, centre, radius):
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2


def placed(mask, size):
    x, y, w, h, counts = mask
    whole = np.zeros(size, bool)
    whole[y : y + h, x : x + w] = coco_mask.decode({"size": [h, w], "counts": counts})
    return whole


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.5, 0.5), (0.31, 0.3125), (0.25, 0.1)])
def test_a_mask_in_smaller_pixels(scale):
    """Each of its pixels is that of the file under its centre."""
    size = (120, 160)
    smaller = round(size[0] * scale[0]), round(size[1] * scale[1])
    rows = ((np.arange(smaller[0]) + 0.5) / scale[0]).astype(int).clip(max=size[0] - 1)
    columns = ((np.arange(smaller[1]) + 0.5) / scale[1]).astype(int).clip(max=size[1] - 1)
    for centre, radius in [((80, 60), 33), ((5, 5), 20), ((150, 110), 30), ((80, 60), 300)]:
        bitmap = disc(size, centre, radius)
        mask = cut_mask(compressed(bitmap), size, scale)
        assert (placed(mask, smaller) == bitmap[np.ix_(rows, columns)]).all()


def test_a_mask_of_one_pixel_is_still_seen_in_a_picture_a_tenth_as_large():
    for x, y in itertools.product(range(0, 160, 7), range(0, 120, 7)):
        bitmap = np.zeros((120, 160), bool)
        bitmap[y, x] = True
        assert placed(cut_mask(compressed(bitmap), (120, 160), (0.1, 0.1)), (12, 16)).sum() == 1


@pytest.mark.parametrize("nothing", [None, [], compressed(np.zeros((9, 9), bool))])
def test_without_a_mask(nothing):
    assert cut_mask(nothing, (9, 9), (1.0, 1.0)) is None


def test_resampled_stretches_lie_within_the_picture():
    for start, length in itertools.product(range(40), range(1, 41)):
        if start + length <= 40:
            pixels, first = resampled(start, length, 0.3)
            assert len(pixels) >= 1 and 0 <= first and first + len(pixels) <= 12
            assert 0 <= pixels.min() and pixels.max() < length


def picture(size=(900, 1200), keypoints=None):
    noise = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    box = np.array([300, 150, 900, 750], np.float32)
    objects = [ObjectRecord(id=1, box=box, label=0, crowd=False, area=9.0, keypoints=keypoints)]
    row = {"category_id": 7, "bbox": [300, 150, 600, 600], "iscrowd": 0, "score": 0.98765}
    row["segmentation"] = [[300, 150, 900, 150, 900, 750, 300, 750]]
    if keypoints is not None:
        row["keypoints"] = (keypoints - [0.5, 0.5, 0]).ravel().tolist()
    record = ImageRecord(image_id=3, path=Path("a/b.png"), size=size, objects=objects)
    return Picture(record, shrunk(noise, 640), [row], [row], 0.5, JUDGED)


@pytest.mark.parametrize(("budget", "side"), [(10**9, 640), (150_000, 512), (1, 256)])
def test_all_pictures_become_smaller_until_they_fit(budget, side):
    """And their boxes and masks with them; with the smallest size it has to do."""
    found, other = encode([picture(), picture((300, 200))], {7: 0}, budget)
    assert (found["width"], found["height"]) == (side, round(side * 3 / 4)) == found_size(found)
    assert found["size"] == [900, 1200] and found["detections"]["score"] == [0.9877]
    scale = side / 1200
    for name in ("objects", "detections"):
        assert found[name]["box"] == [pytest.approx([300 * scale, 150 * scale, 900 * scale, 750 * scale], abs=0.051)]
        assert found[name]["mask"][0][:4] == [round(v * scale) for v in (300, 150, 600, 600)]
        assert found[name]["keypoints"] is None
    assert found_size(other) == ((200, 300) if side > 300 else (171, 256))  # one that fits keeps its size
    assert len(found["webp"]) + len(other["webp"]) <= budget or side == 256


def found_size(found):
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(found["webp"]), np.uint8), cv2.IMREAD_COLOR)
    return pixels.shape[1], pixels.shape[0]


def test_keypoints_are_where_the_image_is():
    points = np.zeros((17, 3), np.float32)
    points[4] = 300, 150, 2
    (found,) = encode([picture(keypoints=points)], {7: 0}, 10**9)
    for name in ("objects", "detections"):
        assert found[name]["keypoints"][0][4] == [160, 80, 2]


def test_sizes_of_extreme_images():
    for size in [(1, 5000), (5000, 1), (640, 640), (641, 640)]:
        pixels = shrunk(shrunk(np.zeros((*size, 3), np.uint8), 640), 320)
        assert pixels.shape[:2] == shrunk_size(size, 320)


def test_an_image_that_is_shrunk_in_two_steps_has_the_size_of_its_pixels():
    """Rounded twice: in one step from 2002 x 1601 to 512 the width would be 409."""
    pixels = shrunk(shrunk(np.zeros((2002, 1601, 3), np.uint8), 640), 512)
    assert pixels.shape[:2] == shrunk_size((2002, 1601), 512) == (512, 410)


def test_the_longest_masks_are_left_off_until_the_others_fit():
    def side(*lengths):
        return {"mask": [length and [1, 2, 3, 4, "0" * length] for length in lengths], "box": [[0] * 4] * len(lengths)}

    def lengths(sides):
        return [[mask and len(mask[4]) for mask in side["mask"]] for side in sides]

    sides = [side(500, None, 100), side(), side(300, 900)]
    assert leave_off(sides, 10**6) == (0, 4) and lengths(sides) == [[500, None, 100], [], [300, 900]]
    assert leave_off(sides, 1000) == (1, 4) and lengths(sides) == [[500, None, 100], [], [300, None]]
    assert leave_off(sides, 500) == (1, 3) and lengths(sides) == [[None, None, 100], [], [300, None]]
    assert leave_off(sides, -5) == (2, 2) and lengths(sides) == [[None, None, None], [], [None, None]]
    assert leave_off([], 0) == (0, 0)


def test_groups_are_the_largest_that_can_be_drawn():
    def choose(size):
        return f"groups of {size}", list(range(3 * size))

    weights = np.full(36, 10)
    assert fitting(choose, weights, 360) == ("groups of 12", list(range(36)), 12)
    assert fitting(choose, weights, 359) == ("groups of 11", list(range(33)), 11)
    assert fitting(choose, weights, 0) == ("groups of 3", list(range(9)), 3)  # the smallest has to do


def test_what_is_left_off_is_said():
    assert left_off(12, 0, 900) == []
    few, masks = left_off(5, 1234, 5678)
    assert "at most 5 of them instead of 12" in few and "1,234 of 5,678 masks are left off" in masks


def test_the_surest_examples_of_different_images_come_first():
    images, scores = np.array([0, 0, 0, 1, 2, 2]), np.array([0.9, 0.8, 0.7, 0.1, 0.5, 0.6])
    assert spread(images, scores, 3).tolist() == [0, 5, 3]
    assert spread(images, scores, 5).tolist() == [
        0,
        1,
        2,
        5,
        3,
    ]  # one more of image 0 and of 2, where there are no more
    assert spread(images[:0], scores[:0], 3).tolist() == []


def test_worst_and_best_share_no_image_and_leave_out_empty_ones():
    quality = np.array([0.5, np.nan, 0.1, 0.9])
    found = groups(quality, np.ones(4, int))
    assert found["worst"] == [2, 0] and found["best"] == [3] and found["random"] == [0, 1, 2, 3]
    many = groups(np.linspace(0, 1, 100), np.ones(100, int))
    assert many["worst"] == list(range(12)) and many["best"] == list(range(99, 87, -1)) and len(many["random"]) == 12
    assert groups(np.full(100, np.nan), np.zeros(100, int))["random"] == many["random"]  # whatever the run
    assert groups(np.zeros(0), np.zeros(0, int)) == {"worst": [], "best": [], "random": []}


def test_of_equal_quality_the_fuller_images_are_shown():
    quality, objects = np.array([0, 0, 0, 1, 1, 0.5]), np.array([3, 9, 5, 2, 4, 1])
    found = groups(quality, objects)
    assert found["worst"] == [1, 2, 0] and found["best"] == [4, 3, 5]
    weak = groups(np.zeros(100), np.arange(100))
    assert weak["worst"] == list(range(99, 87, -1)) and weak["best"] == list(range(87, 75, -1))
