"""Detections in the form of other libraries, which are imported when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pycocotools import mask as coco_mask

from maskrcnn.structures import BitmapMasks, Detections

if TYPE_CHECKING:
    import supervision

NAMES = "class_name"  # where supervision's annotators look for the names
KEYPOINTS = "keypoints"


def to_supervision(detections: Detections, class_names: Sequence[str] | None = None) -> supervision.Detections:
    """Detections for the trackers, zones and annotators of `supervision`.

    Args:
        detections: of one image; their masks become supervision's `CompactMask`, no larger than the objects.
        class_names: by label; they go into `data["class_name"]`. Keypoints go into `data["keypoints"]`.

    Raises:
        ImportError: supervision is not installed.
    """
    sv = _supervision()
    detections = detections.to("cpu")
    labels = detections.labels.numpy()
    data: dict[str, Any] = {}
    if class_names is not None:
        data[NAMES] = np.array([class_names[label] for label in labels], dtype=str)
    if detections.keypoints is not None:
        data[KEYPOINTS] = detections.keypoints.numpy()
    masks = None
    if (rles := detections.to_rle()) is not None:
        x, y, w, h = coco_mask.toBbox(rles).reshape(-1, 4).T if rles else np.zeros((4, 0))
        extents = np.stack([x, y, x + w - 1, y + h - 1], axis=1).clip(0)  # supervision counts the last pixel in
        masks = sv.CompactMask.from_coco_rle(rles, extents, detections.size)
    return sv.Detections(
        xyxy=detections.boxes.numpy(), mask=masks, confidence=detections.scores.numpy(), class_id=labels, data=data
    )


def from_supervision(found: supervision.Detections, size: tuple[int, int]) -> Detections:
    """Detections of `supervision` in ours; undoes `to_supervision` but for the softness of masks.

    Args:
        found: with class ids that are labels, 0..K-1; without confidence every score is 1.
        size: (h, w) of the image.

    Raises:
        ValueError: there are no class ids, or the masks are not of the image's size.
    """
    if found.class_id is None:
        raise ValueError("supervision.Detections without class_id: every detection needs a label")
    if found.mask is not None and tuple(found.mask.shape[1:]) != tuple(size):
        raise ValueError(f"the masks have the size {tuple(found.mask.shape[1:])}, the image {tuple(size)}")
    count = len(found)
    scores = np.ones(count) if found.confidence is None else found.confidence
    masks = None
    if found.mask is not None:  # one at a time: a CompactMask makes each bitmap when it is asked for
        masks = BitmapMasks.from_rle(
            [coco_mask.encode(np.asfortranarray(found.mask[i], np.uint8)) for i in range(count)]
        )
    points = found.data.get(KEYPOINTS)
    return Detections(
        boxes=torch.as_tensor(np.array(found.xyxy, np.float32)).reshape(-1, 4),
        scores=torch.as_tensor(np.array(scores, np.float32)),
        labels=torch.as_tensor(np.array(found.class_id, np.int64)),
        size=size,
        masks=masks,
        keypoints=None if points is None else torch.as_tensor(np.array(points, np.float32)),
    )


def _supervision() -> Any:
    try:
        import supervision

        supervision.CompactMask  # noqa: B018  (since 0.30)
    except (ImportError, AttributeError) as error:
        raise ImportError("supervision 0.30 or later is needed: pip install 'maskrcnn[supervision]'") from error
    return supervision
