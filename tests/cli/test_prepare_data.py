"""The command on small folders that look like COCO's, and on one file of each format that it converts."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image

from maskrcnn.cli import main
from maskrcnn.data import dataset, read_coco
from maskrcnn.data.layouts import LAYOUTS

TRAIN_JSON, VAL_JSON = (f"coco/annotations/instances_{split}2017.json" for split in ("train", "val"))
TRAIN, VAL = "coco/train2017", "coco/val2017"
PARTS = [TRAIN_JSON, TRAIN, VAL_JSON, VAL]
ZIPS = "http://images.cocodataset.org/zips"


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """COCO 2017 with two images in each folder, and a data root of the test's own."""
    layout = LAYOUTS["coco2017"]
    data_sets = {
        name: tuple(replace(part, images=min(part.images, 2)) for part in parts)
        for name, parts in layout.data_sets.items()
    }
    monkeypatch.setitem(LAYOUTS, "coco2017", replace(layout, data_sets=data_sets))
    monkeypatch.setenv("MASKRCNN_DATASETS", str(tmp_path / "root"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Unpacked here and there, as people do."""
    folder = tmp_path / "downloads"
    annotations(folder / "annotations_trainval2017" / "annotations", "train")
    annotations(folder / "annotations_trainval2017" / "annotations", "val")
    images(folder / "big disk" / "train2017" / "train2017")
    images(folder / "val2017")
    labels = folder / "labels" / "train2017"  # of YOLO's copy of the data set
    labels.mkdir(parents=True)
    (labels / "1.txt").write_text("0 .5 .5 .1 .1")
    return folder


def annotations(folder: Path, split: str) -> Path:
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 8, "width": 9} for i in (1, 2)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [],
        "info": split,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"instances_{split}2017.json"
    path.write_text(json.dumps(content))
    return path


def images(folder: Path, count: int = 2) -> Path:
    folder.mkdir(parents=True)
    for i in range(1, count + 1):
        Image.new("RGB", (9, 8)).save(folder / f"{i}.jpg")
    return folder


def prepare(*arguments: object) -> int:
    return main(["prepare_data", *map(str, arguments)])


def lines(text: str) -> dict[str, str]:
    """What is said about each part."""
    return dict(line.split(": ", 1) for line in text.splitlines() if line.startswith("coco/"))


def test_links_what_was_unpacked(source, root, capsys):
    assert prepare("coco2017", "--source", source) == 0
    output = capsys.readouterr().out
    assert list(lines(output)) == PARTS
    assert lines(output)[TRAIN] == f"linked to {source}/big disk/train2017/train2017"
    assert "complete" in output and "coco_2017_train, coco_2017_val" in output and "export" not in output
    assert all((root / part).is_symlink() for part in PARTS)
    for name in ("coco_2017_train", "coco_2017_val"):
        assert len(dataset(name, root)) == 2


def test_a_second_run_changes_nothing(source, root, capsys):
    assert prepare("coco2017", "--source", source) == 0
    before = {part: os.lstat(root / part) for part in PARTS}
    capsys.readouterr()
    for arguments in ([], ["--copy"]):
        assert prepare("coco2017", "--source", source, *arguments) == 0
        assert set(lines(capsys.readouterr().out).values()) == {"there already"}
        assert {part: os.lstat(root / part) for part in PARTS} == before


def test_copies(source, root, capsys):
    assert prepare("coco2017", "--source", source, "--copy") == 0
    assert lines(capsys.readouterr().out)[VAL] == f"copied from {source}/val2017"
    assert not any((root / part).is_symlink() for part in PARTS)
    assert sorted(path.name for path in (root / "coco").iterdir()) == ["annotations", "train2017", "val2017"]
    assert (root / VAL / "2.jpg").read_bytes() == (source / "val2017" / "2.jpg").read_bytes()
    assert prepare("coco2017", "--source", source) == 0  # a copy is as good as a link
    assert set(lines(capsys.readouterr().out).values()) == {"there already"}


def test_copies_where_links_cannot_be_made(source, root, capsys, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError("a required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert prepare("coco2017", "--source", source) == 0
    assert lines(capsys.readouterr().out)[VAL].startswith("copied from")
    assert (root / VAL).is_dir() and not (root / VAL).is_symlink()


def test_an_interrupted_copy_leaves_nothing(source, root, monkeypatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.copy2", interrupt)
    assert prepare("coco2017", "--source", source, "--copy") == 130
    assert list((root / "coco" / "annotations").iterdir()) == []


def test_another_root(source, tmp_path, root, capsys):
    assert prepare("coco2017", "--source", source, "--root", tmp_path / "other") == 0
    assert f"export MASKRCNN_DATASETS={tmp_path / 'other'}" in capsys.readouterr().out
    assert (tmp_path / "other" / VAL).is_dir() and not root.exists()
    assert prepare("--root", tmp_path / "third", "coco2017", "--source", source) == 0
    assert (tmp_path / "third" / VAL).is_dir()


def test_what_is_missing_is_named_with_its_address(source, root, capsys):
    (source / "val2017").rename(source / "pictures")
    (source / "annotations_trainval2017" / "annotations" / "instances_train2017.json").unlink()
    assert prepare("coco2017", "--source", source) == 1
    output = capsys.readouterr().out
    assert lines(output)[VAL] == f"missing: get {ZIPS}/val2017.zip and unpack it"
    assert lines(output)[TRAIN_JSON] == (
        "missing: get http://images.cocodataset.org/annotations/annotations_trainval2017.zip and unpack it"
    )
    assert "2 of 4 parts are not in" in output and "https://cocodataset.org/#download" in output
    assert (root / TRAIN).is_dir() and (root / VAL_JSON).is_file() and not (root / VAL).exists()
    (source / "pictures").rename(source / "val2017")
    annotations(source, "train")
    assert prepare("coco2017", "--source", source) == 0


def test_archives_that_are_not_unpacked(source, capsys):
    (source / "val2017").rename(source / "pictures")
    for name in ("val2017.zip", "holiday.zip"):
        with zipfile.ZipFile(source / name, "w") as archive:
            archive.writestr("val2017/1.jpg", "")
    assert prepare("coco2017", "--source", source) == 1
    output = capsys.readouterr().out
    assert lines(output)[VAL] == f"missing: {source}/val2017.zip is not unpacked"
    assert f"other archives there, not unpacked: {source}/holiday.zip\n" in output


def test_a_folder_that_is_not_complete(source, root, capsys):
    (source / "val2017" / "2.jpg").unlink()
    assert prepare("coco2017", "--source", source) == 1
    said = lines(capsys.readouterr().out)[VAL]
    assert said == f"{source}/val2017 has 1 of 2 images; unpack val2017.zip again, from {ZIPS}/val2017.zip"
    assert not (root / VAL).exists()


CONFLICTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "another file": (VAL_JSON, lambda path: annotations(path.parent, "test").rename(path), "differs from"),
    "another folder": (VAL, lambda path: (images(path, 3) / "2.jpg").unlink(), "differs from"),
    "an incomplete folder": (VAL, lambda path: images(path, 1), "is there, but has 1 of 2 images; remove it"),
    "a dead link": (VAL, lambda path: path.symlink_to("/nowhere"), "is a link to /nowhere, where nothing is"),
    "a file for a folder": (VAL, lambda path: path.write_text(""), "is there, but has 0 of 2 images"),
    "a folder for a file": (VAL_JSON, lambda path: images(path), "is there, but is no file"),
}


@pytest.mark.parametrize(("part", "make", "message"), CONFLICTS.values(), ids=CONFLICTS)
def test_nothing_is_overwritten(source, root, capsys, part, make, message):
    (root / part).parent.mkdir(parents=True)
    make(root / part)
    before = snapshot(root / part)
    for arguments in ([], ["--copy"]):
        assert prepare("coco2017", "--source", source, *arguments) == 1
        said = lines(capsys.readouterr().out)
        assert said[part].startswith(str(root / part)) and message in said[part]
        assert all((root / other).exists() for other in PARTS if other != part)
        assert snapshot(root / part) == before


def snapshot(path: Path) -> object:
    if path.is_symlink():
        return os.readlink(path)
    return {p.name: p.read_bytes() for p in path.iterdir()} if path.is_dir() else path.read_bytes()


def test_links_in_a_circle(source, root):
    (source / "val2017" / "again").symlink_to(source)
    assert prepare("coco2017", "--source", source) == 0
    (source / "root").symlink_to(root)  # a second run finds its own links
    assert prepare("coco2017", "--source", source) == 0


def test_list(source, root, capsys):
    (source / "val2017").rename(source / "pictures")
    prepare("coco2017", "--source", source)
    capsys.readouterr()
    assert prepare("--list") == 0
    output = capsys.readouterr().out
    assert f"data root: {root}" in output and all(
        f"{name}: {layout.title}, " in output for name, layout in LAYOUTS.items()
    )
    assert "  coco_2017_train: complete\n  coco_2017_val: coco/val2017 is missing\n" in output
    assert prepare("--list", "--root", root / "elsewhere") == 0
    assert (
        "coco_2017_train: coco/annotations/instances_train2017.json is missing; coco/train" in capsys.readouterr().out
    )


@pytest.fixture
def cells(tmp_path, monkeypatch) -> Path:
    """The same object in the three formats: x from 2 to 6, y from 1 to 6."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my cells"
    for name in ("voc", "yolo", "labelme"):
        images(folder / name, 1)
    (folder / "voc" / "1.xml").write_text(
        "<annotation><object><name>cell</name><difficult>1</difficult><bndbox><xmin>3</xmin><ymin>2</ymin>"
        "<xmax>6</xmax><ymax>6</ymax></bndbox></object></annotation>"
    )
    (folder / "yolo" / "1.txt").write_text(f"0 {4 / 9} {3.5 / 8} {4 / 9} {5 / 8}")
    (folder / "yolo" / "classes.txt").write_text("cell\n")
    shape = {"label": "cell", "points": [[2, 1], [6, 6]], "shape_type": "rectangle"}
    (folder / "labelme" / "1.json").write_text(json.dumps({"shapes": [shape], "imagePath": "1.jpg"}))
    return folder


@pytest.mark.parametrize("name", ["voc", "yolo", "labelme"])
def test_converts_and_says_how_to_train(cells, capsys, name):
    assert prepare(name, "--source", f"my cells/{name}", "--json", f"out/{name}.json") == 0
    output = capsys.readouterr().out
    assert (
        f"out/{name}.json: 1 images, 1 objects, {int(name == 'labelme')} of them with masks; 1 classes: cell" in output
    )
    assert ("models without a mask head" in output) == (name != "labelme")
    config = "\n".join(output.splitlines()[3:5])
    assert yaml.safe_load(config) == {"DATASETS": {"TRAIN": {"JSON": f"out/{name}.json", "IMAGES": f"my cells/{name}"}}}
    data = dataset(yaml.safe_load(config)["DATASETS"]["TRAIN"], "nowhere")
    assert data.class_names == ("cell",)
    assert data[0].objects[0].box.tolist() == pytest.approx([2, 1, 6, 6], abs=1e-3)
    assert [path.name for path in Path("out").iterdir()] == [f"{name}.json"]


def test_names_split_and_difficult(cells, capsys):
    Path("names.txt").write_text("nucleus\ncell\n")
    lists = cells / "voc" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("1\n")
    arguments = ["voc", "--source", cells / "voc", "--json", "out.json", "--names", "names.txt", "--split", "train"]
    assert prepare(*arguments, "--difficult-as-crowd") == 0
    data = read_coco("out.json", cells / "voc")
    assert data.class_names == ("nucleus", "cell") and data[0].objects[0].crowd
    assert prepare(*arguments[:-1], "val") == 1
    assert "lists in its folder: train" in capsys.readouterr().err


def test_bad_data_is_one_line_and_leaves_the_old_file(cells, capsys):
    Path("out.json").write_text("old")
    (cells / "yolo" / "1.txt").write_text("7 .5 .5 .1 .1")
    assert prepare("yolo", "--source", cells / "yolo", "--json", "out.json") == 1
    error = capsys.readouterr().err
    assert error.startswith("maskrcnn prepare_data: ") and "1.txt, line 1: the class is 7" in error
    assert error.count("\n") == 1 and Path("out.json").read_text() == "old"


BAD_USE = {
    "nothing": ([], "say either --list or what to prepare"),
    "both": (["--list", "coco2017", "--source", "."], "say either --list or what to prepare"),
    "unknown": (["coco2018", "--source", "."], "coco2018"),
    "no source": (["coco2017"], "--source"),
    "source not there": (["coco2017", "--source", "nowhere"], "--source nowhere: no such folder"),
    "no json": (["voc", "--source", "."], "--json"),
    "a folder for a file": (["voc", "--source", ".", "--json", "."], "--json . is a folder; name a file"),
    "no names": (["voc", "--source", ".", "--json", "a.json", "--names", "n.txt"], "--names n.txt: no such file"),
    "split of YOLO": (["yolo", "--source", ".", "--json", "a.json", "--split", "train"], "--split"),
    "root is a file": (["--list", "--root", __file__], "is a file; name a folder with --root"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_USE.values(), ids=BAD_USE)
def test_bad_use(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        prepare(*arguments)
    assert end.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("what", [[], ["coco2017"], ["voc"], ["yolo"], ["labelme"]])
def test_help(capsys, what):
    with pytest.raises(SystemExit) as end:
        prepare(*what, "--help")
    output = capsys.readouterr().out
    assert end.value.code == 0 and ("--source" in output if what else "keypoints_coco2017" in output)
