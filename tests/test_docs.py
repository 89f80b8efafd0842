"""The pages' code runs as printed."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import maskrcnn
from maskrcnn.cli import main
from maskrcnn.data import InstanceMapper, dataset
from maskrcnn.data.checking import KINDS
from maskrcnn.engine.writers import build_writers, check_writers
from maskrcnn.registry import DATASETS, MASK_HEADS, WRITERS

ROOT = Path(__file__).parents[1]
SMALL = ["MODEL.NUM_CLASSES", "1", "MODEL.WEIGHTS", "[]", "MODEL.BACKBONE.DEPTH", "18", "MODEL.NECK.CHANNELS", "16"]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The files of docs/adding_a_part.md, each named in its first line, in an empty folder."""
    for block in blocks("docs/adding_a_part.md", "(?:python|yaml)"):
        name, code = block.split("\n", 1)
        (tmp_path / name.removeprefix("# ")).write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # IMPORTS adds its folder
    yield tmp_path
    MASK_HEADS._classes.pop("EdgeMaskHead", None)
    DATASETS._entries.pop("squares", None)
    WRITERS._entries.pop("table", None)
    for module in ("edge_head", "squares", "table"):
        sys.modules.pop(module, None)


def test_a_head_and_a_data_set_of_ones_own_train(files):
    cfg = maskrcnn.load_config(files / "squares.yaml", SMALL)
    model = maskrcnn.build_model(cfg).train()
    assert type(model.roi_heads.mask_head).__name__ == "EdgeMaskHead"
    assert model.roi_heads.mask_head.edge_weight == 3.0
    records = dataset("squares", files)
    assert len(records) == 8 and records.class_names == ("square",)
    mapper = InstanceMapper([], training=True)
    losses = model([mapper(records[i], None) for i in range(2)])
    assert all(torch.isfinite(loss) for loss in losses.values()) and losses["loss_mask"] > 0


def test_a_writer_of_ones_own(files):
    cfg = maskrcnn.load_config(files / "table.yaml")
    check_writers(cfg.WRITERS)
    for writer in build_writers(cfg, files, 0, bar=False):
        writer.write(19, {"segm/AP": 12.5})
        writer.close()
    assert (files / "metrics.csv").read_text() == "19,segm/AP,12.5\n"


def test_a_misspelt_option_names_file_and_option(files):
    (files / "typo.yaml").write_text((files / "edge.yaml").read_text().replace("EDGE_WEIGHT", "EDGE_WIEGHT"))
    with pytest.raises(ValueError, match=r"typo\.yaml.*EDGE_WIEGHT(.|\n)*EDGE_WEIGHT"):
        maskrcnn.load_config(files / "typo.yaml")


def run_notebook(name: str) -> dict[str, Any]:
    """All its code cells, in order; the names that they leave."""
    notebook = json.loads((ROOT / "notebooks" / name).read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "outputs stay out of the repository"
            exec("".join(cell["source"]), names)
    return names


def test_first_steps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_notebook("first_steps.ipynb")
    assert names["picture"].any() and len(names["losses"]) == 5 and len(names["detections"]) == 4


def test_the_model_by_hand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_notebook("the_model_by_hand.ipynb")
    first, last = names["history"][0], names["history"][-1]
    assert sum(last.values()) < 0.6 * sum(first.values()) and last["loss_mask"] < first["loss_mask"]
    assert names["bitmaps"].shape == (len(names["first"]), *names["first"].size)
    assert [picture.any() for picture in names["found"]] == [True] * 4


def test_your_own_data(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    names = run_notebook("your_own_data.ipynb")
    assert (tmp_path / "output" / "mine" / "model_final.pth").is_file()
    assert "segm/AP" in names["metrics"] and len(names["steps"]) >= 2 and len(names["found"]) == 4


def test_the_readmes_commands_exist(capsys):
    """Each `python tools/X.py` and `maskrcnn X` of the pages is a command that answers --help."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "\n".join(page.read_text() for page in pages)
    tools = set(re.findall(r"python (tools/\w+\.py)", text))
    assert "tools/train_net.py" in tools and all((ROOT / tool).is_file() for tool in tools)
    commands = set(re.findall(r"^maskrcnn (\w+)", text, flags=re.MULTILINE)) | {"train", "predict"}
    for command in sorted(commands):
        with pytest.raises(SystemExit) as end:
            main([command, "--help"])
        assert end.value.code == 0 and "usage" in capsys.readouterr().out


def test_the_page_lists_every_kind_of_problem() -> None:
    page = (ROOT / "docs/data.md").read_text()
    for name, kind in KINDS.items():
        assert f"| `{name}` | {kind.severity}: {kind.title} | {kind.repair or '-'} |" in page
