import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from maskrcnn.ops.paste import paste_masks
from maskrcnn.structures import Detections, Instances
from maskrcnn.structures.bitmap_masks import BitmapMasks
from maskrcnn.visualization import (
    colour_of,
    draw_detections,
    draw_instances,
    draw_targets,
)

SIZE = (60, 80)
GRAY = np.full((*SIZE, 3), 128, np.uint8)
BOXES = np.array([[10.0, 10, 40, 50], [30, 20, 75, 58]])
LABELS = [0, 3]


def bitmaps() -> np.ndarray:
    """An ellipse and a ring inside the two boxes."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    ellipse = ((x - 25) / 15) ** 2 + ((y - 30) / 20) ** 2 <= 1
    distance = ((x - 52.5) / 22) ** 2 + ((y - 39) / 19) ** 2
    return np.stack([ellipse, (distance <= 1) & (distance >= 0.2)])


def rles() -> list[dict]:
    encoded = [coco_mask.encode(np.asfortranarray(m.astype(np.uint8))) for m in bitmaps()]
    return [{"size": list(SIZE), "counts": rle["counts"].decode()} for rle in encoded]


def difference(picture: np.ndarray, image: np.ndarray = GRAY) -> np.ndarray:
    """bool (H, W): where a picture is not as the image was."""
    return (picture != image).any(axis=2)


def test_every_form_of_masks_gives_the_same_picture() -> None:
    uncompressed = []
    for m in bitmaps():
        runs = np.diff([0, *np.flatnonzero(np.diff(m.T.ravel(), prepend=0)), m.size]).tolist()
        uncompressed.append({"size": list(SIZE), "counts": runs})
    forms = [bitmaps(), torch.from_numpy(bitmaps()), rles(), uncompressed, BitmapMasks.from_rle(rles())]
    pictures = [draw_instances(GRAY, BOXES, LABELS, masks=form) for form in forms]
    for picture in pictures[1:]:
        np.testing.assert_array_equal(picture, pictures[0])


def test_soft_masks_cover_the_pixels_that_pasting_gives() -> None:
    soft = torch.rand(2, 28, 28, generator=torch.Generator().manual_seed(0))
    soft = torch.nn.functional.avg_pool2d(soft, 5, 1, 2)
    boxes = torch.tensor([[-5.3, 4.2, 40.9, 50.1], [30.5, 20.5, 90.0, 58.2]])  # beyond the image
    picture = draw_instances(GRAY, boxes, LABELS, masks=soft, mask_only=True, opacity=1, line_width=1)
    bitmaps = paste_masks(soft, boxes, SIZE).numpy()
    expected = draw_instances(GRAY, boxes, LABELS, masks=bitmaps, mask_only=True, opacity=1, line_width=1)
    np.testing.assert_array_equal(picture, expected)


def test_mask_only_draws_the_areas_and_their_outlines_alone() -> None:
    picture = draw_instances(GRAY, BOXES, LABELS, masks=bitmaps(), scores=[0.9, 0.8], mask_only=True, line_width=1)
    area = bitmaps().any(axis=0)
    near = cv2.dilate(area.astype(np.uint8), np.ones((5, 5))).astype(bool)
    assert difference(picture)[area].all() and not difference(picture)[~near].any()


def test_opacity() -> None:
    inner = cv2.erode(bitmaps()[0].astype(np.uint8), np.ones((7, 7))).astype(bool) & ~bitmaps()[1]
    inner &= np.arange(SIZE[1]) < 24
    for opacity in (0, 0.25, 1):
        picture = draw_instances(GRAY, BOXES, LABELS, masks=bitmaps(), mask_only=True, opacity=opacity, line_width=1)
        expected = 128 + opacity * (np.array(colour_of(0)) - 128.0)
        assert np.abs(picture[inner].astype(float) - expected).max() <= 0.5


def test_colours_are_those_of_the_classes_or_of_the_instances() -> None:
    boxes = np.array([[5.0, 5, 15, 15], [25, 5, 35, 15], [45, 5, 55, 15]])
    style = {"show_labels": False, "line_width": 1}
    by_class = draw_instances(GRAY, boxes, [2, 2, 1], **style)
    assert tuple(by_class[5, 10]) == tuple(by_class[5, 30]) == colour_of(2) and tuple(by_class[5, 50]) == colour_of(1)
    by_instance = draw_instances(GRAY, boxes, [2, 2, 1], color_by="instance", **style)
    assert [tuple(by_instance[5, x]) for x in (10, 30, 50)] == [colour_of(0), colour_of(1), colour_of(2)]


def test_colours_near_each_other_in_number_are_far_apart() -> None:
    lab = cv2.cvtColor(np.array([[colour_of(k) for k in range(80)]], np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    for step in range(1, 5):
        assert np.linalg.norm(lab[step:] - lab[:-step], axis=1).min() > 25  # 2.3 is a just noticeable difference
    assert len({colour_of(k) for k in range(200)}) > 190


def test_a_box_covers_its_first_and_last_pixels() -> None:
    picture = draw_instances(GRAY, [[10, 20, 30, 40]], [0], show_labels=False, line_width=1)
    rows, columns = np.nonzero(difference(picture))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 39, 10, 29)


@pytest.mark.parametrize("corner", [(0, 0), (74, 0), (0, 54), (74, 54)])
def test_a_name_stays_inside_the_picture(corner: tuple[int, int]) -> None:
    """The whole text is there wherever the box is: as many white or dark pixels as in the middle."""
    names, (x, y) = ["abc"], corner

    def text_pixels(box: list[float]) -> int:
        plain = draw_instances(GRAY, [box], [0], show_labels=False)
        named = draw_instances(GRAY, [box], [0], class_names=names)
        plate = difference(named, plain) & (named != colour_of(0)).any(axis=2)
        return int(plate.sum())

    assert text_pixels([x, y, x + 6, y + 6]) == pytest.approx(text_pixels([35, 30, 41, 36]), abs=4)


def test_names_do_not_cover_each_other_where_there_is_room() -> None:
    image = np.full((200, 300, 3), 128, np.uint8)
    boxes = np.array([[120.0, 80, 150, 100]] * 6)
    pictures = [draw_instances(image, boxes[:n], [0] * n, class_names=["one"], line_width=1) for n in range(1, 7)]
    plates = np.diff([(picture == colour_of(0)).all(axis=2).sum() for picture in pictures])
    assert plates.min() > 0.7 * plates.max()  # a little of them lies on the outline


def test_small_images_are_enlarged_before_anything_is_drawn() -> None:
    picture = draw_instances(GRAY, BOXES, LABELS, masks=rles(), scale=6, class_names=["a", "b", "c", "d"])
    assert picture.shape == (360, 480, 3)
    tall = draw_instances(GRAY, BOXES, LABELS, masks=bitmaps(), mask_only=True, opacity=1, scale=6, line_width=1)
    ellipse, expected = (
        cv2.resize(m.astype(np.float32), (480, 360), interpolation=cv2.INTER_LINEAR) >= 0.5 for m in bitmaps()
    )
    expected &= ~ellipse  # which is drawn over it
    ring = (np.abs(tall.astype(int) - colour_of(3)) <= 1).all(axis=2)
    assert (ring & expected).sum() / (ring | expected).sum() > 0.93
    assert draw_instances(GRAY, BOXES, LABELS, masks=rles(), scale=0.5).shape == (30, 40, 3)


@pytest.mark.parametrize(
    "masks",
    [None, np.zeros((0, *SIZE), bool), torch.zeros(0, 28, 28), []],
    ids=["no masks", "bitmaps", "soft", "RLE"],
)
def test_no_instances(masks) -> None:
    picture = draw_instances(GRAY, np.zeros((0, 4)), [], scores=[], masks=masks, keypoints=np.zeros((0, 17, 3)))
    np.testing.assert_array_equal(picture, GRAY)
    np.testing.assert_array_equal(draw_detections(GRAY, Detections.empty(SIZE)), GRAY)
    assert picture is not GRAY


def test_odd_boxes_and_empty_masks_are_survived() -> None:
    boxes = np.array(
        [[5, 5, 5, 5], [30, 30, 20, 20], [-100, -100, -50, -50], [1e9, 0, 2e9, 5], [np.nan] * 4, [-9, -9, 99, 99]]
    )
    soft = torch.rand(6, 14, 14)
    keypoints = np.full((6, 17, 3), np.nan)
    keypoints[0], keypoints[1] = 1e12, -1e12
    for masks in (soft, np.zeros((6, *SIZE), bool)):
        picture = draw_instances(GRAY, boxes, range(6), masks=masks, keypoints=keypoints, scores=np.ones(6))
        assert picture.shape == GRAY.shape


def test_the_image_is_left_as_it_was() -> None:
    image = GRAY.copy()
    image.flags.writeable = False
    draw_instances(image, BOXES, LABELS, masks=bitmaps(), keypoints=np.full((2, 17, 3), 20.0))
    np.testing.assert_array_equal(image, GRAY)
    assert draw_instances(GRAY[:, ::-1], BOXES, LABELS).shape == GRAY.shape  # a view with negative strides


def test_keypoints_below_the_threshold_are_left_out() -> None:
    keypoints = np.zeros((1, 17, 3))
    keypoints[0, 5], keypoints[0, 7], keypoints[0, 9] = (20, 20, 0.9), (40, 40, 0.9), (60, 50, 0.2)
    style = {"show_labels": False, "keypoint_threshold": 0.5}
    picture = draw_instances(GRAY, [[0, 0, 80, 60]], [0], keypoints=keypoints, **style)
    assert difference(picture)[30, 30]  # the limb between the two
    assert not difference(picture)[45, 50] and not difference(picture)[50, 60]
    assert not difference(picture)[5, 5]  # unlabelled ones lie at 0, 0


def test_crowd_regions_are_hatched_and_named() -> None:
    style = {"masks": bitmaps(), "class_names": list("abcd"), "line_width": 1}
    crowd = draw_instances(GRAY, BOXES, LABELS, crowd=[True, False], show_labels=False, **style)
    inner = cv2.erode((bitmaps()[0] & ~bitmaps()[1]).astype(np.uint8), np.ones((5, 5))).astype(bool)
    inner &= np.arange(SIZE[1]) < 29  # of the second box
    assert difference(crowd)[inner].mean() == pytest.approx(0.5, abs=0.1)
    named = draw_instances(GRAY, BOXES, LABELS, crowd=[True, False], **style)
    longer = draw_instances(GRAY, BOXES, LABELS, **style)
    assert (named == colour_of(0)).all(axis=2).sum() > (longer == colour_of(0)).all(axis=2).sum()


def test_crowd_regions_beside_targets() -> None:
    boxes = torch.tensor(BOXES, dtype=torch.float32)
    first, second = (
        Instances(boxes[i : i + 1], torch.tensor([LABELS[i]]), SIZE, masks=BitmapMasks.from_rle(rles()[i : i + 1]))
        for i in range(2)
    )
    np.testing.assert_array_equal(
        draw_targets(GRAY, first, crowd=second),
        draw_instances(GRAY, boxes, LABELS, masks=rles(), crowd=[False, True]),
    )
    only_boxes = Instances(boxes, torch.tensor(LABELS), SIZE)
    np.testing.assert_array_equal(draw_targets(GRAY, only_boxes), draw_instances(GRAY, boxes, LABELS))
    points = torch.full((1, 17, 3), 25.0)
    posed = Instances(first.boxes, first.labels, SIZE, masks=first.masks, keypoints=points)
    expected = draw_instances(
        GRAY, boxes, LABELS, masks=rles(), crowd=[False, True], keypoints=torch.cat([points, 0 * points])
    )
    np.testing.assert_array_equal(draw_targets(GRAY, posed, crowd=second), expected)


def test_detections_and_targets() -> None:
    boxes = torch.tensor(BOXES, dtype=torch.float32)
    soft = torch.ones(2, 28, 28)
    detections = Detections(boxes, torch.tensor([0.9, 0.3]), torch.tensor(LABELS), SIZE, masks=soft)
    shown = draw_detections(GRAY, detections, list("abcd"), score_threshold=0.5)
    expected = draw_instances(GRAY, boxes[:1], [0], scores=[0.9], masks=soft[:1], class_names=["a"])
    np.testing.assert_array_equal(shown, expected)
    targets = Instances(boxes, torch.tensor(LABELS), SIZE, masks=BitmapMasks.from_rle(rles()))
    np.testing.assert_array_equal(
        draw_targets(GRAY, targets, list("abcd")),
        draw_instances(GRAY, boxes, LABELS, masks=rles(), class_names=list("abcd")),
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": GRAY.astype(np.float32)}, "uint8, 0 to 255, not float32"),
        ({"image": GRAY[:, :, 0]}, r"\(height, width, 3\) in RGB order, not \(60, 80\)"),
        ({"image": GRAY.transpose(2, 0, 1)}, r"not \(3, 60, 80\)"),
        ({"image": torch.zeros(3, 4, 4)}, "numpy array, not a Tensor"),
        ({"labels": [1]}, "2 boxes, but 1 labels"),
        ({"scores": [0.5]}, "2 boxes, but 1 scores"),
        ({"masks": np.zeros((2, 9, 9), bool)}, r"the image's size \(60, 80\), not \(9, 9\)"),
        ({"color_by": "score"}, "'class' or 'instance'"),
        ({"opacity": 1.5}, "from 0 to 1"),
        ({"line_width": 0}, "at least 1"),
    ],
)
def test_wrong_arguments_are_errors(arguments: dict, message: str) -> None:
    given = {"image": GRAY, "boxes": BOXES, "labels": LABELS, **arguments}
    with pytest.raises(ValueError, match=message):
        draw_instances(given.pop("image"), given.pop("boxes"), given.pop("labels"), **given)
