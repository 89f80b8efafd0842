"""The compiled operators in plain PyTorch: what serves without a compiler and on devices without a kernel.

Vectorised and differentiable; slower and hungrier than the kernels, with the same answers. Each file has the operators
of the file of its name in `maskrcnn.ops` and `csrc`.
"""

from maskrcnn.ops.reference.nms import batched_nms as batched_nms
from maskrcnn.ops.reference.nms import nms as nms
from maskrcnn.ops.reference.roi_align import assign_levels as assign_levels
from maskrcnn.ops.reference.roi_align import roi_align as roi_align
