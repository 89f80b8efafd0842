"""The tables of docs/model_zoo.md, made from the manifests: `python tests/published_tables.py` writes them anew."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from maskrcnn.engine.published import Row, read_rows

PAGE = Path(__file__).resolve().parents[1] / "docs" / "model_zoo.md"
START, END = "<!-- tables -->", "<!-- end of tables -->"
KINDS = {"proposals": "proposals", "bbox": "box", "segm": "mask", "keypoints": "keypoint", "cityscapes": "mask"}


def figures(row: Row) -> str:
    """`box AP 38.6; mask AP 35.2, AP50 ...`"""
    parts = []
    for kind, metrics in groupby(row.metrics.items(), key=lambda item: item[0].split("/")[0]):
        parts.append(f"{KINDS[kind]} " + ", ".join(f"{name.split('/')[1]} {value:.1f}" for name, value in metrics))
    return "; ".join(parts)


def tables() -> str:
    lines = [START]
    for source, rows in groupby(read_rows(), key=lambda row: row.source):
        configs: dict[tuple[str, ...], list[str]] = {}  # a row may be that of a table and of the model it trains
        for row in rows:
            called = f"{row.row}, `{row.name}`" if row.name else row.row
            configs.setdefault((called, row.data, figures(row)), []).append(row.config)
        lines += ["", f"### {source}", "", "| row | on | published | config |", "| --- | --- | --- | --- |"]
        for (called, data, values), names in configs.items():
            links = ", ".join(f"[{Path(name).stem}](../configs/{name})" for name in names)
            lines.append(f"| {called} | {data} | {values} | {links} |")
    return "\n".join([*lines, "", END])


def page() -> str:
    before, rest = PAGE.read_text(encoding="utf-8").split(START)
    return before + tables() + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
