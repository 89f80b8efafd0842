from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from maskrcnn.engine.report.page import render

sys.path.append(str(Path(__file__).parent))  # for example_data, browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from browser import open_chromium

    with open_chromium(tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium


@pytest.fixture
def show(chromium: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a page of these data; in the end, nothing was complained about and nothing was asked for."""
    from browser import Page

    def show(data: dict[str, Any], width: int = 1280, script: str = "report") -> Page:
        page = Page(chromium)
        page.width(width)
        path = tmp_path / "report.html"
        path.write_text(render(data, script), encoding="utf-8")
        chromium.get(path.as_uri())
        return page

    chromium.get_log("browser")
    yield show
    assert chromium.get_log("browser") == []
    assert chromium.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)") == []
