"""Folders that tests fill with small literal files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from maskrcnn.data import Dataset, read_coco
from maskrcnn.evaluation.coco import write_json


class Folder:
    def __init__(self, root: Path) -> None:
        self.root = root

    def image(self, name: str, width: int = 40, height: int = 30, **options: Any) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height), "teal").save(path, **options)
        return path

    def text(self, name: str, content: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        return path

    def read(self, content: dict[str, Any]) -> Dataset:
        """What our reader makes of a converted file."""
        path = self.root.parent / "converted.json"
        write_json(path, content)
        return read_coco(path, self.root)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "set").mkdir()
    return Folder(tmp_path / "set")
