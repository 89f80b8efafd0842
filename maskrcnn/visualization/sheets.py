"""Several pictures on one sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from maskrcnn.visualization.canvas import INK, scaled, write


def sheet(
    pictures: Sequence[np.ndarray],
    *,
    titles: Sequence[str] | None = None,
    columns: int = 4,
    cell: tuple[int, int] = (360, 480),
    heading: str = "",
) -> np.ndarray:
    """Several pictures on one white sheet, row by row, each fitted into its cell and under its title.

    Args:
        pictures: any sizes; none at all gives an empty sheet.
        titles: one for each picture, shortened where it is too long.
        columns: cells in a row.
        cell: (h, w) of the room for one picture.
        heading: over the whole sheet.

    Raises:
        ValueError: not as many titles as pictures, or no column.
    """
    if titles is not None and len(titles) != len(pictures):
        raise ValueError(f"there are {len(pictures)} pictures, but {len(titles)} titles")
    if columns < 1:
        raise ValueError(f"columns is {columns}; a sheet has at least one")
    gap, bar, top = 12, 30 if titles else 0, 44 if heading else 0
    columns = min(columns, max(len(pictures), 1))
    rows = max(math.ceil(len(pictures) / columns), 1)
    pitch_y, pitch_x = cell[0] + bar + gap, cell[1] + gap
    page = np.full((gap + top + rows * pitch_y, gap + columns * pitch_x, 3), 255, np.uint8)
    if heading:
        write(page, heading, (gap + 2, gap + top - 18), 17, INK, page.shape[1] - 2 * gap)
    for i, picture in enumerate(pictures):
        y, x = gap + top + i // columns * pitch_y, gap + i % columns * pitch_x
        if titles:
            write(page, titles[i], (x + 2, y + bar - 9), 12, INK, cell[1] - 4)
        fitted = scaled(picture, fit(picture.shape[:2], cell))[: cell[0], : cell[1]]
        y, x = y + bar + (cell[0] - fitted.shape[0]) // 2, x + (cell[1] - fitted.shape[1]) // 2
        page[y : y + fitted.shape[0], x : x + fitted.shape[1]] = fitted
    return page


def fit(size: tuple[int, int], cell: tuple[int, int]) -> float:
    """The scale at which a picture of this (h, w) just fits into the cell."""
    return min(cell[0] / size[0], cell[1] / size[1])
