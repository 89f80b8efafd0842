"""Finding and reading config files."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskrcnn.config import ConfigError, config_path, load_config
from maskrcnn.config.files import configs_folder, read_yaml


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "package" / "configs"
    (folder / "mask_rcnn").mkdir(parents=True)
    (folder / "mask_rcnn" / "mask_rcnn_r50_fpn_1x_coco.yaml").write_text("SEED: 7")
    monkeypatch.setattr("maskrcnn.config.files.configs_folder", lambda: folder)
    return folder / "mask_rcnn" / "mask_rcnn_r50_fpn_1x_coco.yaml"


@pytest.mark.parametrize(
    "name",
    [
        "mask_rcnn/mask_rcnn_r50_fpn_1x_coco.yaml",
        "mask_rcnn/mask_rcnn_r50_fpn_1x_coco",
        "configs/mask_rcnn/mask_rcnn_r50_fpn_1x_coco.yaml",
        "./configs/mask_rcnn/mask_rcnn_r50_fpn_1x_coco.yaml",
    ],
)
def test_a_shipped_config_by_name(shipped: Path, name: str) -> None:
    assert config_path(name) == shipped


def test_a_file_of_ones_own_comes_first(shipped: Path) -> None:
    own = Path("mask_rcnn/mask_rcnn_r50_fpn_1x_coco.yaml")
    own.parent.mkdir()
    own.write_text("")
    assert config_path(own) == own


def test_a_missing_config_lists_the_closest(shipped: Path) -> None:
    for name in ("mask_rcnn_r50_fpn_1x_coco.yaml", "configs/mask_rcnn/mask_rcnn_r50_fpn_1x.yaml"):
        with pytest.raises(ConfigError, match=r"no such config file; .* mask_rcnn/mask_rcnn_r50_fpn_1x_coco.yaml"):
            config_path(name)
    with pytest.raises(ConfigError, match=r"^/nowhere/x.yaml: no such config file$"):
        config_path("/nowhere/x.yaml")


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder; give a config file, such as .*config.yaml"):
        load_config(tmp_path)


def test_the_shipped_configs_are_there() -> None:
    assert (configs_folder() / "mask_rcnn").is_dir()


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        (b"SOLVER: {BASE_LR: 1", "x.yaml: not a YAML file: .*line 1"),
        (b"- 1\n- 2", "x.yaml: holds list; a config is a mapping"),
        (b"text", "x.yaml: holds str; a config is a mapping"),
        (b"\xff\xfe\x00\x01", "x.yaml: not a text file in UTF-8"),
        (b"SEED: 1\nSOLVER: {}\nSEED: 2", "SEED stands twice in one section, in lines 1 and 3"),
        (b"SOLVER:\n  GAMMA: 1\n  GAMMA: 1", "GAMMA stands twice in one section, in lines 2 and 3"),
        (b"A: !!python/object:os.system x", "x.yaml: not a YAML file: could not determine a constructor"),
        (b"? [1, 2]\n: 3", "x.yaml: "),
    ],
)
def test_a_file_that_is_no_config(contents: bytes, expected: str) -> None:
    Path("x.yaml").write_bytes(contents)
    with pytest.raises(ConfigError, match=expected):
        read_yaml(Path("x.yaml"))


def test_one_line_may_hold_two_keys() -> None:
    Path("x.yaml").write_text("A: {B: 1, C: 2}\nD: {B: 1}\nE: &e {F: 1}\nG: {<<: *e, H: 2}")
    assert read_yaml(Path("x.yaml")) == {"A": {"B": 1, "C": 2}, "D": {"B": 1}, "E": {"F": 1}, "G": {"F": 1, "H": 2}}
    Path("x.yaml").write_text("A: {B: 1, B: 2}")
    with pytest.raises(ConfigError, match="B stands twice"):
        read_yaml(Path("x.yaml"))


def test_a_file_that_cannot_be_read() -> None:
    with pytest.raises(ConfigError, match="x.yaml: cannot be read: No such file"):
        read_yaml(Path("x.yaml"))
