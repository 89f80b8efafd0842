from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_run import make_run

from maskrcnn.cli import main
from maskrcnn.cli.show_predictions import draw_record
from maskrcnn.data import read_coco
from maskrcnn.data.images import read_image


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("show_predictions"))


def show(*arguments: object) -> int:
    return main(["show_predictions", *map(str, arguments)])


def test_the_sheet_lands_in_the_run_s_folder(run: Path, tmp_path: Path, capsys) -> None:
    assert show(run, "--count", 3) == 0
    page = cv2.imread(str(run / "predictions.jpg"))
    assert page.shape[:2] == (12 + 44 + 2 * (360 + 30 + 12), 12 + 4 * 492)
    assert "predictions.jpg" in capsys.readouterr().out
    other = tmp_path / "new" / "sheet.png"
    assert show(run, "--count", 2, "--output", other, "--score-threshold", "0.05") == 0
    assert cv2.imread(str(other)).shape[0] == 12 + 44 + 402


def test_crowd_regions_are_drawn(run: Path) -> None:
    data = read_coco(run.parent / "data" / "instances.json", run.parent / "data")
    record = next(r for r in data if any(obj.crowd for obj in r.objects))
    image = read_image(record.path)
    picture = draw_record(image, record, data.class_names)
    assert 0.3 < (picture[10:40, 64:70] != image[10:40, 64:70]).any(axis=2).mean() < 0.8  # hatched
    boxes_only = type(record)(record.image_id, record.path, record.size, [])
    np.testing.assert_array_equal(draw_record(image, boxes_only, data.class_names), image)


def test_wrong_arguments(run: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        show(run, "--count", 0)
    assert show(tmp_path) == 2
    assert "has no config.yaml" in capsys.readouterr().err
