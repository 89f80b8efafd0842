"""The typed values that flow through a system, and the masks in them."""

from maskrcnn.structures.bitmap_masks import BitmapMasks
from maskrcnn.structures.instances import Candidates, Detections, Instances, Proposals, RoISamples, cat
from maskrcnn.structures.masks import Masks, masks_of
from maskrcnn.structures.polygon_masks import PolygonMasks
from maskrcnn.structures.rle import RLE
from maskrcnn.structures.samples import ImageBatch, Patch, Sample

__all__ = [
    "RLE",
    "BitmapMasks",
    "Candidates",
    "Detections",
    "ImageBatch",
    "Instances",
    "Masks",
    "Patch",
    "PolygonMasks",
    "Proposals",
    "RoISamples",
    "Sample",
    "cat",
    "masks_of",
]
