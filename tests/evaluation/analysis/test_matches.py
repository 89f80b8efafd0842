"""Matches against those of pycocotools, one by one, and against loops over pixels; hand-made cases for each error."""

import numpy as np
import pytest
from coco_sets import (
    CATEGORIES,
    LABEL_OF,
    SIZE,
    annotation,
    by_image,
    detection,
    for_tool,
    matches_of,
    random_set,
    rectangle,
    truth_of,
)
from matching_by_definition import by_definition, pixels
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn.evaluation.analysis import ERRORS, ImageMatches, Matches, match_image

KINDS = ["bbox", "segm"]
SEEDS = range(6)


def coco_of(truth: dict) -> COCO:
    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    return coco


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_true_positives_and_crowds_are_those_of_pycocotools(kind: str, seed: int) -> None:
    truth, results = random_set(seed)
    ours = matches_of(truth, results, kind)
    theirs = coco_of(for_tool(truth, results, kind)[0])
    run = COCOeval(theirs, theirs.loadRes(for_tool(truth, results, kind)[1]), kind)
    run.params.iouThrs, run.params.maxDets, run.params.areaRng = np.array([0.5]), [10000], [[0, 1e10]]
    run.params.areaRngLbl = ["all"]
    run.evaluate()
    found, ignored, found_by = {}, set(), {}
    for image in filter(None, run.evalImgs):
        for number, match, skip in zip(image["dtIds"], image["dtMatches"][0], image["dtIgnore"][0], strict=True):
            if skip:
                ignored.add(number)
            elif match:
                found[number] = int(match)
        for number, match, skip in zip(image["gtIds"], image["gtMatches"][0], image["gtIgnore"], strict=True):
            if match and not skip:
                found_by[number] = int(match)
    # Results are numbered from 1 in their order, annotations too: both are sorted by image.
    assert dict(enumerate((ours.objects_of(ours.found) + 1).tolist(), 1)) == {
        i: found.get(i, 0) for i in range(1, len(results) + 1)
    }
    assert set((np.flatnonzero(ours.ignored) + 1).tolist()) == ignored
    rows = np.where(ours.found_by < 0, -1, ours.found_by + ours.detection_starts[ours.object_image])
    assert (rows + 1).tolist() == [found_by.get(a["id"], 0) for a in truth["annotations"]]
    assert found and ignored and len({r["score"] for r in results}) < len(results)  # the case has ties and crowds


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_errors_and_matches_across_classes_follow_the_definitions(kind: str, seed: int) -> None:
    truth, results = random_set(seed, images=8)
    seen = set()
    for annotations, found in by_image(truth, results):
        ours = match_image(annotations, found, kind, SIZE, LABEL_OF)
        theirs = by_definition(annotations, found, kind)
        names = [ERRORS[e] if e >= 0 else "" for e in ours.error.tolist()]
        rows = list(zip(ours.found.tolist(), ours.met.tolist(), names, ours.target.tolist(), strict=True))
        for row, expected in zip(rows, theirs, strict=True):
            assert row[:1] + row[2:3] == expected[:1] + expected[2:3]
        # Of equal IoUs either object may be meant, unless the whole rest hangs on it.
        assert [row[1] >= 0 for row in rows] == [row[1] >= 0 for row in theirs]
        assert [row[3] >= 0 for row in rows] == [row[3] >= 0 for row in theirs]
        found_rows = {row[0] for row in rows}
        about = {row[3] for row in rows if row[2] in ("cls", "loc")}
        for j, a in enumerate(annotations):
            is_object = not a["iscrowd"] and (kind == "bbox" or a["segmentation"] is not None)
            assert ours.counted[j] == is_object
            assert ours.missed[j] == (is_object and j not in found_rows and j not in about)
        seen |= set(names)
    assert seen == {*ERRORS, ""} - {"missed"}


