"""Records to samples: read the image, attach the ground truth, transform both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from maskrcnn.data.images import read_image
from maskrcnn.data.records import DatasetError, ImageRecord, ObjectRecord
from maskrcnn.data.transforms import Transform, from_hwc
from maskrcnn.structures.instances import Instances, Proposals
from maskrcnn.structures.masks import Masks, masks_of
from maskrcnn.structures.samples import Sample


class InstanceMapper:
    """An `ImageRecord` -> a `Sample` with boxes, labels, masks and keypoints, and with proposals where it has any.

    Args:
        transforms: applied in order.
        training: attach the objects to learn from: all but crowd regions and boxes without area. Otherwise there are
            no targets; an evaluator takes the ground truth from the data set.
    """

    def __init__(self, transforms: Sequence[Transform], *, training: bool) -> None:
        self.transforms = tuple(transforms)
        self.training = training

    def __call__(self, record: ImageRecord, rng: np.random.Generator) -> Sample:
        """Raises DatasetError: the image is unreadable or not of the record's size, or only some objects have masks."""
        sample = Sample(
            image=from_hwc(read_recorded(record)),
            image_id=record.image_id,
            original_size=record.size,
            targets=instances(record) if self.training else None,
            proposals=proposals(record),
        )
        for transform in self.transforms:
            sample = transform(sample, rng)
        return sample


def read_recorded(record: ImageRecord) -> np.ndarray:
    """The image of a record, in the frame that it was annotated in: uint8 (H, W, 3) RGB.

    Annotations refer to the image turned as its EXIF orientation says, as viewers show it. Where only the pixel grid
    as stored has the record's size, they were drawn on that one, and so it is what is returned.

    Raises:
        DatasetError: the image cannot be read, or its size is not that of the record.
    """
    pixels = read_image(record.path)
    found = pixels.shape[:2]
    if found != record.size and found[::-1] == record.size:
        pixels = read_image(record.path, orient=False)
    if pixels.shape[:2] != record.size:
        raise DatasetError(
            f"{record.path}: the image is {found[0]} high and {found[1]} wide, but the record of image "
            f"{record.image_id} says {record.size[0]} high and {record.size[1]} wide; correct 'height' and 'width', or "
            "restore the image that was annotated"
        )
    return pixels


def instances(record: ImageRecord) -> Instances:
    """The objects to learn from, in the frame of the file."""
    objects = [o for o in record.objects if not o.crowd and o.box[2] > o.box[0] and o.box[3] > o.box[1]]
    return Instances(
        boxes=torch.from_numpy(np.array([o.box for o in objects], np.float32).reshape(-1, 4)),
        labels=torch.tensor([o.label for o in objects], dtype=torch.int64),
        size=record.size,
        masks=masks(record, objects),
        keypoints=keypoints(objects),
    )


def proposals(record: ImageRecord) -> Proposals | None:
    """Those that came from a file, in the frame of the image's file."""
    if record.proposals is None:
        return None
    boxes, scores = (torch.from_numpy(values.copy()) for values in record.proposals)  # a data set cannot be written to
    return Proposals(boxes=boxes, scores=scores, size=record.size)


def masks(record: ImageRecord, objects: Sequence[ObjectRecord]) -> Masks | None:
    """Polygons if every object has them, else all as pixels; None for objects that have boxes only.

    Raises:
        DatasetError: only some of the objects have a segmentation.
    """
    without = [o for o in objects if o.segmentation is None]
    if without and len(without) == len(objects):
        return None
    if without:
        raise DatasetError(
            f"image {record.image_id} ({record.path}): annotation {without[0].id} has no 'segmentation', but others of "
            "the image have; add the mask, or mark the region as a crowd"
        )
    return masks_of([o.segmentation for o in objects if o.segmentation is not None], record.size)


def keypoints(objects: Sequence[ObjectRecord]) -> torch.Tensor | None:
    """float32 (G, 17, 3); in a data set without keypoints None."""
    found = [o.keypoints for o in objects if o.keypoints is not None]
    if len(found) < len(objects):  # a data set has them for each object or for none
        return None
    return torch.from_numpy(np.array(found, np.float32).reshape(-1, 17, 3))
