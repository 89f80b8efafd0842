"""Detections in COCO's form and back, read by pycocotools."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from maskrcnn.evaluation.results import (
    detections_from_coco,
    detections_to_annotations,
    detections_to_coco,
    rle_to_polygons,
    write_json,
)
from maskrcnn.structures import BitmapMasks, Detections
from maskrcnn.visualization import draw_detections

IDS = (3, 7, 18, 90)
SIZE = (60, 80)


def found(count: int = 6, *, keypoints: bool = False) -> Detections:
    generator = torch.Generator().manual_seed(0)
    corner, extent = (torch.rand(count, 2, generator=generator) for _ in range(2))
    first = corner * torch.tensor([50.0, 40.0])
    soft = torch.nn.functional.avg_pool2d(torch.rand(count, 28, 28, generator=generator), 9, 1, 4)
    return Detections(
        boxes=torch.cat([first, first + 4 + 30 * extent], dim=1),
        scores=torch.rand(count, generator=generator),
        labels=torch.arange(count) % len(IDS),
        size=SIZE,
        masks=soft / soft.amax(dim=(1, 2), keepdim=True) - 0.1,  # blobs with holes
        keypoints=60 * torch.rand(count, 17, 3, generator=generator) if keypoints else None,
    )


def one_box(*values: float, label: int = 0) -> Detections:
    """x1, y1, x2, y2, score."""
    row = torch.tensor([values])
    return Detections(row[:, :4], row[:, 4], torch.tensor([label]), SIZE)


def test_results_have_the_official_form() -> None:
    detections = Detections(
        boxes=torch.tensor([[1.23456, 2.0, 11.5, 22.25]]),
        scores=torch.tensor([0.87654321]),
        labels=torch.tensor([3]),
        size=(30, 40),
        masks=torch.ones(1, 28, 28),
        keypoints=torch.full((1, 17, 3), 5.5),
    )
    (result,) = json.loads(json.dumps(detections_to_coco(detections, 397133, IDS)))
    rle, keypoints = result.pop("segmentation"), result.pop("keypoints")
    assert result == {
        "image_id": 397133,
        "category_id": 90,
        "bbox": [1.235, 2.0, 10.265, 20.25],
        "score": pytest.approx(0.87654321, abs=1e-7),
    }
    assert rle["size"] == [30, 40] and isinstance(rle["counts"], str)
    expected = np.zeros((30, 40), bool)
    expected[2:22, 1:11] = True  # the pixels whose centres are in the box, as far as the soft border reaches 0.5
    assert (coco_mask.decode(rle).astype(bool) != expected).sum() <= 30
    assert keypoints == [5.0, 5.0, 5.5] * 17  # COCO counts pixels, not their centres
    assert detections_to_coco(Detections.empty((30, 40)), 1, (1,)) == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_diverged_model_is_an_error_that_names_the_image(bad: float) -> None:
    with pytest.raises(ValueError, match="image 12: .* not a finite number"):
        detections_to_coco(one_box(0, 0, bad, 5, 0.9), 12, (1,))
    with pytest.raises(ValueError, match="image 12: .* not a finite number"):
        detections_to_coco(one_box(0, 0, 5, 5, bad), 12, (1,))


def test_a_label_without_a_category_is_an_error() -> None:
    with pytest.raises(ValueError, match="label 4, but there are 2 categories"):
        detections_to_coco(one_box(0, 0, 5, 5, 0.5, label=4), 1, (1, 2))


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", [1])
    with pytest.raises(ValueError):
        write_json(tmp_path / "new" / "a.json", [float("nan")])
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == [1]


def test_there_and_back(tmp_path: Path) -> None:
    detections = found(keypoints=True)
    results = json.loads(json.dumps(detections_to_coco(detections, 12, IDS)))
    back = detections_from_coco(results, IDS, SIZE)
    for name in ("boxes", "scores", "keypoints"):
        torch.testing.assert_close(getattr(back, name), getattr(detections, name), atol=2e-3, rtol=0)
    assert back.labels.tolist() == detections.labels.tolist() and back.size == SIZE
    assert isinstance(back.masks, BitmapMasks)
    assert back.to_rle() == detections.to_rle()
    again = json.loads(json.dumps(detections_to_coco(back, 12, IDS)))
    assert [r["segmentation"] for r in again] == [r["segmentation"] for r in results]
    assert [r["category_id"] for r in again] == [r["category_id"] for r in results]


def test_what_was_read_is_drawn_like_what_was_found() -> None:
    image = np.full((*SIZE, 3), 128, np.uint8)
    detections = found()
    back = detections_from_coco(detections_to_coco(detections, 12, IDS), IDS, SIZE)
    np.testing.assert_array_equal(draw_detections(image, back), draw_detections(image, detections))
    turned = back.hflip().resize((120, 160))[back.scores > 0.3].to("cpu")  # the frame changes, and the masks with it
    assert len(turned) == len(turned.to_rle()) and turned.to_rle()[0]["size"] == [120, 160]


def test_detections_without_masks_and_none_at_all() -> None:
    detections = one_box(1, 2, 11, 22, 0.5)
    assert detections.to_rle() is None
    back = detections_from_coco(detections_to_coco(detections, "a", IDS), IDS, SIZE)
    assert back.masks is None and back.keypoints is None and back.boxes.tolist() == [[1, 2, 11, 22]]
    nothing = detections_from_coco([], IDS, SIZE)
    assert len(nothing) == 0 and nothing.boxes.shape == (0, 4) and nothing.labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 5}, "results are of 2 images"),
        ({"category_id": 4}, r"result 1 has category_id 4, which is not in \[3, 7, 18, 90\]"),
        ({"score": None}, "result 1 has no score"),
        ({"segmentation": None}, "result 1 has no segmentation"),
        ({"segmentation": {"size": [9, 9], "counts": [81]}}, "different sizes"),
    ],
)
def test_results_that_do_not_fit_are_errors(changes: dict, message: str) -> None:
    results = detections_to_coco(found(2), 12, IDS)
    results[1] = {key: value for key, value in {**results[1], **changes}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        detections_from_coco(results, IDS, SIZE)


@pytest.mark.parametrize("polygons", [False, True])
def test_annotations_are_numbered_and_measured(polygons: bool) -> None:
    annotations = detections_to_annotations(found(), 12, IDS, first_id=41, polygons=polygons)
    assert [a["id"] for a in annotations] == list(range(41, 47))
    expected = detections_to_coco(found(), 12, IDS)
    for annotation, result in zip(annotations, expected, strict=True):
        bitmap = coco_mask.decode(result["segmentation"])
        given = annotation["segmentation"]
        rle = coco_mask.merge(coco_mask.frPyObjects(given, *SIZE)) if polygons else given
        np.testing.assert_array_equal(coco_mask.decode(rle), bitmap)
        assert annotation["area"] == bitmap.sum() and annotation["iscrowd"] == 0
        assert annotation["score"] == result["score"]


def test_a_mask_without_pixels() -> None:
    empty = Detections(torch.tensor([[3.0, 4, 9, 9]]), torch.ones(1), torch.tensor([0]), SIZE, torch.zeros(1, 28, 28))
    (annotation,) = detections_to_annotations(empty, 1, IDS, first_id=1)
    assert annotation["area"] == 0 and rle_to_polygons(annotation["segmentation"]) == []
    assert detections_to_annotations(empty, 1, IDS, first_id=1, polygons=True) == []
    (boxed,) = detections_to_annotations(one_box(1, 2, 11, 22, 0.5), 1, IDS, first_id=1, polygons=True)
    assert boxed["area"] == 200 and "segmentation" not in boxed
