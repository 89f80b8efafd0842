"""Published figures: a row for every config, true to its source, and shown beside what was measured."""

import logging

import pytest
from published_tables import PAGE, page
from tiny_model import write_config

from maskrcnn import cli, config
from maskrcnn.config.files import configs_folder
from maskrcnn.data.datasets.cityscapes import CLASSES
from maskrcnn.engine import published
from maskrcnn.engine.published import Row, beside, log_beside, other_values, read_rows, rows_of
from maskrcnn.evaluation.coco_figures import KEYPOINT_FIGURES, figure_names
from maskrcnn.evaluation.proposals import ProposalEvaluator
from maskrcnn.registry import DATASETS

ROWS = read_rows()
CONFIGS = {
    path.relative_to(configs_folder()).as_posix()
    for folder in ("mask_rcnn", "ablations")
    for path in (configs_folder() / folder).rglob("*.yaml")
}
# Configs, or folders of them, that nobody published figures for, and why.
OWN = {
    "mask_rcnn/mask_rcnn_r18_fpn_small_scratch.yaml": "ours, for small images; measured in docs/results.md",
    "ablations/mask_rcnn/shapes": "ours, on the built-in data; measured in docs/results.md",
}
# Typed from the tables once more: config, the first word of the source, data, metrics.
BY_HAND = [
    ("ablations/mask_rcnn/table_1/r101_c4", "Mask", "test-dev", {"segm/AP": 33.1, "segm/APs": 12.1, "segm/APl": 51.1}),
    ("ablations/mask_rcnn/table_1/x101_64x4d_fpn", "Mask", "test-dev", {"segm/AP": 37.1, "segm/AP75": 39.4}),
    ("ablations/mask_rcnn/table_2a/r50_c4", "Mask", "minival", {"segm/AP": 30.3, "segm/AP50": 51.2, "segm/AP75": 31.5}),
    ("ablations/mask_rcnn/table_2b/softmax", "Mask", "minival", {"segm/AP": 24.8, "segm/AP50": 44.1}),
    ("ablations/mask_rcnn/table_2c/roi_warp_max", "Mask", "minival", {"segm/AP": 27.2, "segm/AP75": 27.1}),
    ("ablations/mask_rcnn/table_2d/roi_pool", "Mask", "minival", {"segm/AP75": 21.6, "bbox/AP": 28.2}),
    ("ablations/mask_rcnn/table_2e/mlp_3fc", "Mask", "minival", {"segm/AP50": 54.0, "segm/AP75": 32.6}),
    ("ablations/mask_rcnn/table_3/faster_rcnn_r101_fpn", "Mask", "test-dev", {"bbox/AP": 37.3, "bbox/APm": 40.2}),
    ("ablations/mask_rcnn/table_4/keypoint_and_mask", "Mask", "test-dev, people", {"keypoints/AP": 63.1}),
    ("ablations/mask_rcnn/table_5/mask_only", "Mask", "minival, people", {"bbox/AP": 53.6, "segm/AP": 45.8}),
    (
        "ablations/mask_rcnn/table_6/roi_pool",
        "Mask",
        "minival, people",
        {"keypoints/AP50": 86.2, "keypoints/APl": 67.4},
    ),
    ("ablations/mask_rcnn/table_7/fine_coco", "Mask", "Cityscapes val", {"cityscapes/AP": 36.4}),
    ("ablations/mask_rcnn/table_7/fine", "Mask", "Cityscapes test", {"cityscapes/AP": 26.2, "cityscapes/AP-car": 46.9}),
    ("mask_rcnn/mask_rcnn_r50_fpn_3x_coco", "Detectron2's", "val2017", {"bbox/AP": 41.0, "segm/AP": 37.2}),
    ("mask_rcnn/mask_rcnn_r101_dc5_3x_coco", "Detectron2's", "val2017", {"bbox/AP": 41.9, "segm/AP": 37.3}),
    ("mask_rcnn/keypoint_rcnn_r50_fpn_1x_coco", "Detectron2's", "val2017, people", {"keypoints/AP": 64.0}),
    ("mask_rcnn/mask_rcnn_x101_64x4d_fpn_1x_coco", "Detectron's", "minival", {"bbox/AP": 42.4, "segm/AP": 37.5}),
    ("mask_rcnn/mask_rcnn_r50_fpn_dcnv2_1x_coco", "maskrcnn-benchmark's", "val2017", {"segm/AP": 36.7}),
]


