"""Stateless tensor functions: boxes, non-maximum suppression, RoIAlign, pasted masks, cropped polygons."""

from maskrcnn.ops.boxes import area as area
from maskrcnn.ops.boxes import clip_boxes as clip_boxes
from maskrcnn.ops.boxes import decode_boxes as decode_boxes
from maskrcnn.ops.boxes import encode_boxes as encode_boxes
from maskrcnn.ops.boxes import pairwise_ioa as pairwise_ioa
from maskrcnn.ops.boxes import pairwise_iou as pairwise_iou
from maskrcnn.ops.nms import batched_nms as batched_nms
from maskrcnn.ops.nms import nms as nms
from maskrcnn.ops.paste import masks_to_rle as masks_to_rle
from maskrcnn.ops.paste import paste_masks as paste_masks
from maskrcnn.ops.polygons import crop_polygons as crop_polygons
from maskrcnn.ops.roi_align import LevelRule as LevelRule
from maskrcnn.ops.roi_align import roi_align as roi_align
from maskrcnn.ops.roi_align import roi_align_all_levels as roi_align_all_levels
from maskrcnn.ops.roi_align import roi_align_levels as roi_align_levels
