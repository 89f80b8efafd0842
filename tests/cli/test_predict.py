import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from tiny_run import CLASSES, make_run

from maskrcnn.cli import main
from maskrcnn.cli import predict as cli_predict
from maskrcnn.cli.predict import plan
from maskrcnn.structures import Detections


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("predict"))


class Found:
    """In place of a Predictor: finds the same two objects everywhere."""

    class_names, category_ids = ("disc", "bar", "ring"), (4, 9, 30)

    def __init__(self, source: Path, **options: object) -> None: ...

    def __call__(self, image: np.ndarray) -> Detections:
        boxes = torch.tensor([[10.0, 12, 30, 32], [40, 5, 60, 40]])
        scores, labels = torch.tensor([0.9, 0.6]), torch.tensor([1, 2])
        return Detections(boxes, scores, labels, image.shape[:2], masks=torch.ones(2, 28, 28))


def predict(*arguments: object) -> int:
    return main(["predict", *map(str, arguments)])


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_files_and_folders_are_drawn_and_listed(run: Path, tmp_path: Path, capsys) -> None:
    inputs, output = tmp_path / "in", tmp_path / "out"
    (inputs / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/a.png", "sub/b.jpg", "c.gif"):
        shutil.copy(run.parent / "data" / "0.png", inputs / name)
    (inputs / "notes.txt").write_text("no image")
    single = run.parent / "data" / "1.png"
    arguments = [
        inputs,
        single,
        "--run",
        run,
        "--output",
        output,
        "--score-threshold",
        "0",
        "--json",
        tmp_path / "r.json",
    ]
    assert predict(*arguments) == 0
    assert files(output) == ["1.png", "a.png", "c.gif.png", "sub/a.png", "sub/b.jpg"]
    assert cv2.imread(str(output / "1.png")).shape == cv2.imread(str(single)).shape
    assert not np.array_equal(cv2.imread(str(output / "1.png")), cv2.imread(str(single)))  # something is drawn

    coco = COCO(str(tmp_path / "r.json"))  # the official tool reads it as a data set
    assert len(coco.imgs) == 5 and {c["id"]: c["name"] for c in coco.cats.values()} == CLASSES
    assert {a["image_id"] for a in coco.anns.values()} == set(coco.imgs)
    for annotation in coco.anns.values():
        size = [coco.imgs[annotation["image_id"]][side] for side in ("height", "width")]
        assert annotation["segmentation"]["size"] == size
        assert annotation["area"] == coco.annToMask(annotation).sum() and 0 <= annotation["score"] <= 1
    assert f"{len(coco.anns)} objects in 5 images" in capsys.readouterr().out


def test_the_threshold_holds_for_pictures_and_list(run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(cli_predict, "Predictor", Found)
    source, listed = run.parent / "data" / "0.png", tmp_path / "r.json"
    for threshold, ids in ((0, [9, 30]), (0.7, [9]), (1, [])):
        options = ["--run", run, "--output", tmp_path, "--score-threshold", threshold, "--json", listed]
        assert predict(source, *options) == 0
        assert [a["category_id"] for a in json.loads(listed.read_text())["annotations"]] == ids
        changed = (cv2.imread(str(tmp_path / "0.png")) != cv2.imread(str(source))).any(axis=2)
        assert changed[20:30, 15:25].any() == (9 in ids) and changed[20:30, 45:55].any() == (30 in ids)


def test_a_bad_file_is_reported_and_the_rest_is_done(run: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(cli_predict, "Predictor", Found)
    inputs = tmp_path / "in"
    inputs.mkdir()
    good = (run.parent / "data" / "0.png").read_bytes()
    (inputs / "1_empty.jpg").touch()
    (inputs / "2_truncated.png").write_bytes(good[: len(good) // 2])
    (inputs / "3_good.png").write_bytes(good)
    arguments = ["--run", run, "--output", tmp_path / "out", "--json", tmp_path / "r.json"]
    assert predict(inputs, tmp_path / "missing.jpg", *arguments) == 1
    assert files(tmp_path / "out") == ["3_good.png"]
    captured = capsys.readouterr()
    assert "3 failed" in captured.out and "Traceback" not in captured.err
    for name in ("1_empty.jpg", "2_truncated.png", "missing.jpg"):
        assert name in captured.err
    assert [image["file_name"] for image in json.loads((tmp_path / "r.json").read_text())["images"]] == [
        (inputs / "3_good.png").as_posix()
    ]


def test_pictures_of_equal_names_do_not_replace_each_other(tmp_path: Path) -> None:
    for folder in ("left", "right", "more/left"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.jpg").touch()
    output = tmp_path / "out"
    left, right, more = (tmp_path / folder / "a.jpg" for folder in ("left", "right", "more/left"))
    jobs = plan([left, right, more, left, tmp_path / "left"], output)
    assert [target.relative_to(output).as_posix() for _, target in jobs] == ["a.jpg", "right_a.jpg", "left_a.jpg"]
    jobs = plan([tmp_path / "left", tmp_path / "more"], output)  # folders below the one that was named are kept
    assert [target.relative_to(output).as_posix() for _, target in jobs] == ["a.jpg", "left/a.jpg"]
    for name in ("a.jpg", "a.JPG", "a.gif", "a.png"):
        (tmp_path / "left" / name).touch()
    targets = [target.name for _, target in plan([tmp_path / "left"], output)]
    assert sorted(targets) == ["a.JPG", "a.gif.png", "a.jpg", "a.png"]


def test_many_of_one_name_get_numbers(tmp_path: Path) -> None:
    sources = []
    for i in range(4):
        (tmp_path / str(i) / "x").mkdir(parents=True)
        sources.append(tmp_path / str(i) / "x" / "a.jpg")
        sources[-1].touch()
    targets = [target.name for _, target in plan(sources, tmp_path / "out")]
    assert targets == ["a.jpg", "x_a.jpg", "x_2_a.jpg", "x_3_a.jpg"]


def test_the_output_may_lie_inside_the_input(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "a.jpg").touch()
    (tmp_path / "out" / "a.jpg").touch()  # of an earlier run
    assert plan([tmp_path], tmp_path / "out") == [(tmp_path / "a.jpg", tmp_path / "out" / "a.jpg")]


def test_no_image_is_ever_overwritten(run: Path, tmp_path: Path, capsys) -> None:
    shutil.copy(run.parent / "data" / "0.png", tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    assert predict(tmp_path / "a.png", "--run", run, "--output", tmp_path) == 2
    assert "would overwrite the image" in capsys.readouterr().err
    assert (tmp_path / "a.png").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "a.yaml", "--output", "out"], "--config needs --weights"),
        (["--output", "out"], "one of the arguments --run --config"),
        (["--run", "run"], "--output"),
        (["--run", "run", "--output", "out", "--score-threshold", "2"], "it goes from 0 to 1"),
        (["--run", "run", "--output", "out", "--opacity", "2"], "it goes from 0 to 1"),
        (["--run", "run", "--output", "out", "--line-width", "0"], "at least 1"),
        (["--run", "run", "--output", "file.txt"], "is a file"),
        (["--run", "run", "--output", "out", "--json", "out"], "is a folder"),
        (["--run", "run", "--output", "out"], "no images in empty"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "file.txt").touch()
    with pytest.raises(SystemExit, match="2"):
        predict("empty", *arguments)
    assert message in capsys.readouterr().err


def test_wrong_weights_are_one_line(run: Path, tmp_path: Path, capsys) -> None:
    source = run.parent / "data" / "0.png"
    assert predict(source, "--run", tmp_path / "none", "--output", tmp_path / "out") == 2
    assert predict(source, "--config", run / "config.yaml", "--weights", "none.pth", "--output", tmp_path / "out") == 2
    captured = capsys.readouterr().err
    assert "Traceback" not in captured and "none.pth" in captured


def test_styles_reach_the_pictures(run: Path, tmp_path: Path, monkeypatch) -> None:
    drawn = []
    monkeypatch.setattr(cli_predict, "Predictor", Found)
    monkeypatch.setattr(cli_predict, "draw_detections", lambda image, *_, **style: drawn.append(style) or image)
    options = ["--color-by", "instance", "--opacity", "0.2", "--line-width", "3", "--no-labels", "--mask-only"]
    assert predict(run.parent / "data" / "0.png", "--run", run, "--output", tmp_path, *options) == 0
    assert drawn == [{"color_by": "instance", "opacity": 0.2, "line_width": 3, "show_labels": False, "mask_only": True}]
