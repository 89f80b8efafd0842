from types import SimpleNamespace

import pytest
from tiny_model import write_coco, write_config
from torch import nn

from maskrcnn.config import load_config
from maskrcnn.data import DatasetError, read_coco
from maskrcnn.engine import checks
from maskrcnn.engine.checks import RunError


def test_frozen_parts_are_named_by_their_largest_module():
    model = nn.ModuleDict(
        {
            "trunk": nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())),
            "head": nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)}),
        }
    )
    assert list(checks.frozen_parts(model)) == []
    assert checks.describe_parameters(model).endswith("trained")
    model["head"]["a"].bias.requires_grad_(False)
    model["trunk"][2].requires_grad_(False)
    assert list(checks.frozen_parts(model)) == ["trunk.2", "head.a.bias"]
    model["trunk"].requires_grad_(False)
    assert checks.describe_parameters(model).endswith("trained; frozen: trunk, head.a.bias")


@pytest.fixture
def cfg(tmp_path):
    return load_config(write_config(tmp_path))


@pytest.fixture
def dataset(tmp_path):
    path = write_coco(tmp_path / "other", images=2)
    return read_coco(path, path.parent / "images")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("SOLVER.IMS_PER_BATCH=0", r"SOLVER\.IMS_PER_BATCH is 0; it must be at least 1"),
        ("SOLVER.MAX_ITER=0", r"SOLVER\.MAX_ITER is 0"),
        ("SOLVER.BASE_LR=-0.1", r"SOLVER\.BASE_LR is -0\.1"),
        ("SOLVER.BASE_LR=.nan", r"SOLVER\.BASE_LR is nan"),
        ("DATALOADER.NUM_WORKERS=-1", r"DATALOADER\.NUM_WORKERS is -1"),
        ("TEST.EVALUATORS=[mean_scroe]", r"no evaluator 'mean_scroe' \(did you mean mean_score\?\)"),
        ("SOLVER.STEPS=[5, 3]", r"SOLVER\.STEPS is \[5, 3\]"),
        ("DATASETS.TRAIN=[]", r"DATASETS\.TRAIN is empty"),
    ],
)
def test_values_out_of_range(tmp_path, override, message):
    cfg = load_config(write_config(tmp_path), [override])
    with pytest.raises(RunError, match=message), checks.at_the_door():
        checks.check_values(cfg, training=True)


def test_evaluation_needs_data_and_training_does_not(tmp_path):
    cfg = load_config(write_config(tmp_path), ["DATASETS.TEST=[]"])
    checks.check_values(cfg, training=True)
    with pytest.raises(RunError, match=r"DATASETS\.TEST and TEST\.EVALUATORS must name something"):
        checks.check_values(cfg, training=False)


def test_a_named_error_keeps_its_kind_at_the_door():
    with pytest.raises(DatasetError), checks.at_the_door():
        raise DatasetError("x")
    with pytest.raises(RunError, match="y"), checks.at_the_door():
        raise ValueError("y")


def test_the_number_of_classes_comes_from_the_data(cfg, dataset):
    assert checks.fill_in_classes(cfg, dataset).MODEL.NUM_CLASSES == 3
    assert cfg.MODEL.NUM_CLASSES == 0
    given = checks.changed(cfg, "MODEL", NUM_CLASSES=3)
    assert checks.fill_in_classes(given, dataset).MODEL.NUM_CLASSES == 3
    with pytest.raises(RunError, match=r"NUM_CLASSES is 80, but .*annotations\.json defines 3 classes \(disc, square"):
        checks.fill_in_classes(checks.changed(cfg, "MODEL", NUM_CLASSES=80), dataset)


def test_classes_that_differ_are_named(dataset):
    checks.check_same_classes(("disc", "square", "cross"), "a.pth", dataset)
    with pytest.raises(RunError, match=r"a\.pth and .*: class 1 is 'ring' in the one, 'square' in the other"):
        checks.check_same_classes(("disc", "ring", "cross"), "a.pth", dataset)
    with pytest.raises(RunError, match="2 and 3 of them"):
        checks.check_same_classes(("disc", "square"), "a.pth", dataset)


def test_folders(tmp_path):
    checks.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    checks.make_folder(tmp_path / "a" / "b")
    checks.check_unused(tmp_path / "a" / "b")
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match=r"OUTPUT_DIR is .*, but .*file is a file"):
            checks.make_folder(path)
    (tmp_path / "a" / "b" / "model_0000004.pth").write_text("")
    with pytest.raises(RunError, match=r"holds another run \(model_0000004\.pth\); continue that one with --resume"):
        checks.check_unused(tmp_path / "a" / "b")


@pytest.mark.parametrize(
    ("batch", "rate", "expected"),
    [(16, 0.02, None), (8, 0.01, None), (2, 0.02, "would be 0.0025"), (32, 0.02, "would be 0.04"), (16, 0.5, None)],
)
def test_the_linear_rule_is_a_hint(batch, rate, expected):
    hint = checks.learning_rate_hint({"OPTIMIZER": "SGD", "IMS_PER_BATCH": batch, "BASE_LR": rate, "LR_FOR_BATCH": 0})
    assert hint is None if expected is None else expected in hint


def test_a_rate_that_is_scaled_says_so():
    hint = checks.learning_rate_hint({"OPTIMIZER": "SGD", "IMS_PER_BATCH": 4, "BASE_LR": 0.02, "LR_FOR_BATCH": 16})
    assert hint.startswith("the learning rate is 0.005: SOLVER.BASE_LR 0.02, scaled from SOLVER.LR_FOR_BATCH 16")


def test_a_keypoint_head_needs_keypoints(dataset):
    model = {"ROI_HEADS": {"KEYPOINT_HEAD": {"NAME": "KeypointHead"}, "MASK_HEAD": {"NAME": ""}}}
    with pytest.raises(RunError, match="has no keypoints to train"):
        checks.check_annotations(SimpleNamespace(MODEL=model), dataset)
