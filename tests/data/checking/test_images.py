from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from maskrcnn.data.checking.images import damage, damaged_files, sample


def test_a_sample_is_the_same_each_time() -> None:
    assert sample(5, None) == sample(5, 9) == [0, 1, 2, 3, 4]
    chosen = sample(1000, 20)
    assert chosen == sample(1000, 20) and len(set(chosen)) == 20 and chosen == sorted(chosen)
    assert sample(5, 0) == []


def test_only_the_sample_is_read(clean: Any) -> None:
    for i in range(1, 6):
        clean.file(i).write_bytes(b"")
    assert len(list(damaged_files(clean.data["images"], clean.images, 2))) == 2
    assert len(list(damaged_files(clean.data["images"], clean.images))) == 5
    assert not list(damaged_files(clean.data["images"], clean.images, 0))


@pytest.mark.parametrize(("size", "kind"), [((20, 30), None), ((30, 20), None), ((20, 20), "image-mis-sized")])
def test_a_turned_image_may_be_recorded_either_way(tmp_path: Path, size: tuple[int, int], kind: str | None) -> None:
    """The mapper's rule: as displayed, else as stored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    problem = damage(tmp_path / "a.jpg", size)
    assert (problem and problem[0]) == kind


def test_a_jpeg_that_ends_early(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / "a.jpg"), rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    content = (tmp_path / "a.jpg").read_bytes()
    assert damage(tmp_path / "a.jpg", (64, 64)) is None
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    kind, message = damage(tmp_path / "a.jpg", (64, 64))
    assert kind == "image-truncated" and "a.jpg" in message
