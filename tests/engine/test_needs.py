"""What weights need: followed in place of defaults, kept by the checkpoints of the runs that start from them."""

import logging

import pytest
import torch
from tiny_model import CLASS_NAMES, write_config

from maskrcnn.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from maskrcnn.config import default_values, load_config
from maskrcnn.engine import run
from maskrcnn.engine.needs import follow, fulfilled
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
