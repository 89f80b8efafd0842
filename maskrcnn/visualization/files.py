"""Pictures and videos on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import cv2
import numpy as np

from maskrcnn.atomic import WholeFile
from maskrcnn.visualization.canvas import check_image


def save_picture(path: Path, image: np.ndarray) -> None:
    """Write an RGB image in the format of the file's suffix; the file is whole or not there.

    Raises:
        ValueError: no picture format has this suffix.
    """
    if not path.suffix or not cv2.haveImageWriter(path.name):
        raise ValueError(f"{path}: no picture format has the suffix {path.suffix!r}; use .jpg or .png")
    options = [cv2.IMWRITE_JPEG_QUALITY, 93] if path.suffix.lower() in (".jpg", ".jpeg") else []
    _, data = cv2.imencode(path.suffix, np.ascontiguousarray(image[:, :, ::-1]), options)
    path.parent.mkdir(parents=True, exist_ok=True)
    with WholeFile(path) as part:
        part.write_bytes(data.tobytes())  # not cv2.imwrite, which fails on some systems where a path is not ASCII


class VideoFile:
    """An mp4 file made of pictures: whole once it is closed, and not there after an error.

    Args:
        path: with the suffix .mp4.
        fps: pictures in a second.

    Raises:
        ValueError: another suffix, a picture of another size than the first, or OpenCV cannot write videos here.
    """

    def __init__(self, path: Path, fps: float) -> None:
        if path.suffix.lower() != ".mp4":
            raise ValueError(f"{path}: videos are written as .mp4")
        self.path, self.fps = path, fps
        self._file = WholeFile(path)
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def add(self, image: np.ndarray) -> None:
        """The next picture, uint8 (H, W, 3) RGB."""
        check_image(image)
        height, width = image.shape[:2]
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._size = (height, width)
            self._writer = cv2.VideoWriter(
                str(self._file.part), cv2.VideoWriter.fourcc(*"mp4v"), self.fps, (width, height)
            )
            if not self._writer.isOpened():
                raise ValueError(f"{self.path}: OpenCV cannot write a video of {width} x {height} pixels here")
        if self._size != (height, width):
            raise ValueError(f"{self.path}: a picture of size {height, width} in a video of size {self._size}")
        self._writer.write(np.ascontiguousarray(image[:, :, ::-1]))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._file.keep()

    def discard(self) -> None:
        if self._writer is not None:
            self._writer.release()
        self._file.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()
