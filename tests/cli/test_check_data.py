import json
import re
from pathlib import Path

import pytest
from tiny_run import make_data

from maskrcnn.cli import main
from maskrcnn.data import read_coco


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")


def check(*arguments: object) -> int:
    return main(["check_data", *map(str, arguments)])


def spoil(path: Path, **values: object) -> None:
    content = json.loads(path.read_text())
    content["annotations"][0].update(values)
    path.write_text(json.dumps(content))


def used_only(path: Path) -> None:
    """Without the class that has no annotation."""
    content = json.loads(path.read_text())
    content["categories"] = [c for c in content["categories"] if c["name"] != "ring"]
    path.write_text(json.dumps(content))


def test_a_clean_file_is_one_line_and_0(data: Path, capsys) -> None:
    used_only(data)
    assert check("--json", data, "--images", data.parent, "--images-checked", "all") == 0
    assert capsys.readouterr().out == f"{data}: no problems in 3 images with 4 annotations\n"


def test_notes_are_no_problems(data: Path, capsys) -> None:
    assert check("--json", data) == 0
    assert "no problems, 1 note" in capsys.readouterr().out


def test_problems_are_1_and_repaired_into_another_file(data: Path, tmp_path: Path, capsys) -> None:
    used_only(data)
    spoil(data, bbox=[10, 12, -20])
    before = data.read_text()
    mended, report = tmp_path / "mended.json", tmp_path / "report.json"
    files = ["--json", data, "--images", data.parent]
    assert check(*files, "--policy", "repair", "--write", mended, "--report", report) == 1
    out = capsys.readouterr().out
    assert re.search(r"1 error in 3 images with 4 annotations\n  error: boxes of more .* \(bbox-length\): 1\n", out)
    assert "repair: 1 annotation changed" in out and "3 images with 4 annotations" in out
    assert data.read_text() == before
    assert check("--json", mended, "--images", data.parent) == 0
    assert len(read_coco(mended, data.parent)) == 3
    (found,) = json.loads(report.read_text())
    assert [(p["kind"], p["severity"], p["where"]) for p in found["problems"]] == [
        ("bbox-length", "error", "annotation 1")
    ]
    assert [(c["where"], c["action"]) for c in found["changes"]] == [("annotation 1", "changed")]


def test_nothing_is_written_where_no_policy_helps(data: Path, tmp_path: Path, capsys) -> None:
    data.write_text("{")
    assert check("--json", data, "--policy", "drop", "--write", tmp_path / "out.json") == 1
    captured = capsys.readouterr()
    assert "(not-json)" in captured.out and "is not written" in captured.err
    assert not (tmp_path / "out.json").exists()


def test_a_second_file_is_compared(data: Path, tmp_path: Path, capsys) -> None:
    val = make_data(tmp_path / "val")
    files = ["--json", data, "--images", data.parent, "--val-json", val, "--val-images", val.parent]
    assert check(*files) == 1
    assert "images that are in the training file too (shared-image): 3" in capsys.readouterr().out


def test_a_sample_or_all_images_are_read(data: Path, capsys) -> None:
    (data.parent / "2.png").write_bytes(b"")
    files = ["--json", data, "--images", data.parent]
    assert check(*files, "--images-checked", 0) == 0
    assert check(*files, "--images-checked", "all") == 1
    assert "2.png: the image file is empty" in capsys.readouterr().out


def test_registered_names(tmp_path: Path, capsys) -> None:
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    path = make_data(tmp_path / "coco" / "val2017")
    path.rename(tmp_path / "coco" / "annotations" / "instances_val2017.json")
    assert check("--json", "coco_2017_val", "--root", tmp_path) == 0
    assert "instances_val2017.json: no problems" in capsys.readouterr().out
    assert check("--json", "coco_2017_train", "--root", tmp_path) == 2
    assert "DATASETS.ROOT" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--json"),
        (("--json", "coco_2017_trian"), "did you mean coco_2017_train"),
        (("--json", "nothing.json"), "no such file"),
        (("--json", "{data}", "--images-checked", "some"), "'some' is neither a number nor all"),
        (("--json", "{data}", "--policy", "mend"), "invalid choice"),
        (("--json", "{data}", "--write", "out.json"), "--write needs --policy"),
        (("--json", "{data}", "--policy", "drop", "--write", "."), "is a folder"),
        (("--json", "{data}", "--report", "nowhere/out.json"), "there is no folder nowhere"),
        (("--json", "{data}", "--val-images", "x"), "--val-images needs --val-json"),
    ],
)
def test_bad_use_is_2(data: Path, capsys, arguments: tuple[str, ...], message: str) -> None:
    try:
        code = check(*(text.format(data=data) for text in arguments))
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err