@pytest.mark.parametrize("name", sorted(CONFIGS | {row.config for row in ROWS}))
def test_every_config_has_a_row_or_a_reason_for_none(name):
    assert name in CONFIGS, "a row of a config that is not there"
    assert any(row.config == name for row in ROWS) or any(name.startswith(own) for own in OWN)


def test_every_row_is_of_an_ablation_with_its_tables_number():
    for row in ROWS:
        if row.config.startswith("ablations/mask_rcnn/table"):
            assert row.row.startswith(f"Table {row.config.split('/')[2].removeprefix('table_')},"), row


def test_the_page_lists_them():
    assert PAGE.read_text(encoding="utf-8") == page(), "python tests/published_tables.py writes it anew"


def test_metrics_and_data_sets_are_ours():
    boxes_and_masks = {f"{kind}/{name}" for kind in ("bbox", "segm") for name in figure_names((1, 10, 100))}
    keypoints = {f"keypoints/{name}" for name in KEYPOINT_FIGURES}
    cityscapes = {f"cityscapes/{name}" for name in ("AP", "AP50", *(f"AP-{c}" for c in CLASSES))}
    for row in ROWS:
        known = boxes_and_masks | keypoints | cityscapes | set(ProposalEvaluator.metrics)
        assert row.metrics and row.metrics.keys() <= known, row
        assert all(0 < value < 100 for value in row.metrics.values()), row
        assert all(DATASETS.get(name) for name in row.test_sets), row
        assert row.test_sets or row.data == "Cityscapes test"


def test_a_config_is_tested_on_the_data_of_its_rows():
    for name in {row.config for row in ROWS}:
        cfg = config.load_config(name)
        for row in ROWS:
            if row.config == name and row.test_sets:
                assert set(cfg.DATASETS.TEST) & set(row.test_sets), row
                kinds = {metric.split("/")[0] for metric in row.metrics}
                assert "cityscapes" not in kinds or "cityscapes" in cfg.TEST.EVALUATORS, row
                assert "keypoints" not in kinds or "coco_keypoints" in cfg.TEST.EVALUATORS, row


@pytest.mark.parametrize(("name", "source", "data", "metrics"), BY_HAND, ids=[row[0] for row in BY_HAND])
def test_figures_are_those_of_the_source(name, source, data, metrics):
    found = [r for r in ROWS if (r.config, r.source.split(" ")[0], r.data) == (f"{name}.yaml", source, data)]
    assert any(metrics.items() <= row.metrics.items() for row in found), found


def test_box_and_mask_tables_of_the_paper_suppress_at_3_tenths_and_keypoint_tables_at_5():
    for name in sorted(CONFIGS):
        table = name.removeprefix("ablations/mask_rcnn/table_").split("/")[0]
        if name.startswith("ablations/mask_rcnn/table_"):
            expected = 0.5 if table in ("4", "5", "6") else 0.3
            assert config.load_config(name).MODEL.ROI_HEADS.NMS_THRESH_TEST == expected, name


def test_rows_of_detectron2_train_as_it_does():
    """RoIAlign adapts its samples; its comparisons with Detectron take Detectron's 2 x 2. Keypoints have a beta."""
    for row in (row for row in ROWS if row.source == "Detectron2's model zoo"):
        model = config.load_config(row.config).MODEL
        heads = dict(model.get("ROI_HEADS", {}))
        unused = [f"{kind}_POOLER" for kind in ("MASK", "KEYPOINT") if not heads.get(f"{kind}_HEAD", {}).get("NAME")]
        ratios = {p.SAMPLING_RATIO for key, p in heads.items() if key.endswith("POOLER") and key not in unused}
        compared = row.name.startswith("Detectron1-Comparisons/")
        assert ratios == (set() if "/rpn_" in row.config else {2} if compared else {0}), row.config
        if "keypoint" in row.config:
            assert model.PROPOSALS.POST_NMS_TOPK_TRAIN == 1500
        if heads:
            beta = 1.0 if compared else 0.5 if "keypoint" in row.config else 0.0
            assert heads["BOX_HEAD"].SMOOTH_L1_BETA == beta, row.config


def test_the_rows_of_a_config_or_of_its_nearest_base(tmp_path):
    (tmp_path / "own.yaml").write_text("_BASE_: further.yaml\nSEED: 3\n")
    (tmp_path / "further.yaml").write_text("_BASE_: ablations/mask_rcnn/table_3/mask_rcnn_r101_fpn.yaml\n")
    files = config.lineage(tmp_path / "own.yaml")
    assert [path.name for path in files[:4]] == [
        *("own.yaml", "further.yaml", "mask_rcnn_r101_fpn.yaml", "mask_rcnn_r101_fpn_160k_coco.yaml")
    ]
    assert [row.row for row in rows_of(files)] == ["Table 3, Mask R-CNN R101-FPN"]
    assert len(rows_of(files[3:])) == 3  # of the model itself: Tables 2a, 1 and 3
    assert rows_of(config.lineage("demo/shapes")) == [] == rows_of(())


