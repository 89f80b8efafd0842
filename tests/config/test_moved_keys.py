"""Detectron2's names: each that moved says where to, and each that stayed is accepted."""

from __future__ import annotations

from pathlib import Path

import pytest

import maskrcnn  # noqa: F401 - registers the real parts
from maskrcnn.config import ConfigError, load_config
from maskrcnn.config.moved_keys import ELSEWHERE, RENAMED, REPLACED


@pytest.fixture
def mask_rcnn() -> str:
    return "_base_/models/mask_rcnn_r50_fpn.yaml"


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_renamed_key_names_ours_and_ours_exists(mask_rcnn: str, old: str, new: str) -> None:
    with pytest.raises(ConfigError) as info:
        load_config(mask_rcnn, [old, "1"])
    assert str(info.value) == f"command line: {old} is Detectron2's name; here it is {' and '.join(new.split())}"
    cfg = load_config(mask_rcnn)
    for key in new.split():
        *sections, option = key.split(".")
        node = cfg
        for section in sections:
            node = node[section]
        assert option in node


@pytest.mark.parametrize("old", REPLACED)
def test_a_key_without_a_counterpart_says_what_to_do(mask_rcnn: str, old: str) -> None:
    with pytest.raises(ConfigError) as info:
        load_config(mask_rcnn, [old, "1"])
    assert str(info.value) == f"command line: {old} is a key of Detectron2 that is not used here; {REPLACED[old]}"


@pytest.mark.parametrize("old", ELSEWHERE)
def test_a_key_of_another_library_says_what_does_it_here(mask_rcnn: str, old: str) -> None:
    with pytest.raises(ConfigError) as info:
        load_config(mask_rcnn, [old, "1"])
    assert str(info.value) == f"command line: {old} is no key here; {ELSEWHERE[old]}"
    named = [word for word in ELSEWHERE[old].split() if word.startswith(("MODEL.", "SOLVER."))]
    cfg = load_config(mask_rcnn)
    for key in named:
        node = cfg
        for part in key.split("."):
            node = node[part]
    assert named


def test_an_option_of_a_section_that_moved_whole(mask_rcnn: str) -> None:
    with pytest.raises(ConfigError, match="MODEL.RPN.NO_SUCH is a key of Detectron2 .* are in MODEL.PROPOSALS"):
        load_config(mask_rcnn, ["MODEL.RPN.NO_SUCH", "1"])


def test_a_whole_file_of_detectron2(mask_rcnn: str) -> None:
    Path("theirs.yaml").write_text("MODEL:\n  META_ARCHITECTURE: GeneralizedRCNN\n  RESNETS:\n    DEPTH: 50\n")
    with pytest.raises(
        ConfigError, match="^theirs.yaml: MODEL.META_ARCHITECTURE is Detectron2's name; here it is MODEL.N"
    ):
        load_config("theirs.yaml")
    Path("theirs.yaml").write_text("MODEL:\n  RESNETS:\n    DEPTH: 50\nVERSION: 2\n")
    with pytest.raises(ConfigError, match="MODEL.RESNETS.DEPTH is Detectron2's name; here it is MODEL.BACKBONE.DEPTH"):
        load_config("theirs.yaml")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.WEIGHTS", "a.pth"),
        ("MODEL.DEVICE", "cpu"),
        ("MODEL.BACKBONE.FREEZE_AT", "0"),
        ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.1"),
        ("MODEL.ROI_HEADS.NMS_THRESH_TEST", "0.3"),
        ("DATASETS.TRAIN", "('coco_2017_train',)"),
        ("DATALOADER.NUM_WORKERS", "0"),
        ("DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False"),
        ("DATALOADER.ASPECT_RATIO_GROUPING", "False"),
        ("INPUT.MIN_SIZE_TRAIN", "(640, 800)"),
        ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"),
        ("INPUT.MAX_SIZE_TRAIN", "1000"),
        ("INPUT.MIN_SIZE_TEST", "640"),
        ("INPUT.RANDOM_FLIP", "none"),
        ("SOLVER.IMS_PER_BATCH", "2"),
        ("SOLVER.BASE_LR", "0.0025"),
        ("SOLVER.STEPS", "()"),
        ("SOLVER.GAMMA", "0.5"),
        ("SOLVER.MAX_ITER", "300"),
        ("SOLVER.WARMUP_ITERS", "0"),
        ("SOLVER.WEIGHT_DECAY_NORM", "0.0"),
        ("SOLVER.CHECKPOINT_PERIOD", "100"),
        ("TEST.EVAL_PERIOD", "100"),
        ("TEST.DETECTIONS_PER_IMAGE", "300"),
        ("OUTPUT_DIR", "./runs/1"),
        ("SEED", "-1"),
    ],
)
def test_a_key_that_stayed(mask_rcnn: str, key: str, value: str) -> None:
    load_config(mask_rcnn, [key, value])