X, Y = (10, 10, 20, 20), (45, 10, 20, 20)
FAR = (10, 45, 10, 10)
HAND_MADE = {  # of one image: annotations, detections; then the error and its target of the last detection, its overlap
    "right": ([(3, X)], [(3, 0.9, (10, 10, 20, 18))], ("", -1, 0.9)),
    "cls": ([(3, X)], [(7, 0.9, (10, 10, 20, 16))], ("cls", 0, 0.8)),
    "cls about one that is found": ([(3, X)], [(3, 0.9, X), (7, 0.8, X)], ("cls", 0, 1.0)),
    "loc": ([(7, Y), (3, X)], [(3, 0.9, (10, 10, 20, 5))], ("loc", 1, 0.25)),
    "loc before cls": ([(3, X), (7, (10, 10, 20, 5))], [(3, 0.9, (10, 10, 20, 5))], ("loc", 0, 0.25)),
    "loc from t_b on": ([(3, X)], [(3, 0.9, (10, 10, 20, 2))], ("loc", 0, 0.1)),
    "right from t_f on": ([(3, X)], [(3, 0.9, (10, 10, 20, 10))], ("", -1, 0.5)),
    "both": ([(3, Y), (7, X)], [(3, 0.9, (10, 10, 20, 6))], ("both", 1, 0.3)),
    "dup": ([(3, X)], [(3, 0.9, X), (3, 0.8, (10, 10, 20, 18))], ("dup", 0, 0.9)),
    "cls before dup": ([(3, X), (7, X)], [(3, 0.9, X), (3, 0.8, X)], ("cls", 1, 1.0)),
    "dup of the better of equal scores": ([(3, X)], [(3, 0.9, X), (3, 0.9, X)], ("dup", 0, 1.0)),
    "bkg": ([(3, X)], [(3, 0.9, FAR)], ("bkg", -1, 0.0)),
    "bkg below t_b": ([(3, X)], [(3, 0.9, (10, 10, 20, 1))], ("bkg", -1, 0.05)),
    "bkg without objects": ([], [(3, 0.9, X)], ("bkg", -1, 0.0)),
    "in a crowd": ([(3, X, "crowd")], [(3, 0.9, (12, 12, 4, 4))], ("", -1, 0.0)),
    "in a crowd of another class": ([(3, X, "crowd")], [(7, 0.9, X)], ("bkg", -1, 0.0)),
    "right beside a crowd": ([(3, X, "crowd"), (3, X)], [(3, 0.9, X)], ("", -1, 1.0)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", HAND_MADE)
def test_hand_made_cases(name: str, kind: str) -> None:
    objects, found, expected = HAND_MADE[name]
    annotations = [annotation(1, o[0], o[1], crowd=len(o) > 2, form="runs" if len(o) > 2 else "rle") for o in objects]
    ours = match_image(annotations, [detection(1, *d) for d in found], kind, SIZE, LABEL_OF)
    error = ours.error[-1]
    assert (ERRORS[error] if error >= 0 else "", ours.target[-1]) == expected[:2]
    assert ours.overlap[-1] == pytest.approx(expected[2])
    assert bool(ours.ignored[-1]) == (name == "in a crowd")
    assert (ours.found[-1] >= 0) == name.startswith("right")


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_is_missed_unless_found_or_the_target_of_cls_or_loc(kind: str) -> None:
    boxes = [(0, 0, 10, 10), (15, 0, 10, 10), (30, 0, 10, 10), (45, 0, 10, 10), (60, 0, 10, 10), (0, 20, 10, 10)]
    annotations = [annotation(1, 3, box, form="rle") for box in boxes]
    annotations.append(annotation(1, 3, (40, 40, 10, 10), crowd=True, form="runs"))
    results = [
        detection(1, 3, 0.9, boxes[0]),  # right
        detection(1, 7, 0.9, boxes[1]),  # cls
        detection(1, 3, 0.9, (30, 0, 10, 4)),  # loc
        detection(1, 7, 0.9, (45, 0, 10, 4)),  # both
        detection(1, 3, 0.9, (0, 0, 10, 9)),  # dup
    ]
    ours = match_image(annotations, results, kind, SIZE, LABEL_OF)
    assert ours.missed.tolist() == [False, False, False, True, True, True, False]
    assert ours.found_by.tolist() == [0, -1, -1, -1, -1, -1, -1]
    assert ours.areas.tolist() == [100] * 7


def test_matching_across_classes_goes_by_score() -> None:
    annotations = [annotation(1, 3, X), annotation(1, 7, (10, 10, 20, 14))]
    results = [detection(1, 3, 0.5, X), detection(1, 18, 0.9, (10, 10, 20, 19)), detection(1, 7, 0.4, FAR)]
    ours = match_image(annotations, results, "bbox", SIZE, LABEL_OF)
    assert ours.found.tolist() == [0, -1, -1]
    assert ours.met.tolist() == [1, 0, -1]  # the better one took the first object, whatever its class


def test_annotations_without_a_mask_are_no_objects_for_masks_and_keep_their_rows() -> None:
    annotations = [annotation(1, 3, Y, form="none"), annotation(1, 3, X, form="rle")]
    results = [detection(1, 3, 0.9, Y), detection(1, 3, 0.8, X)]
    masks, boxes = (match_image(annotations, results, kind, SIZE, LABEL_OF) for kind in ("segm", "bbox"))
    assert masks.found.tolist() == [-1, 1] and masks.found_by.tolist() == [-1, 1]
    assert masks.counted.tolist() == [False, True] and not masks.missed.any()
    assert boxes.found.tolist() == [0, 1] and boxes.counted.all()


def test_masks_and_boxes_are_told_apart() -> None:
    """A triangle of half its box, and a detection of the other half: as boxes they agree, as masks they do not."""
    annotations = [annotation(1, 3, X) | {"segmentation": [[10, 10, 30, 10, 10, 30]]}]
    corner = rectangle(*X) & ~pixels(annotations[0]["segmentation"])
    results = [detection(1, 3, 0.9, X) | {"segmentation": coco_mask.encode(np.asfortranarray(corner.astype(np.uint8)))}]
    assert match_image(annotations, results, "bbox", SIZE, LABEL_OF).found.tolist() == [0]
    segm = match_image(annotations, results, "segm", SIZE, LABEL_OF)
    assert segm.found.tolist() == [-1] and ERRORS[segm.error[0]] == "bkg" and segm.overlap[0] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_images_without_objects_without_detections_and_without_both(kind: str) -> None:
    a, d = annotation(1, 3, X, form="rle"), detection(1, 3, 0.9, X)
    cases: list[ImageMatches] = [match_image(*rows, kind, SIZE, LABEL_OF) for rows in (([], []), ([a], []), ([], [d]))]
    assert [len(case.labels) for case in cases] == [0, 0, 1]
    assert cases[1].missed.tolist() == [True] and cases[1].found_by.tolist() == [-1]
    together = Matches.of(cases, 5)
    assert together.detection_starts.tolist() == [0, 0, 0, 1] and together.object_starts.tolist() == [0, 0, 1, 1]
    assert together.image.tolist() == [2] and together.object_image.tolist() == [1]
    assert together.num_objects.tolist() == [1, 0, 0, 0, 0]


def test_the_columns_of_all_images_are_those_of_each_in_a_row() -> None:
    truth, results = random_set(0)
    images = [match_image(*rows, "bbox", SIZE, LABEL_OF) for rows in by_image(truth, results)]
    together = Matches.of(images, len(CATEGORIES))
    for i, image in enumerate(images):
        assert together.scores[together.image == i].tolist() == image.scores.tolist()
        assert together.areas[together.object_image == i].tolist() == image.areas.tolist()
    mine = together.objects_of(together.found)
    right = mine >= 0
    assert (together.object_labels[mine[right]] == together.labels[right]).all()
    assert (together.object_image[mine[right]] == together.image[right]).all()


def test_no_images_at_all() -> None:
    nothing = Matches.of([], 3)
    assert nothing.num_images == 0 and len(nothing.labels) == 0 and nothing.num_objects.tolist() == [0, 0, 0]
    assert nothing.labels.dtype == np.int32 and nothing.ignored.dtype == bool  # as with images


def test_a_case_that_pycocotools_matches_twice_is_matched_twice() -> None:
    """Crowd regions take any number of detections."""
    truth = truth_of([annotation(1, 3, X, crowd=True, form="runs")], [1])
    ours = matches_of(truth, [detection(1, 3, 0.9, X), detection(1, 3, 0.9, X)], "segm")
    assert ours.ignored.tolist() == [True, True] and ours.error.tolist() == [-1, -1]
