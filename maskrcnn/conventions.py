"""The arithmetic that differs between libraries, so that weights trained elsewhere give the same answers here.

One frozen set of values, chosen by `MODEL.CONVENTIONS` and handed to the few functions that differ. Boxes are
continuous in all of them: where a library's x2 and y2 are a box's last pixels, so that its width is x2 - x1 + 1, our x2
and y2 are theirs plus 1. Its codes, overlaps and areas are then the plain ones, and what is left of the +1 is what
`inclusive_boxes` says.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Conventions:
    """How anchors, boxes and RoIAlign are treated."""

    round_anchors: bool = False
    """Half-sizes of the anchors rounded to whole pixels."""
    base_anchors: bool = False
    """Anchors are scaled copies of one cell: around its middle, sides rounded in each ratio before they are scaled."""
    anchor_stride_from_grid: bool = False
    """Anchor spacing is floor(padded image side / grid side): 61 instead of 64 where 800 px give 13 cells."""
    inclusive_boxes: bool = False
    """A box reaches from its first to its last pixel: features are pooled between the coordinates of these two, a box
    cut at the border keeps a pixel of the image, and resizing multiplies the last pixel's coordinate."""
    symmetric_clip: bool = False
    """Decoded boxes are limited in how much smaller than their reference they may be, too: by 16 / 1000."""
    roi_align_aligned: bool = True
    """Features are sampled at x / stride - 0.5: with continuous boxes, the centre of the first cell is at 0.5."""
    level_epsilon: float = 1e-8
    """Added inside the logarithm of FPN's Eq. 1."""
    min_proposal_size: float = 0.0
    """Proposals whose width or height is not above this (pixels) are dropped."""
    min_detection_size: float = 0.0
    """Detections whose width or height is not above this (pixels) are dropped."""
    pad_multiple: int = 1
    """Images are padded to a multiple of this, if the network itself does not ask for more."""


OURS = Conventions()
# Detectron2 has our arithmetic, or we have its: exact anchors, continuous boxes, aligned RoIAlign, 1e-8.
DETECTRON2 = Conventions()
# torchvision 0.13 and later: anchor rounding and spacing in AnchorGenerator, `aligned=False` in MultiScaleRoIAlign,
# and the limits 1e-3 and 1e-2 that its RPN and RoIHeads give to remove_small_boxes, which keeps sides >= the limit.
TORCHVISION = Conventions(
    round_anchors=True,
    anchor_stride_from_grid=True,
    roi_align_aligned=False,
    level_epsilon=1e-6,
    min_proposal_size=1e-3,
    min_detection_size=1e-2,
    pad_multiple=32,
)
# Also for Detectron (Caffe2), which differs in one place: it decodes and cuts boxes after they are scaled to the file.
MASKRCNN_BENCHMARK = Conventions(
    base_anchors=True,
    inclusive_boxes=True,
    roi_align_aligned=False,
    level_epsilon=1e-6,
)
# MMDetection 3: floor(log2(sqrt(wh) / 56 + 1e-6)) counted from p2 is floor(4 + log2(sqrt(wh) / 224 + 2.5e-7)).
MMDET = Conventions(symmetric_clip=True, level_epsilon=2.5e-7, pad_multiple=32)

NAMED = {
    "ours": OURS,
    "torchvision": TORCHVISION,
    "detectron2": DETECTRON2,
    "maskrcnn_benchmark": MASKRCNN_BENCHMARK,
    "mmdet": MMDET,
}


def conventions(name: str) -> Conventions:
    """The set of this name.

    Raises:
        ValueError: no such set.
    """
    if name not in NAMED:
        raise ValueError(f"MODEL.CONVENTIONS: {name!r} is not one of {', '.join(NAMED)}")
    return NAMED[name]
