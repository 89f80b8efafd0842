"""The compiled operators in plain PyTorch: what serves without a compiler and on devices without a kernel.

Vectorised and differentiable; slower and hungrier than the kernels, with the same answers. Each file has the operators
of the file of its name in `maskrcnn.ops` and `csrc`.
"""

from maskrcnn.ops.reference.keypoints import decode_keypoints as decode_keypoints
from maskrcnn.ops.reference.nms import batched_nms as batched_nms
from maskrcnn.ops.reference.nms import nms as nms
from maskrcnn.ops.reference.nms import padded_nms as padded_nms
from maskrcnn.ops.reference.paste import paste_masks as paste_masks
from maskrcnn.ops.reference.paste import paste_runs as paste_runs
from maskrcnn.ops.reference.polygons import crop_polygons as crop_polygons
from maskrcnn.ops.reference.polygons import points_in_polygons as points_in_polygons
from maskrcnn.ops.reference.rle import compress_counts as compress_counts
from maskrcnn.ops.reference.rle import decompress_counts as decompress_counts
from maskrcnn.ops.reference.rle import encode_windows as encode_windows
from maskrcnn.ops.reference.roi_align import assign_levels as assign_levels
from maskrcnn.ops.reference.roi_align import roi_align as roi_align
from maskrcnn.ops.reference.roi_pool import roi_pool as roi_pool
from maskrcnn.ops.reference.roi_warp import roi_warp as roi_warp
from maskrcnn.ops.reference.runs import cover_cells as cover_cells
from maskrcnn.ops.reference.runs import runs_of_counts as runs_of_counts
from maskrcnn.ops.reference.runs import sample_runs as sample_runs
from maskrcnn.ops.reference.soft_nms import soft_nms as soft_nms
