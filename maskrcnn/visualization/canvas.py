"""What every picture is drawn with: colours, text, sizes. OpenCV and numpy do it.

Images are uint8 (H, W, 3) RGB.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import cv2
import numpy as np
from torch import Tensor

Colour = tuple[int, int, int]

FONT = cv2.FONT_HERSHEY_SIMPLEX
INK, PAPER = (33, 33, 33), (255, 255, 255)


@cache
def colour_of(number: int) -> Colour:
    """A fixed, saturated colour for each class (or instance), far from those of the numbers near it.

    Hues step by the golden angle, so that neighbours are never alike; lightness cycles through three steps of OKLCH,
    in which equal steps look equal, so that no class disappears beside another.
    """
    hue = math.radians((25 + number * 137.508) % 360)
    lightness = (0.70, 0.58, 0.82)[number % 3]
    a, b = 0.19 * math.cos(hue), 0.19 * math.sin(hue)
    lms = np.array([[1, 0.3963, 0.2158], [1, -0.1056, -0.0639], [1, -0.0895, -1.2915]]) @ (lightness, a, b)
    linear = np.array([[4.0767, -3.3077, 0.2310], [-1.2684, 2.6098, -0.3413], [-0.0042, -0.7034, 1.7076]]) @ lms**3
    linear = linear.clip(0, 1)
    rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = (int(round(255 * v)) for v in rgb)
    return red, green, blue


def check_image(image: np.ndarray) -> None:
    """Raises ValueError unless the image is a numpy array, uint8 (H, W, 3), with at least one pixel."""
    if not isinstance(image, np.ndarray):
        raise ValueError(f"an image is a numpy array, not a {type(image).__name__}")
    if image.dtype != np.uint8:
        raise ValueError(f"an image is uint8, 0 to 255, not {image.dtype}")
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"an image has the shape (height, width, 3) in RGB order, not {image.shape}")


def write(
    canvas: np.ndarray, text: str, corner: tuple[int, int], height: int, colour: Colour, room: int | None = None
) -> None:
    """Write text with its lower left corner here, capital letters being `height` pixels high."""
    text = text if room is None else shorten(text, height, room)
    cv2.putText(canvas, text, corner, FONT, height / 21.5, colour, max(1, round(height / 14)), cv2.LINE_AA)


def text_width(text: str, height: int) -> int:
    return int(cv2.getTextSize(text, FONT, height / 21.5, max(1, round(height / 14)))[0][0])


def shorten(text: str, height: int, room: int) -> str:
    if text_width(text, height) <= room:
        return text
    kept = len(text)
    while kept and text_width(f"{text[:kept]}...", height) > room:
        kept -= 1
    return f"{text[:kept]}..."


def ink_on(colour: Colour) -> Colour:
    """Dark or white text, whichever has the greater contrast (relative luminance, WCAG 2)."""
    linear = [(v / 255 / 12.92) if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in colour]
    luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return INK if (luminance + 0.05) / 0.065 > 1.05 / (luminance + 0.05) else PAPER


def pixels_of(box: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """First and last pixel that a continuous box covers, inside the picture; a NaN becomes 0."""
    x1, y1, x2, y2 = (float(v) for v in np.nan_to_num(box, posinf=1e6, neginf=-1e6))
    h, w = size
    left, top = (min(max(round(v), 0), side - 1) for v, side in ((x1, w), (y1, h)))
    right, bottom = (min(max(round(v) - 1, 0), side - 1) for v, side in ((x2, w), (y2, h)))
    return left, top, max(left, right), max(top, bottom)


def scaled(image: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1:
        return np.ascontiguousarray(image).copy()
    h, w = (max(1, round(n * scale)) for n in image.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(image), (w, h), interpolation=method)


def as_array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
