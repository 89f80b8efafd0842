"""Each cause of a figure of 0 or -1 is told from the others."""

import re

import pytest

from maskrcnn.evaluation.explain import doubts, explain

TRUTH = {
    "images": [{"id": 1, "height": 100, "width": 200}, {"id": 2, "height": 100, "width": 200}],
    "categories": [{"id": 3, "name": "disc"}, {"id": 7, "name": "bar"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 50, 50], "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 7, "bbox": [120, 10, 50, 50], "iscrowd": 0},
    ],
}


def found(image=1, category=3, bbox=(10, 10, 50, 50), score=0.5):
    return {"image_id": image, "category_id": category, "bbox": list(bbox), "score": score}


def test_sound_results_raise_no_doubts():
    assert doubts(TRUTH, []) == []
    assert doubts(TRUTH, [found(), found(image=2, score=1.0)]) == []


@pytest.mark.parametrize(
    ("results", "line"),
    [
        ([found(image=9)], "1 of 1 detections have a 'image_id' that the ground truth's images lack, such as 9"),
        ([found(), found(category=0)], r"1 of 2 detections have a 'category_id' .* such as 0 \(it has \[3, 7\]\)$"),
        ([found(category=0)], "so nothing can match"),
        ([found(score=50.0), found(score=-1.0)], "2 of 2 scores are not in 0..1, such as 50"),
        ([found(score=float("nan"))], "1 of 1 scores"),
        ([found(bbox=(0.1, 0.1, 0.5, 0.5))], "fractions of the image"),
        (
            [found(), found(bbox=(300, 5, 20, 20))],
            r"1 of 2 boxes lie outside their images, such as \[300.0, 5.0, 20.0, 20.0\] in image 1, .* 100 high",
        ),
    ],
)
def test_doubts(results, line):
    (only,) = doubts(TRUTH, results)
    assert re.search(line, only)


@pytest.mark.parametrize(
    ("results", "figures", "line"),
    [
        ([], {"bbox/AP50": 0.0}, "there is not one detection in 2 images, so every AP is 0: no score reached"),
        ([found(image=2)], {"bbox/AP50": 0.0}, "they are in images [2], the objects in [1]"),
        ([found(category=5)], {"bbox/AP50": 0.0}, "they name categories [5], the ground truth [3, 7]"),
        ([found(category=7)], {"bbox/AP50": 0.0}, "boxes that fit objects, but of other categories"),
        ([found(bbox=(60, 60, 9, 9))], {"bbox/AP50": 0.0}, "none overlaps an object of its category by half"),
        ([found(score=0.25)], {"bbox/AP50": 0.0}, "there are 1 detections, with scores up to 0.250"),
        ([found()], {"bbox/AP50": 9.0, "segm/AP50": 0.0}, "mask AP50 is 0 although boxes were found"),
        ([found()], {"bbox/AP50": 9.0, "bbox/APs": 0.0}, "box AP of small objects is 0: none of these was found"),
        ([found()], {"bbox/AP50": 9.0, "bbox/APl": -1.0}, "the ground truth has no large objects, so bbox/APl are -1"),
    ],
)
def test_figures_in_words(results, figures, line):
    assert line in " ".join(explain(TRUTH, results, figures))


def test_good_figures_need_no_words():
    assert explain(TRUTH, [found()], {"bbox/AP50": 9.0, "bbox/APs": 9.0, "segm/AP50": 1.0}) == []


def test_no_ground_truth():
    (line,) = explain({**TRUTH, "annotations": []}, [found()], {"bbox/AP": -1.0})
    assert "has no objects (0 crowd regions), so every figure is -1" in line
