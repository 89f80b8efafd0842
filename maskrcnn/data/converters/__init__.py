"""Annotations of other programs, converted to the COCO format: one function for each format."""

from maskrcnn.data.converters.common import read_names
from maskrcnn.data.converters.labelme import labelme_to_coco
from maskrcnn.data.converters.voc import voc_to_coco
from maskrcnn.data.converters.yolo import yolo_to_coco

__all__ = ["labelme_to_coco", "read_names", "voc_to_coco", "yolo_to_coco"]
