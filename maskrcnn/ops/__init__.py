"""Stateless tensor functions: boxes, non-maximum suppression, RoIAlign, pasted masks, cropped polygons, keypoints."""

from maskrcnn.ops.boxes import area as area
from maskrcnn.ops.boxes import clip_batch as clip_batch
from maskrcnn.ops.boxes import clip_boxes as clip_boxes
from maskrcnn.ops.boxes import decode_boxes as decode_boxes
from maskrcnn.ops.boxes import encode_boxes as encode_boxes
from maskrcnn.ops.boxes import paired_iou as paired_iou
from maskrcnn.ops.boxes import pairwise_ioa as pairwise_ioa
from maskrcnn.ops.boxes import pairwise_iou as pairwise_iou
from maskrcnn.ops.keypoints import decode_keypoints as decode_keypoints
from maskrcnn.ops.nms import batched_nms as batched_nms
from maskrcnn.ops.nms import nms as nms
from maskrcnn.ops.nms import padded_nms as padded_nms
from maskrcnn.ops.paste import masks_to_rle as masks_to_rle
from maskrcnn.ops.paste import paste_masks as paste_masks
from maskrcnn.ops.polygons import crop_polygons as crop_polygons
from maskrcnn.ops.polygons import points_in_polygons as points_in_polygons
from maskrcnn.ops.roi_align import LevelRule as LevelRule
from maskrcnn.ops.roi_align import roi_align as roi_align
from maskrcnn.ops.roi_align import roi_align_all_levels as roi_align_all_levels
from maskrcnn.ops.roi_align import roi_align_levels as roi_align_levels
from maskrcnn.ops.roi_pool import roi_pool as roi_pool
from maskrcnn.ops.roi_warp import roi_warp as roi_warp
from maskrcnn.ops.roi_warp import roi_warp_pool as roi_warp_pool
from maskrcnn.ops.runs import cover_cells as cover_cells
from maskrcnn.ops.runs import sample_runs as sample_runs
from maskrcnn.ops.soft_nms import soft_nms as soft_nms
