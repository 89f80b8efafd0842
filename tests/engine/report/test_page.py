"""The page's text: one file, whole, and whatever the data hold they stay data."""

from __future__ import annotations

import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from example_data import example_data

from maskrcnn.engine.report import page
from maskrcnn.engine.report.page import ASSETS, SCRIPTS, STYLES, as_json, render

# Of uPlot 1.6.32 as its author published it (npm package uplot, dist/).
VENDORED = {
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}


class Elements(HTMLParser):
    """Start tags with their attributes, and the texts of scripts, as a browser's parser takes them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.titles: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and self.scripts:
            self.scripts[-1] += data
        if self.lasttag == "title":
            self.titles.append(data)


def embedded(text: str) -> dict:
    """The data that a page carries."""
    elements = Elements(text)
    at = [attrs.get("id") for tag, attrs in elements.tags if tag == "script"].index("data")
    return json.loads(elements.scripts[at])


def test_the_data_come_back_as_they_were():
    data = example_data(classes=["a", 'b"', "<c>"], keypoints=True)
    assert embedded(render(data)) == data


HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "<!--scripts--> <!--data-->",
    "\\u003c & &lt; ' \" `",
    "\u2028\u2029\x00\ud800 🙂",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leaves_its_place(name: str):
    plain = Elements(render(example_data(title="t", classes=["a"], pictures=1)))
    data = example_data(title="t", classes=[name], pictures=1)
    data["sets"][0]["name"] = data["run"]["repeat"] = name
    text = render(data)
    assert embedded(text) == data
    assert Elements(text).tags == plain.tags  # as many elements as with harmless names, with the same attributes
    assert all(ord(character) < 128 for character in as_json(data))


def test_the_title_is_text():
    elements = Elements(render(example_data(title="<b>run</b> & \ud800 ü", pictures=0)))
    assert "b" not in [tag for tag, _ in elements.tags]
    assert "".join(elements.titles).startswith("<b>run</b> & ")
    render(example_data(title="\ud800", pictures=0)).encode("utf-8")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_has_not_is_refused_by_name(value: float):
    data = example_data(pictures=1)
    data["training"]["series"]["lr"][3] = value
    with pytest.raises(ValueError, match=rf"training\.series\.lr\[3\] is {value}.*None"):
        render(data)


def test_an_entry_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no script 'nothing'"):
        render(example_data(pictures=0), script="nothing")


def test_the_page_loads_nothing():
    elements = Elements(render(example_data()))
    for tag, attributes in elements.tags:
        loads = [attributes[name] for name in ("src", "href", "data", "action", "srcset") if name in attributes]
        assert all(value is not None and value.startswith("data:") for value in loads), (tag, attributes)
    policy = next(attrs["content"] for tag, attrs in elements.tags if attrs.get("http-equiv"))
    assert policy is not None and "default-src 'none'" in policy
    assert "http:" not in policy and "https:" not in policy and "*" not in policy
    styles = "".join((ASSETS / name).read_text(encoding="utf-8") for name in STYLES)
    assert "@import" not in styles and "url(" not in styles


def test_each_asset_is_used_and_stays_in_its_element():
    own = {path.name for path in ASSETS.iterdir() if path.suffix in (".js", ".css")}
    entries = {"report.js"}
    assert own == {name for name in (*SCRIPTS, *STYLES) if "/" not in name} | entries
    for name in (*SCRIPTS, *sorted(entries)):
        text = (ASSETS / name).read_text(encoding="utf-8")
        assert "</script" not in text.lower() and "<!--" not in text, name
        if "/" not in name:
            assert text.startswith('"use strict";\n// '), name
            assert max(map(len, text.splitlines())) <= 120, name
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), name


@pytest.mark.parametrize("name", VENDORED)
def test_what_others_wrote_is_unchanged(name: str):
    assert hashlib.sha256((ASSETS / "vendor" / name).read_bytes()).hexdigest() == VENDORED[name]
    assert "MIT License" in (ASSETS / "vendor" / "uPlot.LICENSE").read_text(encoding="utf-8")


def test_the_module_is_found_beside_its_folder():
    assert page.__file__ is not None and page.__file__.endswith("page.py")
