"""Training in four steps: one trunk for RPN and detector in the end, and going on after a stop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_run import make_data, tiny_config
from yacs.config import CfgNode

from maskrcnn import Predictor
from maskrcnn.checkpoint import load_checkpoint, read_weights
from maskrcnn.cli import main
from maskrcnn.config import dump, load_config
from maskrcnn.engine import alternating, run
from maskrcnn.engine.alternating import train_in_steps
from maskrcnn.engine.checks import RunError, changed
from maskrcnn.engine.provenance import Invocation
from maskrcnn.engine.trainer import Step, Trainer
from maskrcnn.modeling import build_model

FAST = (
    *("SOLVER.MAX_ITER", "3", "SOLVER.WARMUP_ITERS", "0", "SOLVER.CHECKPOINT_PERIOD", "2", "SOLVER.AMP", "fp32"),
    *("TEST.REPORT", "False", "WRITERS", "[]", "MODEL.PROPOSALS.PRE_NMS_TOPK_TRAIN", "60"),
    *("MODEL.PROPOSALS.POST_NMS_TOPK_TRAIN", "30", "MODEL.BACKBONE.WIDTH", "8", "DATASETS.PROBLEMS", "drop"),
)


def config(folder: Path, *more: str) -> CfgNode:
    """The demo's config made tiny, with BN in the trunk and a rate of its own for the mask head."""
    if not (folder / "data").exists():
        make_data(folder / "data")
    overrides = [*FAST, "MODEL.BACKBONE.NORM", "BN", "OUTPUT_DIR", str(folder / "steps"), *more]
    return tiny_config(folder, *overrides)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "model_final.pth")["model"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], prefix: str) -> set[bool]:
    names = [name for name in a if name.startswith(prefix)]
    assert names and set(names) == {name for name in b if name.startswith(prefix)}
    return {torch.equal(a[name], b[name]) for name in names}


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What four steps leave."""
    folder = tmp_path_factory.mktemp("alternating")
    told: list[str] = []
    metrics = train_in_steps(config(folder), tell=told.append)
    assert {"bbox/AP", "segm/AP"} <= metrics.keys()
    assert [line.split(",")[0] for line in told[:4]] == [
        "step 1 of 4: the RPN",
        "step 2 of 4: a detector on its proposals",
        "step 3 of 4: the RPN on the detector's trunk",
        "step 4 of 4: the detector's own layers on its proposals",
    ]
    return folder


def test_the_trunk_of_step_2_is_that_of_all_that_follows(steps: Path) -> None:
    first, second, third, fourth = (weights_of(steps / "steps" / f"step{i}") for i in range(1, 5))
    whole = weights_of(steps / "steps")
    for part in ("backbone.", "neck."):
        assert same(second, third, part) == same(second, fourth, part) == same(second, whole, part) == {True}
        assert False in same(first, second, part)  # two networks that share nothing
    assert any("running_mean" in name for name in second)  # which rest too
    assert False in same(first, third, "proposals.") and False in same(second, fourth, "roi_heads.")
    assert same(third, whole, "proposals.") == same(fourth, whole, "roi_heads.") == {True}
    assert {name.split(".")[0] for name in first} == {"backbone", "neck", "proposals"}
    assert {name.split(".")[0] for name in second} == {"backbone", "neck", "roi_heads"}


def test_the_whole_detector_is_an_ordinary_one(steps: Path, tmp_path: Path) -> None:
    joint = steps / "steps" / "model_final.pth"
    content = load_checkpoint(joint)
    assert content["class_names"] == ["disc", "bar", "ring"] and content["category_ids"] == [4, 9, 30]
    ordinary = config(steps, "OUTPUT_DIR", str(tmp_path))
    assert {"bbox/AP", "segm/AP"} <= run.test(ordinary, weights=[str(joint)]).keys()  # loads strictly
    predictor = Predictor(steps / "steps")
    assert predictor.class_names == ("disc", "bar", "ring")
    predictor(steps / "data" / "0.png")


def test_proposals_are_as_many_as_the_detector_would_have(steps: Path) -> None:
    found = load_config(steps / "steps" / "step2" / "config.yaml")
    assert found.MODEL.PROPOSALS == {"NAME": "ProposalsFromFile", "TOPK_TRAIN": 30, "TOPK_TEST": 20}
    assert [list(pair) for pair in found.SOLVER.LR_FACTORS] == [["roi_heads.mask_head.*", 4.0]]
    frozen = load_config(steps / "steps" / "step3" / "config.yaml")
    assert [list(pair) for pair in frozen.SOLVER.LR_FACTORS] == [["backbone.*", 0.0], ["neck.*", 0.0]]
    asked = load_config(steps / "steps" / "step1" / "config.yaml").MODEL.PROPOSALS
    assert asked.POST_NMS_TOPK_TEST == 20 and asked.POST_NMS_TOPK_TRAIN == 30
    log = (steps / "steps" / "step1" / "train_proposals_1" / "log.txt").read_text()
    assert "the proposals are in" in log


def test_what_the_first_weights_need_is_kept(tmp_path: Path) -> None:
    """The trunk's and the RPN's own needs, in the joint checkpoint and the config beside it; with views at the end."""
    views = ("TEST.AUGMENTATION.ENABLED", "True", "TEST.AUGMENTATION.SIZES", "[64]", "SOLVER.MAX_ITER", "1")
    cfg = config(tmp_path, *views, "MODEL.WEIGHTS", str(tmp_path / "start.pth"))
    alone = changed(cfg, "MODEL", NUM_CLASSES=3)
    needs = {"MODEL.PIXEL_STD": [1.0, 1.0, 1.0], "MODEL.PROPOSALS.NUM_CONVS": 2}
    tensors = {k: v for k, v in build_model(alone).state_dict().items() if k.startswith("backbone.")}
    torch.save({"model": tensors, "class_names": None, "needs": needs}, tmp_path / "start.pth")
    assert {"bbox/AP", "segm/AP"} <= train_in_steps(cfg).keys()
    folder = tmp_path / "steps"
    assert dict(read_weights(str(folder / "model_final.pth")).needs) == {**needs, "MODEL.PIXEL_STD": (1.0, 1.0, 1.0)}
    for written in (load_config(folder / "config.yaml"), Predictor(folder).cfg):
        assert tuple(written.MODEL.PIXEL_STD) == (1.0, 1.0, 1.0) and written.MODEL.PROPOSALS.NUM_CONVS == 2
    assert set(weights_of(folder)) == weights_of(folder / "step3").keys() | weights_of(folder / "step4").keys()


def test_a_value_that_was_given_stays_in_every_step(tmp_path: Path) -> None:
    """Also where it is the default's, as in a single run; what nobody gave follows the weights."""
    cfg = config(tmp_path, "SOLVER.MAX_ITER", "1", "MODEL.WEIGHTS", str(tmp_path / "start.pth"))
    alone = changed(cfg, "MODEL", NUM_CLASSES=3)
    needs = {"MODEL.PIXEL_STD": [1.0, 1.0, 1.0], "MODEL.PIXEL_MEAN": [9.0, 9.0, 9.0]}
    tensors = {k: v for k, v in build_model(alone).state_dict().items() if k.startswith("backbone.")}
    torch.save({"model": tensors, "class_names": None, "needs": needs}, tmp_path / "start.pth")
    train_in_steps(cfg, invocation=Invocation(origins={"MODEL.PIXEL_STD": "command line"}))
    folder = tmp_path / "steps"
    for place in (folder, *(folder / f"step{i}" for i in (1, 2, 3, 4))):
        written = load_config(place / "config.yaml").MODEL
        assert tuple(written.PIXEL_STD) == tuple(cfg.MODEL.PIXEL_STD) and tuple(written.PIXEL_MEAN) == (9.0, 9.0, 9.0)