ROW = Row("mask_rcnn/x.yaml", "A paper", "Table 9", "minival", ("coco_2017_val",), {"bbox/AP": 40.0, "segm/AP": 35.5})


def test_measured_beside_published():
    text = beside(ROW, {"bbox/AP": 39.44, "segm/AP": 36.0, "bbox/AP50": 60.0}, "coco_2017_val", several=False)
    assert [line.split() for line in text.splitlines()[1:]] == [
        ["measured", "published", "difference"],
        ["bbox/AP", "39.4", "40.0", "-0.6"],
        ["segm/AP", "36.0", "35.5", "+0.5"],
    ]
    assert text.splitlines()[0] == "A paper, Table 9, on minival; measured on coco_2017_val"
    text = beside(ROW, {"coco_2017_val/bbox/AP": 40.0, "segm/AP": 1.0}, "coco_2017_val", several=True)
    assert text.splitlines()[2].split() == ["bbox/AP", "40.0", "40.0", "+0.0"] and "segm" not in text


@pytest.mark.parametrize("measured", [{}, {"bbox/AP": -1.0, "segm/AP": float("nan")}, {"other": 3.0}])
def test_nothing_measured_is_nothing_to_show(measured):
    assert beside(ROW, measured, "coco_2017_val", several=False) == ""


def test_other_values_are_named_and_incidental_ones_are_not():
    name = "mask_rcnn/mask_rcnn_r50_fpn_1x_coco.yaml"
    incidental = ["OUTPUT_DIR=x", "MODEL.NUM_CLASSES=80", "SEED=4", "MODEL.WEIGHTS=mine.pth", "DATASETS.ROOT=/d"]
    changed = [*incidental, "SOLVER.BASE_LR=0.01", "MODEL.NECK.NORM=GN", "MODEL.ROI_HEADS.MASK_HEAD.NAME="]
    assert other_values(config.load_config(name, incidental), name, trained=False) == []
    assert other_values(config.load_config(name, incidental), name, trained=True) == ["MODEL.WEIGHTS"]
    others = other_values(config.load_config(name, changed), name, trained=False)
    assert {"SOLVER.BASE_LR", "MODEL.NECK.NORM", "MODEL.ROI_HEADS.MASK_HEAD.NAME"} <= set(others)


def test_only_beside_the_data_that_the_figures_are_of(caplog):
    files = config.lineage("mask_rcnn/mask_rcnn_r50_fpn_1x_coco")
    cfg = config.load_config(files[0], ["SOLVER.IMS_PER_BATCH=8"])
    with caplog.at_level(logging.INFO):
        log_beside({"bbox/AP": 3.0}, ["shapes_val"], cfg, files, trained=True)
        log_beside({"bbox/AP": 3.0}, ["coco_2017_val"], cfg, config.lineage("demo/shapes"), trained=True)
        assert not caplog.records
        log_beside({"coco_2017_val/segm/AP": 3.0}, ["shapes_val", "coco_2017_val"], cfg, files, trained=True)
    heading, title, _, figures = caplog.messages[0].splitlines()
    assert heading == f"published for {ROWS_NAME}, here with other values for SOLVER.IMS_PER_BATCH:"
    assert title == "Detectron2's model zoo, Mask R-CNN R50-FPN 1x, on val2017; measured on coco_2017_val"
    assert figures.split() == ["segm/AP", "3.0", "35.2", "-32.2"]


ROWS_NAME = "mask_rcnn/mask_rcnn_r50_fpn_1x_coco.yaml"


def test_training_and_evaluating_show_them(tmp_path, monkeypatch):
    row = Row(ROWS_NAME, "A zoo", "R50", "val", ("annotations",), {"score/mean": 50.0})
    asked = []
    monkeypatch.setattr(published, "rows_of", lambda files: asked.append([f.name for f in files]) or [row])
    path = str(write_config(tmp_path))
    assert cli.main(["train", "--config", path, "TEST.EVAL_PERIOD", "0"]) == 0
    log = tmp_path / "run" / "log.txt"
    assert log.read_text().count("A zoo, R50, on val; measured on annotations") == 1
    assert cli.main(["train", "--config", path, "--eval-only"]) == 0
    assert log.read_text().count("measured on annotations") == 2
    assert asked == [["config.yaml"]] * 2
