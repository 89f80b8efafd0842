from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_run import make_data, tiny_config

from maskrcnn.cli import main
from maskrcnn.cli.show_data import choose, draw_sample, mapper_of, samples_of
from maskrcnn.config import dump
from maskrcnn.data import read_coco


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("show_data")
    make_data(folder / "data", count=6)
    path = folder / "tiny.yaml"
    path.write_text(dump(tiny_config(folder)))
    return path


def show(*arguments: object) -> int:
    return main(["show_data", *map(str, arguments)])


def test_one_sheet(config: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert show("--config", config, "--count", 5) == 0
    page = cv2.imread("data.jpg")
    assert page.shape[1] == 12 + 4 * 492 and page.shape[0] == 12 + 44 + 2 * (360 + 30 + 12)
    assert "data.jpg" in capsys.readouterr().out
    assert show("--config", config, "--count", 5, "--output", "again.jpg") == 0
    assert Path("again.jpg").read_bytes() == Path("data.jpg").read_bytes()
    assert show("--config", config, "--split", "test", "--output", "test.png") == 0
    assert Path("test.png").is_file()


def test_a_folder_of_pictures_in_the_network_s_pixels(config: Path, tmp_path: Path) -> None:
    output = tmp_path / "pictures"
    assert show("--config", config, "--count", 2, "--output", output, "INPUT.MIN_SIZE_TRAIN", "[32]") == 0
    found = sorted(output.iterdir())
    assert len(found) == 2 and all(p.suffix == ".jpg" for p in found)
    assert min(cv2.imread(str(found[0])).shape[:2]) == 32


def test_what_is_drawn_is_what_the_model_sees(config: Path) -> None:
    """With every image flipped, the drawn square is where its bright pixels are."""
    data = read_coco(config.parent / "data" / "instances.json", config.parent / "data")
    mapper = mapper_of(tiny_config(config.parent), "train")
    flips = 0
    for _, sample, _ in samples_of(data, mapper, range(6)):
        bright = (sample.image.numpy() > 200).all(axis=0)
        (box,) = sample.targets.boxes.numpy()
        x1, y1, x2, y2 = box.round().astype(int)
        assert bright[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].all()
        flips += x1 > sample.size[1] / 2
        picture = draw_sample(sample, data.class_names)
        changed = (picture != sample.image.permute(1, 2, 0).numpy()).any(axis=2)
        assert changed[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].all()
    assert 0 < flips < 6


def test_crowd_regions_are_hatched_where_the_transforms_put_them(config: Path) -> None:
    data = read_coco(config.parent / "data" / "instances.json", config.parent / "data")
    for flip in ("none", "horizontal"):
        mapper = mapper_of(tiny_config(config.parent, "INPUT.RANDOM_FLIP", flip), "train")
        sides = set()
        for _, sample, crowd in samples_of(data, mapper, [0]):
            (box,) = crowd.boxes.numpy()  # the last twelve of 72 columns
            sides.add(bool(box[0] > sample.size[1] / 2))
            x1, y1, x2, y2 = box.round().astype(int)
            plain = draw_sample(sample, data.class_names)
            marked = (draw_sample(sample, data.class_names, crowd=crowd) != plain).any(axis=2)
            assert 0.2 < marked[y1 + 30 : y2 - 2, x1 + 2 : x2 - 2].mean() < 0.9
        _, sample, crowd = next(iter(samples_of(data, mapper, [1])))
        assert crowd is None
        assert flip == "horizontal" or sides == {True}


def test_the_choice_is_fixed_and_prefers_images_with_objects(config: Path) -> None:
    data = read_coco(config.parent / "data" / "instances.json", config.parent / "data")
    assert choose(data, 3) == choose(data, 3) and len(set(choose(data, 3))) == 3
    assert choose(data, 99) == list(range(6))


def test_wrong_arguments(config: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        show("--config", config, "--count", 0)
    with pytest.raises(SystemExit, match="2"):
        show("--config", config, "--split", "test", "DATASETS.TEST", "[]")
    assert show("--config", tmp_path / "none.yaml") == 2
    assert show("--config", config, "--output", tmp_path / "sheet.xyz") == 2
    captured = capsys.readouterr().err
    assert "DATASETS.TEST is empty" in captured and "none.yaml" in captured and "sheet.xyz" in captured
    assert "Traceback" not in captured


def test_arrays_of_other_types(config: Path) -> None:
    data = read_coco(config.parent / "data" / "instances.json", config.parent / "data")
    ((_, sample, _),) = samples_of(data, mapper_of(tiny_config(config.parent), "test"), [0])
    expected = draw_sample(sample, data.class_names)
    as_float = type(sample)(sample.image.float(), sample.image_id, sample.original_size, sample.targets)
    np.testing.assert_array_equal(draw_sample(as_float, data.class_names), expected)
