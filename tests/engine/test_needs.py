"""What weights need: followed in place of defaults, kept by the checkpoints of the runs that start from them."""

import logging
import re

import pytest
import torch
from tiny_model import CLASS_NAMES, write_config

from maskrcnn.checkpoint import CheckpointError, Weights, load_checkpoint, merge, save_checkpoint
from maskrcnn.config import default_values, load_config, trace_config
from maskrcnn.engine import run
from maskrcnn.engine.needs import config_for, follow, fulfilled
from maskrcnn.engine.provenance import Invocation
from maskrcnn.modeling import build_model

NEEDS = {"MODEL.CHANNELS": 6, "MODEL.CONVENTIONS": "torchvision", "MODEL.NUM_CLASSES": 90}


def test_defaults_follow_and_what_was_given_stays(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    cfg = load_config(write_config(tmp_path), ["MODEL.DIVERGE_AT", "7"])
    needs = {**NEEDS, "MODEL.DIVERGE_AT": 8, "MODEL.PIXEL_STD": (1.0, 1.0, 1.0), "MODEL.BACKBONE.DEPTH": 50}
    followed = follow(cfg, needs, "weights.pth")
    assert (followed.MODEL.CHANNELS, followed.MODEL.CONVENTIONS) == (6, "torchvision")
    assert followed.MODEL.PIXEL_STD == (1.0, 1.0, 1.0)
    assert (followed.MODEL.DIVERGE_AT, followed.MODEL.NUM_CLASSES) == (7, 0)
    assert cfg.MODEL.CHANNELS == 4 and followed.is_frozen()
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warnings == [
        "weights.pth: MODEL.DIVERGE_AT is 7, these weights want 8",
        "weights.pth: these weights want MODEL.BACKBONE.DEPTH 50, which this model does not have",
    ]
    assert "weights.pth: MODEL.CHANNELS is 6, as these weights want" in caplog.text
    assert fulfilled(followed, needs) == {
        "MODEL.CHANNELS": 6,
        "MODEL.CONVENTIONS": "torchvision",
        "MODEL.DIVERGE_AT": 7,
        "MODEL.PIXEL_STD": (1.0, 1.0, 1.0),
    }


def messages(caplog, level):
    return [r.getMessage() for r in caplog.records if r.levelno == level]


def test_a_value_that_somebody_gave_stays_also_where_it_is_the_defaults(tmp_path, caplog):
    cfg, origins = trace_config(write_config(tmp_path), ["MODEL.CHANNELS", "4"])
    assert default_values(cfg)["MODEL.CHANNELS"] == 4
    followed = follow(cfg, NEEDS, "w.pth", origins)
    assert (followed.MODEL.CHANNELS, followed.MODEL.CONVENTIONS) == (4, "torchvision")
    assert messages(caplog, logging.WARNING) == ["w.pth: MODEL.CHANNELS is 4, these weights want 6"]
    assert follow(cfg, NEEDS, "w.pth").MODEL.CHANNELS == 6  # from a notebook: nobody knows


def test_a_given_class_stays(caplog):
    cfg, origins = trace_config("mask_rcnn/mask_rcnn_r50_fpn_3x_coco")
    key = "MODEL.ROI_HEADS.BOX_HEAD.NAME"
    for known in (origins, None):
        assert follow(cfg, {key: "ConvFCBoxHead"}, "gn.pkl", known).MODEL.ROI_HEADS.BOX_HEAD.NAME == "TwoFCBoxHead"
    assert messages(caplog, logging.WARNING) == [f"gn.pkl: {key} is TwoFCBoxHead, these weights want ConvFCBoxHead"] * 2


def test_a_run_and_an_evaluation_know_what_was_given(tmp_path, capsys):
    path = write_config(tmp_path)
    narrow = build_model(load_config(path, ["MODEL.NUM_CLASSES", "3"]))
    needs = {"MODEL.CONVENTIONS": "torchvision", "MODEL.PIXEL_STD": [1.0, 1.0, 1.0]}
    content = {"model": narrow.state_dict(), "class_names": list(CLASS_NAMES), "needs": needs}
    save_checkpoint(tmp_path / "w.pth", content)
    cfg, origins = trace_config(
        path, ["MODEL.WEIGHTS", str(tmp_path / "w.pth"), "MODEL.CONVENTIONS", "ours", "SOLVER.MAX_ITER", "2"]
    )
    invocation = Invocation(origins=origins)
    run.test(cfg, invocation=invocation)
    assert "w.pth: MODEL.CONVENTIONS is ours, these weights want torchvision" in capsys.readouterr().out
    run.train(cfg, invocation=invocation)
    used = load_config(tmp_path / "run" / "config.yaml")
    assert (used.MODEL.CONVENTIONS, used.MODEL.PIXEL_STD) == ("ours", (1.0, 1.0, 1.0))
    assert load_checkpoint(tmp_path / "run" / "model_final.pth")["needs"]["MODEL.CONVENTIONS"] == "ours"


def test_a_model_for_weights_takes_their_needs_over_the_files_values_and_says_so(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = write_config(tmp_path)
    weights = Weights(tensors={}, source="w.pth", needs={**NEEDS, "MODEL.MASK_HEAD.NORM": "GN"})
    cfg = config_for(path, weights, ["MODEL.CONVENTIONS", "ours"])
    assert (cfg.MODEL.CHANNELS, cfg.MODEL.CONVENTIONS, cfg.MODEL.NUM_CLASSES) == (6, "ours", 90)
    assert messages(caplog, logging.WARNING) == [
        "w.pth: MODEL.CONVENTIONS is ours, these weights want torchvision",
        "w.pth: these weights want MODEL.MASK_HEAD.NORM GN, which this model does not have",
    ]
    assert "w.pth: MODEL.CHANNELS is 6, as these weights want" in messages(caplog, logging.INFO)
    with pytest.raises(CheckpointError, match=re.escape("w.pth: these weights are of a model with MODEL.CHANNELS 6")):
        config_for(path, weights, [], fixed=["MODEL.CHANNELS"])
    assert config_for(path, weights, ["MODEL.CHANNELS=5"], fixed=["MODEL.CHANNELS"]).MODEL.CHANNELS == 5


def test_what_takes_the_place_of_a_files_value_is_a_warning(caplog):
    weights = Weights(tensors={}, source="w.pth", needs={"MODEL.BACKBONE.DEPTH": 101})
    config = "mask_rcnn/mask_rcnn_r50_fpn_3x_coco"
    assert config_for(config, weights, []).MODEL.BACKBONE.DEPTH == 101
    (message,) = messages(caplog, logging.WARNING)
    assert message.startswith("w.pth: MODEL.BACKBONE.DEPTH is 101, as these weights want, in place of 50 in ")
    assert message.endswith("configs/_base_/models/mask_rcnn_r50_fpn.yaml")


def test_a_box_head_of_another_class_brings_its_options():
    heads = "MODEL.ROI_HEADS.BOX_HEAD"
    needs = {f"{heads}.NUM_CONVS": 2, f"{heads}.NAME": "ConvFCBoxHead", "MODEL.NECK.NORM": "GN"}
    weights = Weights(tensors={}, source="gn.pkl", needs=needs)
    cfg = config_for("mask_rcnn/mask_rcnn_r50_fpn_3x_coco", weights, [])
    box_head = cfg.MODEL.ROI_HEADS.BOX_HEAD
    assert (box_head.NAME, box_head.NUM_CONVS, cfg.MODEL.NECK.NORM) == ("ConvFCBoxHead", 2, "GN")


@pytest.mark.parametrize("name", ["gn", "syncbn"])
def test_the_zoos_rows_from_scratch_give_the_deviation_that_their_weights_do_not_tell(name):
    """Detectron2's scratch_mask_rcnn_R_50_FPN_9x_*: PIXEL_STD [57.375, 57.12, 58.395], of BGR; the others: 1."""
    needs = {"MODEL.PIXEL_STD": (1.0, 1.0, 1.0), "MODEL.BACKBONE.STRIDE_IN_1X1": False}
    weights = Weights(tensors={}, source="d2.pkl", needs=needs, presumed=frozenset(["MODEL.PIXEL_STD"]))
    std = {}
    for row in ("scratch_9x", "3x"):
        config = f"mask_rcnn/mask_rcnn_r50_fpn_{name}_{row}_coco"
        cfg, origins = trace_config(config)
        ways = config_for(config, weights, []), follow(cfg, needs, "d2.pkl", origins)
        std[row] = {way.MODEL.PIXEL_STD for way in ways}
    assert std == {"scratch_9x": {(58.395, 57.12, 57.375)}, "3x": {(1.0, 1.0, 1.0)}}


def test_of_several_weights_the_last_that_speaks_of_a_key_is_asked():
    first = Weights({}, "a", needs={"MODEL.CHANNELS": 6, "MODEL.PIXEL_STD": 1}, presumed=frozenset(["MODEL.PIXEL_STD"]))
    second = Weights({}, "b", needs={"MODEL.CHANNELS": 8})
    third = Weights({}, "c", needs={"MODEL.PIXEL_STD": 2})
    assert merge([first, second]).needs == {"MODEL.CHANNELS": 8, "MODEL.PIXEL_STD": 1}
    assert merge([first, second]).presumed == {"MODEL.PIXEL_STD"}
    assert not merge([first, second, third]).presumed


def test_nothing_is_followed_where_that_is_asked(tmp_path, caplog):
    cfg = load_config(write_config(tmp_path), ["MODEL.FOLLOW_WEIGHTS", "False"])
    assert follow(cfg, NEEDS, "x") == cfg
    assert [r.getMessage() for r in caplog.records] == [
        "x: MODEL.CHANNELS is 4, these weights want 6",
        "x: MODEL.CONVENTIONS is ours, these weights want torchvision",
    ]


def test_default_values_are_those_of_the_named_classes(tmp_path):
    given = [
        "MODEL.BACKBONE.STRIDE_IN_1X1",
        "True",
        "SOLVER.BASE_LR",
        "7.0",
        "MODEL.ROI_HEADS.MASK_HEAD.NUM_CONVS",
        "1",
    ]
    defaults = default_values(load_config("mask_rcnn/mask_rcnn_r50_fpn_1x_coco", given))
    assert defaults["MODEL.BACKBONE.STRIDE_IN_1X1"] is False
    assert defaults["SOLVER.BASE_LR"] != 7.0 and defaults["MODEL.ROI_HEADS.MASK_HEAD.NUM_CONVS"] == 4
    assert defaults["MODEL.ROI_HEADS.MASK_HEAD.NAME"] == "FCNMaskHead"


def test_a_run_its_checkpoint_its_evaluation_and_its_resuming_follow_the_weights(tmp_path):
    path = write_config(tmp_path)
    needed = {key: value for key, value in NEEDS.items() if key != "MODEL.NUM_CLASSES"}
    wide = load_config(path, ["MODEL.CHANNELS", "6", "MODEL.NUM_CLASSES", "3"])
    content = {"model": build_model(wide).state_dict(), "class_names": list(CLASS_NAMES), "needs": NEEDS}
    save_checkpoint(tmp_path / "wide.pth", content)

    start = ["MODEL.WEIGHTS", str(tmp_path / "wide.pth")]
    run.train(load_config(path, [*start, "SOLVER.MAX_ITER", "4"]))
    final = load_checkpoint(tmp_path / "run" / "model_final.pth")
    assert final["needs"] == needed and final["model"]["conv.weight"].shape[0] == 6
    assert load_config(tmp_path / "run" / "config.yaml").MODEL.CONVENTIONS == "torchvision"

    # The config as it was written, without a word of the weights that the run started from.
    assert run.test(load_config(path)) == pytest.approx(run.test(load_config(tmp_path / "run" / "config.yaml")))
    (tmp_path / "wide.pth").unlink()
    run.train(load_config(path, [*start, "SOLVER.MAX_ITER", "6"]), resume=True)
    last = load_checkpoint(tmp_path / "run" / "model_final.pth")
    assert (last["iteration"], last["needs"]) == (5, needed)
    assert not torch.equal(last["model"]["conv.weight"], final["model"]["conv.weight"])
    with pytest.raises(CheckpointError, match="shapes differ"):
        run.test(load_config(path, ["MODEL.CHANNELS", "8"]))
