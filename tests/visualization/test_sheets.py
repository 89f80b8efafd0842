import numpy as np
import pytest

from maskrcnn.visualization import fit, sheet


def test_a_sheet_has_a_cell_for_each_picture() -> None:
    pictures = [np.full((h, w, 3), 7 * i, np.uint8) for i, (h, w) in enumerate([(10, 20), (300, 100), (50, 50)])]
    page = sheet(pictures, columns=2, cell=(60, 80))
    assert page.shape == (2 * (60 + 12) + 12, 2 * (80 + 12) + 12, 3)
    assert (page[12 + 30, 12 + 40] == 0).all() and (page[12 + 30, 12 + 92 + 40] == 7).all()
    assert (page[12 + 72 + 30, 12 + 40] == 14).all() and (page[12 + 72 + 30, 12 + 92 + 40] == 255).all()
    titled = sheet(
        pictures, titles=["a title far too long for its cell", "b", ""], columns=2, cell=(60, 80), heading="h"
    )
    assert titled.shape[0] > page.shape[0] and titled.shape[1] == page.shape[1]
    cells = titled[12 + 44 : 12 + 44 + 30]
    assert (cells[:, :12] == 255).all() and (cells[:, 92:104] == 255).all()  # no title leaves its cell
    assert (sheet([]) == 255).all()
    with pytest.raises(ValueError, match="3 pictures, but 1 titles"):
        sheet(pictures, titles=["a"])
    with pytest.raises(ValueError, match="at least one"):
        sheet(pictures, columns=0)


def test_fit() -> None:
    assert fit((100, 200), (50, 50)) == 0.25 and fit((20, 10), (60, 60)) == 3
