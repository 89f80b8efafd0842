"""Video files, frame by frame."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from maskrcnn.data.records import DatasetError


class Video:
    """The frames of a video file, uint8 (H, W, 3) RGB, read one at a time by whoever iterates.

    `fps` is 25 if the file does not say; `num_frames` is what the file says, which may be wrong, or 0.

    Raises:
        DatasetError: the file is missing, or not a video that OpenCV reads; or, on iteration, it has no frame.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        capture = self._open()
        fps, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        capture.release()
        self.fps = fps if math.isfinite(fps) and fps > 0 else 25.0
        self.num_frames = int(count) if math.isfinite(count) and count > 0 else 0

    def __iter__(self) -> Iterator[np.ndarray]:
        capture = self._open()
        empty = True
        try:
            while (read := capture.read())[0]:
                empty = False
                yield cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)
        finally:
            capture.release()
        if empty:
            raise DatasetError(f"{self.path}: not one frame of the video can be decoded")

    def _open(self) -> cv2.VideoCapture:
        if not self.path.is_file():
            raise DatasetError(f"{self.path}: no such video file")
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            raise DatasetError(f"{self.path}: not a video file that OpenCV can read, or not all of one")
        return capture
