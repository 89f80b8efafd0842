from pathlib import Path

import cv2
import numpy as np
import pytest

from maskrcnn.data import DatasetError
from maskrcnn.data.videos import Video
from maskrcnn.visualization import VideoFile, save_picture


def test_a_saved_picture_has_its_colours(tmp_path: Path) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :, 0] = 200  # red
    for name in ("äß.png", "new/b.jpg"):
        save_picture(tmp_path / name, image)
        read = cv2.imdecode(np.fromfile(tmp_path / name, np.uint8), cv2.IMREAD_COLOR)  # BGR
        assert np.abs(read[4, 4].astype(int) - (0, 0, 200)).max() <= 3
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["b.jpg", "new", "äß.png"]
    for name in ("picture.xyz", "picture"):
        with pytest.raises(ValueError, match="no picture format"):
            save_picture(tmp_path / name, image)


def frames(count: int, size: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    """Of one colour each: red grows, blue falls."""
    colours = np.linspace((20, 90, 230), (230, 90, 20), count).astype(np.uint8)
    return [np.full((*size, 3), colour, np.uint8) for colour in colours]


@pytest.mark.parametrize("size", [(48, 64), (45, 61)])
def test_a_video_has_its_frames_and_colours(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "new" / "äß.mp4"
    with VideoFile(path, 12.5) as video:
        for frame in frames(9, size):
            video.add(frame)
    assert [p.name for p in path.parent.iterdir()] == ["äß.mp4"]
    read = Video(path)
    assert read.fps == 12.5 and read.num_frames == 9
    for again in range(2):  # as often as one likes
        found = list(read)
        assert len(found) == 9, again
        for frame, expected in zip(found, frames(9, size), strict=True):
            assert frame.shape[:2] == (size[0] // 2 * 2, size[1] // 2 * 2) or frame.shape == expected.shape
            assert np.abs(frame.astype(int).mean(axis=(0, 1)) - expected[0, 0]).max() < 6


def test_a_video_is_whole_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a picture of size"), VideoFile(tmp_path / "a.mp4", 25) as video:
        video.add(frames(1)[0])
        video.add(frames(1, (50, 64))[0])
    with pytest.raises(ValueError, match=r"written as \.mp4"):
        VideoFile(tmp_path / "a.avi", 25)
    VideoFile(tmp_path / "b.mp4", 25).close()
    assert not list(tmp_path.iterdir())


def test_what_is_no_video_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.mp4: no such video file"):
        Video(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DatasetError, match=r"text\.mp4: not a video file"):
        Video(tmp_path / "text.mp4")
