"""An RPN and a detector on its proposals, as two runs with files between them; docs/proposals.md as printed."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import make_data, tiny_config
from yacs.config import CfgNode

import maskrcnn
from maskrcnn.cli import main
from maskrcnn.config import load_config
from maskrcnn.data import Dataset, DatasetError, read_coco
from maskrcnn.data.proposal_files import read_proposals
from maskrcnn.engine import run
from maskrcnn.engine.checks import RunError, changed
from maskrcnn.engine.summary import summarize
from maskrcnn.evaluation import write_proposals
from maskrcnn.evaluation.coco import RESULTS_FILE
from maskrcnn.registry import DATASETS

PAGE = (Path(__file__).parents[2] / "docs" / "proposals.md").read_text()
SETS = ("coco_2017_train", "coco_2017_val")
# Makes the published models of the page tiny, and their runs short.
RUN = [
    *("MODEL.WEIGHTS", "[]", "MODEL.BACKBONE.DEPTH", "18", "MODEL.BACKBONE.WIDTH", "8", "MODEL.BACKBONE.NORM", "GN"),
    *("MODEL.NECK.CHANNELS", "16", "INPUT.MIN_SIZE_TRAIN", "[64]", "INPUT.MIN_SIZE_TEST", "64", "SOLVER.AMP", "fp32"),
    *("SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "[]", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0"),
    *("WRITERS", "[tensorboard]"),
]


def read(folder: Path, name: str, _: Path) -> Dataset:
    return read_coco(folder / "data" / "instances.json", folder / "data", policy="drop", name=name)


@pytest.fixture
def coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """COCO is three images, and the current folder is empty."""
    make_data(tmp_path / "data")
    for name in SETS:
        monkeypatch.setitem(DATASETS._entries, name, partial(read, tmp_path, name))
    monkeypatch.chdir(tmp_path)
    yield tmp_path


@pytest.mark.parametrize("block", [0, 1], ids=["model zoo", "a table's row"])
def test_two_commands_of_the_page(coco: Path, block: int) -> None:
    lines = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)[block].replace("\\\n", " ").splitlines()
    assert len(lines) == 2
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "maskrcnn" and main([*words, *RUN]) == 0
    folder = Path(shlex.split(lines[1])[shlex.split(lines[1]).index("OUTPUT_DIR") + 1])
    metrics = (folder / "metrics.json").read_text()
    assert '"bbox/AP"' in metrics and "loss_rpn" not in metrics
    assert "no stage reads p6: what computes" in (folder / "log.txt").read_text()
    rpn = (coco / "output" / "rpn" / "metrics.json").read_text()
    assert all(f'"{name}/proposals/AR@1000"' in rpn for name in SETS) and "loss_rpn_cls" in rpn
    cfg = load_config(folder / "config.yaml")
    for split, name in zip(("TRAIN", "TEST"), SETS, strict=True):
        (path,) = cfg.DATASETS[f"PROPOSAL_FILES_{split}"]
        proposals = read_proposals(Path(path), read(coco, name, coco))
        assert all(len(boxes) > 10 for boxes, _ in (proposals[i] for i in range(3)))


def test_the_row_as_a_file(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n# r50_c4_apart.yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "row.yaml").write_text(block)
    cfg = load_config(tmp_path / "row.yaml")
    assert cfg.MODEL.PROPOSALS == {"NAME": "ProposalsFromFile", "TOPK_TRAIN": 2000, "TOPK_TEST": 300}
    assert cfg.MODEL.ROI_HEADS.ROI_STAGE.STRIDE == 1 and cfg.DATASETS.PROPOSAL_FILES_TEST[0].startswith("output/rpn/")


def test_a_file_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(block, {})
    assert (tmp_path / "mine.safetensors").is_file()


def config(folder: Path, *more: str) -> CfgNode:
    if not (folder / "data").exists():
        make_data(folder / "data")
    short = ["SOLVER.MAX_ITER", "1", "SOLVER.WARMUP_ITERS", "0", "WRITERS", "[]", "DATASETS.PROBLEMS", "drop"]
    return tiny_config(folder, *short, "OUTPUT_DIR", str(folder / "run"), *more)


def files_for(folder: Path, name: str = "instances", images: tuple[int, ...] = (100, 101, 102)) -> Path:
    boxes, scores = np.array([[8, 10, 32, 34]], np.float32), np.ones(1, np.float32)
    write_proposals(folder / "p.safetensors", {image: (boxes, scores) for image in images}, name)
    return folder / "p.safetensors"


def without_rpn(folder: Path, train: list[str], test: list[str]) -> CfgNode:
    """A detector on files: the tiny one has an option of the RPN's, so its file is written anew."""
    cfg = config(folder).clone()
    cfg.defrost()
    cfg.MODEL.PROPOSALS = CfgNode({"NAME": "ProposalsFromFile", "TOPK_TRAIN": 9, "TOPK_TEST": 9})
    cfg.DATASETS.PROPOSAL_FILES_TRAIN, cfg.DATASETS.PROPOSAL_FILES_TEST = tuple(train), tuple(test)
    cfg.freeze()
    return cfg


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (
            [],
            [],
            r"DATASETS.PROPOSAL_FILES_TRAIN is \[\], but .*'ProposalsFromFile' and DATASETS.TRAIN has 1 data set;",
        ),
        (["p.safetensors"], [], r"DATASETS.PROPOSAL_FILES_TEST is \[\].* DATASETS.TEST has 1 data set;"),
        (["p.safetensors", "q"], ["p.safetensors"], r"PROPOSAL_FILES_TRAIN is \['p.safetensors', 'q'\]"),
    ],
)
def test_files_that_are_not_named(tmp_path: Path, train: list[str], test: list[str], message: str) -> None:
    cfg = without_rpn(tmp_path, train, test)
    with pytest.raises(RunError, match=message):
        run.train(cfg)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "another"}, "its 'dataset' is 'another', but the images are those of 'instances'"),
        ({"images": (100, 102)}, "lacks 1 of the 3 images of .*instances.json, the first being 101"),
        (None, "no file of proposals"),
    ],
)
def test_files_that_do_not_fit_stop_a_run_before_its_first_step(tmp_path: Path, options, message: str) -> None:
    path = tmp_path / "p.safetensors" if options is None else files_for(tmp_path, **options)
    with pytest.raises(DatasetError, match=message):
        run.train(without_rpn(tmp_path, [str(path)], [str(path)]))
    assert not list((tmp_path / "run").glob("model_*"))


