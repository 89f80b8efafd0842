"""The report as one HTML file: template, styles, scripts and data, put together.

The page loads nothing from anywhere: its policy (a `Content-Security-Policy` in the template) forbids every request,
and all that it shows is in the file. The scripts are plain JavaScript without a build step; `web/` has them file by
file.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).with_name("web")
STYLES = ("vendor/uPlot.min.css", "report.css", "pictures.css", "compare.css")

# Functions first, in the order in which they are explained; what runs when the page opens is the last one of an entry.
SCRIPTS = (
    "vendor/uPlot.iife.min.js",
    "dom.js",
    "state.js",
    "counts.js",
    "rle.js",
    "outline.js",
    "colours.js",
    "picture.js",
    "matching.js",
    "lazy.js",
    "viewer.js",
    "tables.js",
    "charts.js",
    "toolbar.js",
    "head.js",
    "errors.js",
    "gallery.js",
    "confusion.js",
    "curves.js",
    "figures.js",
    "training.js",
    "run.js",
)
ENTRIES = {
    "report": ("report.js",),
    "compare": (
        "runs.js",
        "compare_head.js",
        "compare_figures.js",
        "compare_pictures.js",
        "compare_curves.js",
        "compare_differences.js",
        "compare.js",
    ),
}


def render(data: Mapping[str, Any], script: str = "report") -> str:
    """One HTML page that holds `data` and the scripts that show it.

    Args:
        data: what the entry script reads, plain values with finite numbers; `data["title"]` is the page's title.
        script: the entry, one of `ENTRIES`.

    Raises:
        ValueError: a number is NaN or infinite, which JSON has not: write None instead; or there is no such entry.
    """
    if script not in ENTRIES:
        raise ValueError(f"there is no script {script!r} for the page; there are {', '.join(ENTRIES)}")
    parts = {
        "title": html.escape(str(data["title"])).encode("ascii", "xmlcharrefreplace").decode(),
        "styles": "\n".join(f"<style>\n{_asset(name)}</style>" for name in STYLES),
        "data": as_json(data),
        "scripts": "\n".join(f"<script>\n{_asset(name)}</script>" for name in (*SCRIPTS, *ENTRIES[script])),
    }
    # In one pass, so that a placeholder's name within the data stays what it is.
    return re.sub(r"<!--(title|styles|data|scripts)-->", lambda match: parts[match[1]], _asset("template.html"))


def as_json(data: Mapping[str, Any]) -> str:
    """JSON in ASCII that may stand in a `<script>` element: no `<`, so neither `</script>` nor `<!--`."""
    try:
        text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        for field, value in _not_finite(data, ""):
            raise ValueError(
                f"{field} is {value}, which the page cannot hold: write None where there is none"
            ) from error
        raise
    return text.replace("<", "\\u003c")


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _not_finite(value: Any, field: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, float) and not math.isfinite(value):
        yield field, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _not_finite(inner, f"{field}.{key}" if field else str(key))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _not_finite(inner, f"{field}[{index}]")
