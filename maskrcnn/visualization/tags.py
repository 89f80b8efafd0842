"""Names on plates that do not cover each other."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from maskrcnn.visualization.canvas import Colour, ink_on, pixels_of, shorten, text_width, write


def tag_texts(
    labels: np.ndarray, scores: np.ndarray | None, crowds: np.ndarray, class_names: Sequence[str] | None
) -> list[str]:
    names = [class_names[k] if class_names is not None and 0 <= k < len(class_names) else str(k) for k in labels]
    names = [f"{name} (crowd)" if crowd else name for name, crowd in zip(names, crowds, strict=True)]
    return names if scores is None else [f"{name} {100 * s:.0f}%" for name, s in zip(names, scores, strict=True)]


def draw_tags(canvas: np.ndarray, boxes: np.ndarray, texts: Sequence[str], colours: Sequence[Colour]) -> None:
    """Each name on a plate of its colour at its box, inside the picture and, where there is room, on no other plate."""
    size = canvas.shape[:2]
    height = int(np.clip(min(size) / 48, 8, 20))
    texts = [shorten(text, height, size[1] - 8) for text in texts]
    taken = np.zeros((0, 4), int)
    for box, text in zip(boxes, texts, strict=True):
        plate = (round(1.8 * height), text_width(text, height) + 8)
        taken = np.vstack([taken, _place(pixels_of(box, size), plate, size, taken)])
    for (x1, y1, x2, y2), text, colour in reversed(list(zip(taken, texts, colours, strict=True))):  # the best on top
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, -1)
        write(canvas, text, (x1 + 4, y2 - round(0.4 * height)), height, ink_on(colour))


def _place(box: Sequence[int], plate: tuple[int, int], size: tuple[int, int], taken: np.ndarray) -> np.ndarray:
    """Where a plate (h, w) goes, XYXY: on top of its box if it is free there, else the best of the other places.

    A place costs what it covers of other plates and, as a share, of the object itself, so that a tiny object at the
    border stays visible; and a little for each step down the list, so that plates stand alike where they can.
    """
    (h, w), (x1, y1, x2, y2) = plate, box
    corners = [(x, y) for x in (x1, x2 - w) for y in (y1 - h, y1, y2 + 1, y2 - h)]  # over, inside, under the box
    corners += [(x, y) for x in (x2 + 1, x1 - w) for y in (y1, y2 - h)]  # beside it
    corners += [(x, y) for x in (x1, x2 - w) for y in (y1 - 2 * h, y2 + h + 1)]  # on or under another plate
    inside = [(max(0, min(x, size[1] - w - 1)), max(0, min(y, size[0] - h - 1))) for x, y in corners]
    spots = np.array([(x, y, x + w, y + h) for x, y in inside])
    own_share = _overlap(spots, np.array([box]))[:, 0] / max((x2 - x1) * (y2 - y1), 1)
    cost = 4 * _overlap(spots, taken).sum(axis=1) / (h * w) + own_share.clip(max=1) + 0.05 * np.arange(len(spots))
    return spots[cost.argmin()]


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pixels that each of (N, 4) shares with each of (M, 4): (N, M)."""
    width = np.minimum(a[:, None, 2], b[:, 2]) - np.maximum(a[:, None, 0], b[:, 0])
    height = np.minimum(a[:, None, 3], b[:, 3]) - np.maximum(a[:, None, 1], b[:, 1])
    return width.clip(0) * height.clip(0)