def test_files_that_nobody_reads(tmp_path: Path) -> None:
    cfg = config(tmp_path, "DATASETS.PROPOSAL_FILES_TEST", "p.safetensors")
    for start in (run.train, run.test):
        with pytest.raises(RunError, match=r"PROPOSAL_FILES_TEST is \['p.safetensors'\], but .*'RPN', which reads no"):
            start(cfg)


def test_an_evaluator_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="'proposals' judges Proposals, but GeneralizedRCNN gives Detections"):
        run.train(config(tmp_path, "TEST.EVALUATORS", "[coco, proposals]"))
    cfg = load_config("mask_rcnn/rpn_r50_fpn_1x_coco", ["TEST.EVALUATORS", "[coco]"])
    with pytest.raises(RunError, match=r"'coco' judges Detections, but ProposalNetwork gives Proposals; use \[prop"):
        run.train(cfg)


def test_evaluating_with_losses_and_several_workers(tmp_path: Path) -> None:
    """Everything that makes samples of a data set has its proposals: losses, pictures, workers."""
    path = str(files_for(tmp_path))
    cfg = without_rpn(tmp_path, [path], [path]).clone()
    cfg.defrost()
    cfg.TEST.LOSS, cfg.WRITERS, cfg.DATALOADER.NUM_WORKERS = True, ("tensorboard",), 1
    cfg.freeze()
    metrics = run.train(cfg)
    assert metrics["val/loss_cls"] > 0 and "val/loss_rpn_cls" not in metrics
    assert list((tmp_path / "run").glob("events.*"))
    again = run.test(cfg)
    assert again["bbox/AP"] == metrics["bbox/AP"]
    with pytest.raises(ValueError, match="these images have no proposals"):
        maskrcnn.Predictor(tmp_path / "run")(tmp_path / "data" / "0.png")
    assert main(["show_predictions", str(tmp_path / "run")]) == 0  # on images that have their proposals
    assert (tmp_path / "run" / "predictions.jpg").is_file()


def test_a_detectors_proposals_are_written_and_read_with_its_own_weights(tmp_path: Path) -> None:
    """Its first stage alone, then its second alone: the same figures as with both."""
    cfg = config(tmp_path, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "TEST.REPORT", "False")
    expected = run.train(cfg)
    weights = [str(tmp_path / "run" / "model_final.pth")]
    model = CfgNode({**cfg.MODEL, "NAME": "ProposalNetwork"})
    del model["ROI_HEADS"]
    alone = changed(changed(cfg, "", MODEL=model, OUTPUT_DIR=str(tmp_path / "rpn")), "TEST", EVALUATORS=("proposals",))
    assert 0 <= run.test(alone, weights=weights)["proposals/AR@1000"] <= 100
    path = str(tmp_path / "rpn" / "inference" / "proposals.safetensors")
    second = changed(without_rpn(tmp_path, [path], [path]), "", OUTPUT_DIR=str(tmp_path / "second"))
    second = changed(second, "MODEL", PROPOSALS=CfgNode({**second.MODEL.PROPOSALS, "TOPK_TEST": 20}))
    second.MODEL.ROI_HEADS.defrost()
    second.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    assert run.test(second, weights=weights)["bbox/AP"] == pytest.approx(expected["bbox/AP"], abs=1e-6)
    detections = [json.loads((tmp_path / run_ / "inference" / RESULTS_FILE).read_text()) for run_ in ("run", "second")]
    assert len(detections[0]) == len(detections[1]) > 10
    assert [d["score"] for d in detections[0]] == pytest.approx([d["score"] for d in detections[1]], abs=1e-4)


def test_predicting_is_for_detectors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = load_config("mask_rcnn/rpn_r50_fpn_1x_coco", [*RUN, "MODEL.NUM_CLASSES", "1"])
    torch.save(maskrcnn.build_model(cfg).state_dict(), tmp_path / "rpn.pth")
    with pytest.raises(ValueError, match="a ProposalNetwork gives Proposals, and predicting is for detectors"):
        maskrcnn.Predictor(
            "mask_rcnn/rpn_r50_fpn_1x_coco",
            weights=tmp_path / "rpn.pth",
            overrides=[*RUN, "MODEL.NUM_CLASSES", "1", "MODEL.DEVICE", "cpu"],
        )


@pytest.mark.parametrize("name", ["fast_rcnn_r50_fpn_1x_coco", "rpn_r50_fpn_1x_coco"])
def test_costs_are_counted_without_files(name: str) -> None:
    text = summarize(load_config(f"mask_rcnn/{name}", [*RUN, "MODEL.NUM_CLASSES", "3"]), size=(64, 64), depth=1)
    assert ("1000 proposals, 100 detections" in text) == name.startswith("fast")
