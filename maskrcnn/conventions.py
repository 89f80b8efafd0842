"""The arithmetic that differs between libraries, so that weights trained elsewhere give the same answers here.

One frozen set of values, chosen by `MODEL.CONVENTIONS` and handed to the few functions that differ. Boxes are
continuous in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Conventions:
    """How anchors, RoIAlign and small boxes are treated."""

    round_anchors: bool = False
    """Half-sizes of the anchors rounded to whole pixels."""
    anchor_stride_from_grid: bool = False
    """Anchor spacing is floor(padded image side / grid side): 61 instead of 64 where 800 px give 13 cells."""
    roi_align_aligned: bool = True
    """Features are sampled at x / stride - 0.5: with continuous boxes, the centre of the first cell is at 0.5."""
    level_epsilon: float = 1e-8
    """Added inside the logarithm of FPN's Eq. 1."""
    min_proposal_size: float = 0.0
    """Proposals whose width or height is not above this (pixels) are dropped."""
    min_detection_size: float = 0.0
    """Detections whose width or height is not above this (pixels) are dropped."""


OURS = Conventions()
# torchvision 0.13 and later: anchor rounding and spacing in AnchorGenerator, `aligned=False` in MultiScaleRoIAlign,
# and the limits 1e-3 and 1e-2 that its RPN and RoIHeads give to remove_small_boxes, which keeps sides >= the limit.
TORCHVISION = Conventions(
    round_anchors=True,
    anchor_stride_from_grid=True,
    roi_align_aligned=False,
    level_epsilon=1e-6,
    min_proposal_size=1e-3,
    min_detection_size=1e-2,
)

NAMED = {"ours": OURS, "torchvision": TORCHVISION}


def conventions(name: str) -> Conventions:
    """The set of this name.

    Raises:
        ValueError: no such set.
    """
    if name not in NAMED:
        raise ValueError(f"MODEL.CONVENTIONS: {name!r} is not one of {', '.join(NAMED)}")
    return NAMED[name]