def test_a_second_call_repeats_nothing(steps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = {path: path.stat().st_mtime_ns for path in (steps / "steps").rglob("*.safetensors")}
    assert len(times) == 4

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(alternating.run, "train", refuse)
    files: list[tuple[Path, ...]] = []  # whose published figures are shown
    monkeypatch.setattr(run, "log_beside", lambda *given, **_: files.append(given[3]))
    (steps / "again.yaml").write_text(dump(config(steps)))
    assert main(["train_steps", "--config", str(steps / "again.yaml")]) == 0
    assert files == [(steps / "again.yaml",)]
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_a_stop_in_the_middle_changes_nothing(steps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped within step 2 and, a second time, between step 3 and its proposals."""
    make_data(tmp_path / "data")
    test, step, calls = run.test, Trainer.step, {"test": 0, "step": 0}

    def stopping_step(trainer: Trainer, *args: int) -> Step:
        calls["step"] += 1
        if calls["step"] == 6:  # the last one of step 2, after its first checkpoint
            raise KeyboardInterrupt
        return step(trainer, *args)

    def stopping_test(cfg: CfgNode, **options: object) -> dict[str, float]:
        calls["test"] += 1
        if calls["test"] == 4:
            raise KeyboardInterrupt
        return test(cfg, **options)

    monkeypatch.setattr(Trainer, "step", stopping_step)
    monkeypatch.setattr(alternating.run, "test", stopping_test)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train_in_steps(config(tmp_path))
    train_in_steps(config(tmp_path))
    assert calls["step"] == 4 * 3 + 1  # none was repeated but the one that was stopped
    whole, expected = weights_of(tmp_path / "steps"), weights_of(steps / "steps")
    assert {torch.equal(whole[name], expected[name]) for name in expected} == {True}


def test_steps_that_no_longer_share_a_trunk(steps: Path, tmp_path: Path) -> None:
    for i in (3, 4):
        (tmp_path / f"step{i}").mkdir()
        content = load_checkpoint(steps / "steps" / f"step{i}" / "model_final.pth")
        if i == 4:
            next(iter(content["model"].values())).add_(1)
        torch.save(content, tmp_path / f"step{i}" / "model_final.pth")
    with pytest.raises(RunError, match=r"do not share a trunk: 1 tensors differ, the first being backbone"):
        alternating.join(config(steps), tmp_path / "step3", tmp_path / "step4", tmp_path)
    assert not (tmp_path / "model_final.pth").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.LR_FACTORS", '[["roi_heads.mask_haed.*", 2.0]]'], "'roi_heads.mask_haed.*' matches no parameter"),
        (["SOLVER.MAX_ITER", "0"], "SOLVER.MAX_ITER is 0"),
    ],
)
def test_what_cannot_be_trained_in_steps(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(RunError) as error:
        train_in_steps(config(tmp_path, *overrides))
    assert message in str(error.value)
    assert not (tmp_path / "steps").exists()


@pytest.mark.parametrize("words", [["MODEL.PROPOSALS.NAME", "ProposalsFromFile"], ["MODEL.NAME", "ProposalNetwork"]])
def test_the_command_wants_a_detector_with_an_rpn(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train_steps", "--config", "_base_/models/mask_rcnn_r18_fpn_small", *words]) == 2
    assert f"{words[0]} " in (error := capsys.readouterr().err) and f"'{words[1]}'" in error
