"""The pictures and videos that `maskrcnn predict` draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import numpy as np

from maskrcnn.cli.predict_inputs import Frame
from maskrcnn.structures import Detections
from maskrcnn.visualization import VideoFile, save_picture


class Pictures:
    """A picture of each image, and a video of the frames of each video, which come in order.

    Args:
        draw: an image and its detections -> a new picture.
    """

    def __init__(self, draw: Callable[[np.ndarray, Detections], np.ndarray]) -> None:
        self.draw = draw
        self._video: VideoFile | None = None

    def add(self, frame: Frame, detections: Detections) -> None:
        """Raises OSError or ValueError: the picture cannot be written; an unfinished video is removed."""
        assert frame.target is not None
        picture = self.draw(frame.pixels, detections)
        if frame.fps is None:
            save_picture(frame.target, picture)
            return
        if self._video is not None and self._video.path != frame.target:
            self._end(complete=True)
        try:
            self._video = self._video or VideoFile(frame.target, frame.fps)
            self._video.add(picture)
        except (OSError, ValueError):
            self._end(complete=False)
            raise

    def _end(self, *, complete: bool) -> None:
        video, self._video = self._video, None
        if video is not None:
            video.close() if complete else video.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._end(complete=kind is None)
