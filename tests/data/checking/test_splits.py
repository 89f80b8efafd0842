from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from maskrcnn.data.checking import check_coco, compare
from maskrcnn.data.checking.splits import different_classes, shared_images


def write(folder: Path, **files: bytes) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{name}.jpg" for name in files]
    for path, content in zip(paths, files.values(), strict=True):
        path.write_bytes(content)
    return paths


def test_images_of_equal_content_are_shared(tmp_path: Path) -> None:
    long = bytes(range(256)) * 100
    train = write(tmp_path / "train", a=b"same", b=b"here", c=b"0" + long, d=b"twin")
    val = write(tmp_path / "val", a=b"same", b=b"more", x=b"1" + long, y=b"twin", z=b"")
    assert list(shared_images(train, val, by_content=True)) == [(0, train[0]), (3, train[3])]
    assert list(shared_images(train, val, by_content=False)) == [(0, train[0])], "only where the names are equal"


def test_one_file_in_both_lists_is_shared_even_if_it_is_not_there(tmp_path: Path) -> None:
    paths = [tmp_path / "a.jpg"]
    assert list(shared_images(paths, [tmp_path / "x" / ".." / "a.jpg"], by_content=False)) == [
        (0, tmp_path / "x" / ".." / "a.jpg")
    ]
    assert not list(shared_images(paths, [tmp_path / "b.jpg"], by_content=True))


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (("a", "b"), None),
        (("a", "c"), "class 1 is 'b' in the one, 'c' in the other"),
        (("a",), "2 and 1 of them"),
    ],
)
def test_different_classes(other: tuple[str, ...], difference: str | None) -> None:
    assert different_classes(("a", "b"), other) == difference


def test_two_reports_are_compared(clean: Any, tmp_path: Path) -> None:
    clean.write()
    shutil.copytree(clean.images, tmp_path / "val")
    (tmp_path / "val" / "1.png").unlink()
    train, same = (check_coco(clean.json_path, folder) for folder in (clean.images, clean.images))
    assert {p.kind for p in compare(train, clean.images, same, clean.images).problems} == {"shared-image"}
    clean.data["categories"][0]["name"] = "cube"
    clean.write()
    val = compare(train, clean.images, check_coco(clean.json_path, tmp_path / "val"), tmp_path / "val")
    shared = [p.where for p in val.problems if p.kind == "shared-image"]
    assert shared == ["image 2", "image 3", "image 4", "image 5"]
    (differ,) = (p for p in val.problems if p.kind == "categories-differ")
    assert "class 1 is 'ball' in the one, 'cube' in the other" in differ.line and val.refused
