"""What is wrong with a detection, in the six types of TIDE (Bolya et al. 2020, section 2.2)."""

from __future__ import annotations

import numpy as np

ERRORS = ("cls", "loc", "both", "dup", "bkg", "missed")
CLS, LOC, BOTH, DUP, BKG, MISSED = range(len(ERRORS))
FOREGROUND, BACKGROUND = 0.5, 0.1  # the paper's t_f and t_b


def error_types(ious: np.ndarray, same: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The type of each false positive of an image.

    | type | IoU with an object of its class | with one of another class |
    | --- | --- | --- |
    | loc | the greatest is in [t_b, t_f) | |
    | cls | | t_f or more |
    | dup | t_f or more: a better detection took the object | |
    | bkg | less than t_b | less than t_b |
    | both | less than t_b | in [t_b, t_f) |

    Where several fit, the first counts, which is the order of the authors' tool; the paper leaves it open. Objects that
    were found already count like others. Crowd regions do not, as in the authors' tool; hotcoco finds a loc error where
    0.1 to 0.5 of a detection lie in a region of its class.

    Args:
        ious: (D, G), with crowd regions zero: they are no objects.
        same: bool (D, G), whether detection and object have one class.
        wrong: bool (D,), the false positives.

    Returns:
        types int8 (D,), an index into `ERRORS`, -1 where `wrong` is False; the object that it is about int32 (D,),
        -1 without one (bkg).
    """
    own, own_iou = greatest(np.where(same, ious, 0))
    other, other_iou = greatest(np.where(same, 0, ious))
    types = np.full(len(ious), BOTH, np.int8)  # what no other type claims
    types[np.maximum(own_iou, other_iou) < BACKGROUND] = BKG
    types[own_iou >= FOREGROUND] = DUP
    types[other_iou >= FOREGROUND] = CLS
    types[(own_iou >= BACKGROUND) & (own_iou < FOREGROUND)] = LOC
    types[~wrong] = -1
    target = np.full(len(ious), -1, np.int32)
    for objects, kinds in ((own, (LOC, DUP)), (other, (CLS, BOTH))):
        of_kinds = np.isin(types, kinds)
        target[of_kinds] = objects[of_kinds]
    return types, target


def greatest(ious: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Column and value of the greatest IoU of each row of (D, G); without columns -1 and 0."""
    if not ious.shape[1]:
        return np.full(len(ious), -1), np.zeros(len(ious))
    column = ious.argmax(axis=1)
    return column, ious[np.arange(len(ious)), column]
