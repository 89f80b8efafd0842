"""Which classes a detector of so many is likely to know: those of the data sets that libraries publish weights for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from maskrcnn.checkpoint.importers.torchvision import coco_names

# Cityscapes' objects in Detectron2's order, with the ids of its annotations.
CITYSCAPES = {
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}


def class_facts(tensors: Mapping[str, Tensor], *, cityscapes: bool = False) -> dict[str, Any]:
    """`class_names` and `category_ids` of a detector in our names: COCO's for 80, a person for 1 with keypoints.

    Args:
        cityscapes: 8 classes are Cityscapes'.
    """
    classes = len(tensors.get("roi_heads.box_head.logits.bias", ())) - 1
    coco = {name: i for i, name in enumerate(coco_names(), start=1) if name != "N/A"}
    known: dict[str, int] = {}
    if classes == len(coco):
        known = coco
    elif classes == 1 and "roi_heads.keypoint_head.deconv.bias" in tensors:
        known = {"person": coco["person"]}
    elif classes == len(CITYSCAPES) and cityscapes:
        known = CITYSCAPES
    return {"class_names": tuple(known), "category_ids": tuple(known.values())} if known else {}
