import sys

import numpy as np
import pytest
import supervision as sv
import torch

from maskrcnn.interop import from_supervision, to_supervision
from maskrcnn.ops.paste import paste_masks
from maskrcnn.structures import Detections

SIZE = (60, 80)


def found(count: int = 4, *, masks: bool = True, keypoints: bool = False) -> Detections:
    generator = torch.Generator().manual_seed(0)
    first = 30 * torch.rand(count, 2, generator=generator)
    soft = torch.nn.functional.avg_pool2d(torch.rand(count, 1, 28, 28, generator=generator), 7, 1, 3)[:, 0]
    return Detections(
        boxes=torch.cat([first, first + 5 + 30 * torch.rand(count, 2, generator=generator)], dim=1),
        scores=torch.rand(count, generator=generator),
        labels=torch.arange(count) % 3,
        size=SIZE,
        masks=soft if masks else None,
        keypoints=torch.rand(count, 17, 3, generator=generator) if keypoints else None,
    )


@pytest.mark.parametrize("count", [4, 0])
@pytest.mark.parametrize("masks", [True, False])
def test_there_and_back(count: int, masks: bool) -> None:
    detections = found(count, masks=masks, keypoints=True)
    there = to_supervision(detections, ["disc", "bar", "ring"])
    assert isinstance(there, sv.Detections) and len(there) == count
    np.testing.assert_allclose(there.xyxy, detections.boxes)
    assert there.data["class_name"].tolist() == ["disc", "bar", "ring", "disc"][:count]
    if masks:
        bitmaps = paste_masks(detections.masks, detections.boxes, SIZE).numpy()
        np.testing.assert_array_equal(np.asarray(there.mask), bitmaps)
        np.testing.assert_array_equal(there.mask.area, bitmaps.sum(axis=(1, 2)))
    else:
        assert there.mask is None
    back = from_supervision(there, SIZE)
    for name in ("boxes", "scores", "labels", "keypoints"):
        torch.testing.assert_close(getattr(back, name), getattr(detections, name))
    assert back.to_rle() == detections.to_rle() and back.size == SIZE


def test_dense_masks_and_what_is_missing() -> None:
    bitmaps = np.zeros((1, *SIZE), bool)
    bitmaps[0, 5:20, 10:30] = True
    box = np.array([[10.0, 5, 30, 20]])
    back = from_supervision(sv.Detections(xyxy=box, mask=bitmaps, class_id=np.array([2])), SIZE)
    assert back.scores.tolist() == [1] and back.to_rle()[0]["size"] == [60, 80]
    np.testing.assert_array_equal(np.asarray(to_supervision(back).mask), bitmaps)
    assert "class_name" not in to_supervision(back).data
    with pytest.raises(ValueError, match="without class_id"):
        from_supervision(sv.Detections(xyxy=box), SIZE)
    with pytest.raises(ValueError, match=r"size \(60, 80\), the image \(9, 9\)"):
        from_supervision(sv.Detections(xyxy=box, mask=bitmaps, class_id=np.array([2])), (9, 9))


def test_supervision_filters_and_draws_them() -> None:
    there = to_supervision(found(), ["disc", "bar", "ring"])
    assert len(there[there.class_id == 0]) == 2
    image = np.full((*SIZE, 3), 128, np.uint8)
    assert (sv.MaskAnnotator().annotate(image.copy(), there) != image).any()


def test_without_supervision_the_error_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r"pip install 'maskrcnn\[supervision\]'"):
        to_supervision(found())
