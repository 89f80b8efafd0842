"""Inheritance, named sections, overrides, origins and the messages of what a user can get wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent

import pytest

from maskrcnn import registry
from maskrcnn.config import ConfigError, dump, format_config, load_config, trace_config

pytestmark = pytest.mark.usefixtures("toy_parts")

MODEL = """
MODEL:
  NAME: Detector
  BACKBONE: {NAME: Trunk, DEPTH: 18}
  ROI_HEADS:
    NAME: Heads
    SCORE: 0.1
    MASK_HEAD: {NAME: MaskHead, NUM_CONVS: 2}
"""


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text))
    return path


@pytest.fixture
def model() -> Path:
    return write("model.yaml", MODEL)


def error_of(path: str | Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as info:
        load_config(path, overrides)
    assert "\n" not in str(info.value)
    return str(info.value)


# What a config holds


def test_a_section_holds_exactly_the_options_of_its_class(model: Path) -> None:
    cfg = load_config(model)
    assert cfg.MODEL.BACKBONE == {
        "NAME": "Trunk",
        "DEPTH": 18,
        "NORM": "BN",
        "OUT_FEATURES": ("res2", "res5"),
        "SIZES": ((32,), (64,)),
        "FREEZE_AT": 2,
        "GROUPS": None,
    }
    assert set(cfg.MODEL.ROI_HEADS) == {"NAME", "SCORE", "THRESHOLD", "MASK_HEAD", "POOLER"}
    assert cfg.MODEL.ROI_HEADS.POOLER == {"SIZE": 7, "IN_FEATURES": ("p2", "p3")}
    assert cfg.MODEL.DROPOUT == 0.0 and cfg.MODEL.NUM_CLASSES == 0 and cfg.SOLVER.MAX_ITER == 160000
    assert cfg.is_frozen() and cfg.MODEL.ROI_HEADS.MASK_HEAD.is_frozen()


def test_the_nesting_class_sets_the_defaults_of_a_nested_dataclass(model: Path) -> None:
    assert load_config(model).MODEL.ROI_HEADS.THRESHOLD == {"POSITIVE": 0.7, "NEGATIVE": 0.3}
    other = load_config(model, ["MODEL.ROI_HEADS.NAME", "OtherHeads"])
    assert other.MODEL.ROI_HEADS.THRESHOLD == {"POSITIVE": 0.6, "NEGATIVE": 0.5}


def test_an_empty_name_leaves_a_part_out(model: Path) -> None:
    cfg = load_config(model, ["MODEL.ROI_HEADS.MASK_HEAD.NAME", ""])
    assert cfg.MODEL.ROI_HEADS.MASK_HEAD == {"NAME": ""}


def test_an_empty_file_needs_only_a_model() -> None:
    assert load_config(write("empty.yaml", ""), ["MODEL.NAME=Detector"]).MODEL.BACKBONE == {"NAME": ""}


# Inheritance


def test_later_files_win_and_fragments_are_read_in_order(model: Path) -> None:
    write("parts/short.yaml", "SOLVER: {MAX_ITER: 10, BASE_LR: 1}")
    write("parts/long.yaml", "SOLVER: {MAX_ITER: 20}")
    write("published/base.yaml", "_BASE_: [../model.yaml, ../parts/short.yaml, ../parts/long.yaml]\nSEED: 3")
    cfg, origins = trace_config(write("ablations/row.yaml", "_BASE_: ../published/base.yaml\nSEED: 4"))
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, cfg.SEED, cfg.MODEL.BACKBONE.DEPTH) == (20, 1.0, 4, 18)
    assert origins["SOLVER.MAX_ITER"] == "parts/long.yaml" and origins["SOLVER.BASE_LR"] == "parts/short.yaml"
    assert origins["SEED"] == "ablations/row.yaml" and origins["SOLVER.GAMMA"] == "default"


def test_a_base_may_be_a_shipped_config(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("shipped/models/toy.yaml", MODEL)
    monkeypatch.setattr("maskrcnn.config.files.configs_folder", lambda: Path("shipped"))
    assert load_config(write("mine.yaml", "_BASE_: models/toy.yaml")).MODEL.BACKBONE.DEPTH == 18


def test_a_circle_of_bases_is_named() -> None:
    write("a.yaml", "_BASE_: b.yaml")
    write("b.yaml", "_BASE_: c.yaml")
    write("c.yaml", "_BASE_: b.yaml")
    assert "circle: b.yaml -> c.yaml -> b.yaml" in error_of("a.yaml")


def test_a_missing_base_is_named_with_its_reader_and_the_closest_file(model: Path) -> None:
    message = error_of(write("mine.yaml", "_BASE_: modle.yaml"))
    assert message.startswith("mine.yaml: _BASE_ names modle.yaml") and "did you mean model.yaml?" in message


def test_a_base_that_is_no_name() -> None:
    assert "mine.yaml: _BASE_ is 3" in error_of(write("mine.yaml", "_BASE_: 3"))


# Naming another class


def test_another_class_drops_the_options_of_the_first_and_keeps_shared_sections(model: Path) -> None:
    row = write("row.yaml", "_BASE_: model.yaml\nMODEL: {WEIGHTS: a.pth, ROI_HEADS: {THRESHOLD: {NEGATIVE: 0.1}}}")
    heads = load_config(row, ["MODEL.ROI_HEADS.NAME", "OtherHeads"]).MODEL.ROI_HEADS
    assert heads == {
        "NAME": "OtherHeads",
        "PASSES": 2,
        "THRESHOLD": {"POSITIVE": 0.6, "NEGATIVE": 0.1},  # what a file gave stays, what it did not comes with the class
        "MASK_HEAD": {"NAME": "MaskHead", "NUM_CONVS": 2, "CONV_DIM": 256, "NORM": ""},
    }
    back = load_config(row, ["MODEL.ROI_HEADS.NAME", "Heads"]).MODEL.ROI_HEADS
    assert back.SCORE == 0.1  # naming the same class again changes nothing


def test_there_and_back_again_forgets_the_options(model: Path) -> None:
    write("other.yaml", "_BASE_: model.yaml\nMODEL: {ROI_HEADS: {NAME: OtherHeads}}")
    back = write("back.yaml", "_BASE_: other.yaml\nMODEL: {ROI_HEADS: {NAME: Heads}}")
    assert load_config(back).MODEL.ROI_HEADS.SCORE == 0.05


def test_another_model_keeps_the_fixed_keys_and_the_shared_backbone(model: Path) -> None:
    row = write("row.yaml", "_BASE_: model.yaml\nMODEL: {WEIGHTS: a.pth, DROPOUT: 0.5}")
    cfg, origins = trace_config(row, ["MODEL.NAME", "Classifier", "MODEL.SMOOTHING", "0.2"])
    assert cfg.MODEL.WEIGHTS == ("a.pth",) and cfg.MODEL.BACKBONE.DEPTH == 18 and cfg.MODEL.SMOOTHING == 0.2
    assert "ROI_HEADS" not in cfg.MODEL and "DROPOUT" not in cfg.MODEL
    assert "MODEL.DROPOUT" not in origins and origins["MODEL.NAME"] == "command line"


def test_an_option_of_a_part_that_the_same_file_leaves_out(model: Path) -> None:
    row = write("row.yaml", "_BASE_: model.yaml\nMODEL: {ROI_HEADS: {MASK_HEAD: {NAME: '', NUM_CONVS: 3}}}")
    message = error_of(row)
    assert message.startswith("row.yaml: MODEL.ROI_HEADS.MASK_HEAD.NUM_CONVS is given")
    assert "MODEL.ROI_HEADS.MASK_HEAD.NAME is empty" in message and "EdgeHead, MaskHead" in message


def test_a_typo_in_a_file_is_found_though_a_later_file_names_another_class(model: Path) -> None:
    write("typo.yaml", "_BASE_: model.yaml\nMODEL: {ROI_HEADS: {MASK_HEAD: {NUM_CONV: 3}}}")
    row = write("row.yaml", "_BASE_: typo.yaml\nMODEL: {ROI_HEADS: {MASK_HEAD: {NAME: EdgeHead}}}")
    assert error_of(row).startswith("typo.yaml: unknown key MODEL.ROI_HEADS.MASK_HEAD.NUM_CONV (did you mean NUM_CONVS")


def test_options_without_a_default_must_be_given(model: Path) -> None:
    message = error_of(model, "MODEL.BACKBONE.NAME", "Stem")
    assert "no value for MODEL.BACKBONE.DEPTH, MODEL.BACKBONE.WIDTH" in message
    cfg = load_config(model, ["MODEL.BACKBONE.NAME=Stem", "MODEL.BACKBONE.DEPTH=3", "MODEL.BACKBONE.WIDTH=0.5"])
    assert cfg.MODEL.BACKBONE == {"NAME": "Stem", "DEPTH": 3, "WIDTH": 0.5, "NORM": None, "LEVELS": ()}


def test_an_unknown_class_names_the_file_and_the_closest_one() -> None:
    message = error_of(write("mine.yaml", "MODEL: {NAME: Detektor}"))
    assert message.startswith("mine.yaml: MODEL.NAME: no class 'Detektor' (did you mean Detector?)")
    assert "known: Classifier, Detector" in message


def test_the_default_model_must_be_known_too() -> None:
    assert "default: MODEL.NAME: no class 'GeneralizedRCNN'" in error_of(write("mine.yaml", "SEED: 1"))


# Overrides


def test_overrides_as_pairs_and_with_an_equals_sign(model: Path) -> None:
    cfg, origins = trace_config(
        model, ["SOLVER.BASE_LR", "1e-3", "SOLVER.STEPS=(6, 8)", "INPUT.MIN_SIZE_TRAIN", "[640, 800]", "OUTPUT_DIR=a=b"]
    )
    assert cfg.SOLVER.BASE_LR == 0.001 and cfg.SOLVER.STEPS == (6, 8) and cfg.INPUT.MIN_SIZE_TRAIN == (640, 800)
    assert cfg.OUTPUT_DIR == "a=b" and origins["OUTPUT_DIR"] == "command line"


def test_of_two_overrides_the_later_wins_and_names_may_follow_their_options(model: Path) -> None:
    head = "MODEL.ROI_HEADS.MASK_HEAD"
    cfg = load_config(model, [f"{head}.EDGE_WEIGHT=2", f"{head}.NAME=EdgeHead", "SEED=1", "SEED=2"])
    assert cfg.SEED == 2 and cfg.MODEL.ROI_HEADS.MASK_HEAD == {"NAME": "EdgeHead", "CONV_DIM": 128, "EDGE_WEIGHT": 2.0}


@pytest.mark.parametrize(
    ("text", "value"),
    [("2024", "2024"), ("null", "null"), ("None", "None"), ("a: b", None), ("runs/x y", "runs/x y"), ("'q'", "q")],
)
def test_text_that_looks_like_something_else_stays_text(model: Path, text: str, value: str | None) -> None:
    if value is None:  # a mapping is more likely a mistake than a folder of that name
        assert "expected str" in error_of(model, "OUTPUT_DIR", text)
    else:
        assert load_config(model, ["OUTPUT_DIR", text]).OUTPUT_DIR == value


@pytest.mark.parametrize("text", ["True", "true", "yes"])
def test_booleans(model: Path, text: str) -> None:
    assert load_config(model, ["SOLVER.NESTEROV", text]).SOLVER.NESTEROV is True


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["SEED"], "no value follows SEED"),
        (["--resume"], "'--resume' is no config key"),
        (["SEED", "1", "--resume", "x"], "'--resume' is no config key"),
        (["SEED=1", "SEED.X=2"], "SEED.X lies inside a key that has a value of its own"),
        (["MODEL.BACKBONE", "Trunk"], "MODEL.BACKBONE is 'Trunk', but it is a section"),
        (["solver.base_lr", "1"], "unknown key solver (did you mean SOLVER?)"),
    ],
)
def test_overrides_that_cannot_be_read(model: Path, overrides: list[str], expected: str) -> None:
    message = error_of(model, *overrides)
    assert message.startswith("command line: ") and expected in message


# Types


@pytest.mark.parametrize(
    ("yaml", "key", "value"),
    [
        ("SOLVER: {BASE_LR: 1}", "SOLVER.BASE_LR", 1.0),
        ("SOLVER: {BASE_LR: 1e-3}", "SOLVER.BASE_LR", 0.001),  # text to YAML, which wants 1.0e-3
        (
            "SOLVER:\n  STEPS: (60000, 80000)",
            "SOLVER.STEPS",
            (60000, 80000),
        ),  # text to YAML; Detectron2's files have it
        ("SOLVER: {STEPS: [60000]}", "SOLVER.STEPS", (60000,)),
        ("SOLVER: {STEPS: []}", "SOLVER.STEPS", ()),
        ("MODEL: {PIXEL_MEAN: [1, 2, 3.5]}", "MODEL.PIXEL_MEAN", (1.0, 2.0, 3.5)),
        ("MODEL: {WEIGHTS: a.pth}", "MODEL.WEIGHTS", ("a.pth",)),
        ("MODEL: {WEIGHTS: ''}", "MODEL.WEIGHTS", ()),
        ("MODEL: {WEIGHTS: [a.pth, b.pth]}", "MODEL.WEIGHTS", ("a.pth", "b.pth")),
        ("MODEL: {BACKBONE: {SIZES: [[1.5], [2, 3]]}}", "MODEL.BACKBONE.SIZES", ((1.5,), (2.0, 3.0))),
        ("MODEL: {BACKBONE: {GROUPS: [1, [2]]}}", "MODEL.BACKBONE.GROUPS", (1, (2,))),
        ("DATASETS: {TRAIN: shapes_train}", "DATASETS.TRAIN", ("shapes_train",)),
        ("DATASETS:\n  TRAIN: ('a', 'b')", "DATASETS.TRAIN", ("a", "b")),
        ("DATASETS: {TEST: {JSON: a.json, IMAGES: b}}", "DATASETS.TEST", ({"JSON": "a.json", "IMAGES": "b"},)),
        ("DATASETS: {TEST: [{JSON: a.json, IMAGES: b}, c]}", "DATASETS.TEST", ({"JSON": "a.json", "IMAGES": "b"}, "c")),
    ],
)
def test_conversions_that_lose_nothing(model: Path, yaml: str, key: str, value: object) -> None:
    cfg = load_config(write("mine.yaml", f"_BASE_: model.yaml\n{yaml}"))
    for part in key.split("."):
        cfg = cfg[part]
    assert cfg == value and type(cfg) is type(value)


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        ("SOLVER: {BASE_LR: fast}", "SOLVER.BASE_LR is 'fast' (str); expected float"),
        ("SOLVER: {BASE_LR: true}", "SOLVER.BASE_LR is True (bool); expected float"),
        ("SOLVER: {MAX_ITER: 10.5}", "SOLVER.MAX_ITER is 10.5 (float); expected int"),
        ("SOLVER: {MAX_ITER: '10'}", "SOLVER.MAX_ITER is '10' (str); expected int"),
        ("SOLVER: {MAX_ITER: true}", "SOLVER.MAX_ITER is True (bool); expected int"),
        ("SOLVER: {NESTEROV: 1}", "SOLVER.NESTEROV is 1 (int); expected bool"),
        ("SOLVER: {STEPS: 60000}", "SOLVER.STEPS is 60000 (int); expected a list of int, like [120000]"),
        ("SOLVER: {STEPS: [a]}", "SOLVER.STEPS is ['a'] (list); expected a list of int"),
        ("SOLVER: {AMP: half}", "SOLVER.AMP is 'half' (str); expected one of 'auto', 'fp32', 'bf16', 'fp16'"),
        ("OUTPUT_DIR: 2024", "OUTPUT_DIR is 2024 (int); expected str"),
        ("OUTPUT_DIR:", "OUTPUT_DIR is None (NoneType); expected str"),
        ("TEST: {EVALUATORS: coco}", "TEST.EVALUATORS is 'coco' (str); expected a list of str, like ['coco']"),
        ("MODEL: {PIXEL_MEAN: [1, 2]}", "expected a list of 3: float, float, float"),
        ("MODEL: {BACKBONE: {NORM: LN}}", "MODEL.BACKBONE.NORM is 'LN' (str); expected"),
        (
            "MODEL: {BACKBONE: {OUT_FEATURES: res2}}",
            "MODEL.BACKBONE.OUT_FEATURES is 'res2' (str); expected a list of str",
        ),
        (
            "MODEL: {BACKBONE: {SIZES: [[a]]}}",
            "MODEL.BACKBONE.SIZES is [['a']] (list); expected a list of a list of float",
        ),
        ("MODEL: {ROI_HEADS: {POOLER: 7}}", "MODEL.ROI_HEADS.POOLER is 7, but it is a section"),
        ("MODEL: {ROI_HEADS:}", "MODEL.ROI_HEADS is None, but it is a section"),
        ("DATASETS: {TRAIN: {JSON: a.json}}", "DATASETS.TRAIN is {'JSON': 'a.json'} (dict); expected"),
        ("IMPORTS: 3", "IMPORTS is 3; expected a list of module names"),
    ],
)
def test_a_wrong_type_names_file_key_value_and_the_expected_type(model: Path, yaml: str, expected: str) -> None:
    message = error_of(write("mine.yaml", f"_BASE_: model.yaml\n{yaml}"))
    assert message.startswith("mine.yaml: ") and expected in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("RATE=x", "expected float"),
        ("DEPTH=1.5", "expected int"),
        ("SIZES=[[1.5]]", "expected a list of a list of int"),
        ("SIZES=[1]", "expected a list of a list of int"),
        ("MIXED=[x]", "expected a list of float"),
        ("EMPTY=1", "expected a list"),
    ],
)
def test_without_annotations_the_defaults_tell_the_types(model: Path, override: str, expected: str) -> None:
    good = ["RATE=1", "SIZES=[[1], [2, 3]]", "MIXED=[1, 2]", "EMPTY=[x]", "DEPTH=3"]
    overrides = [f"MODEL.BACKBONE.{text}" for text in ("NAME=Exotic", *good)]
    cfg = load_config(model, overrides).MODEL.BACKBONE
    assert (cfg.RATE, cfg.SIZES, cfg.MIXED, cfg.EMPTY) == (1.0, ((1,), (2, 3)), (1.0, 2.0), ("x",))
    assert expected in error_of(model, *overrides, f"MODEL.BACKBONE.{override}")


def test_a_wrong_type_on_the_command_line_shows_what_was_typed(model: Path) -> None:
    assert "command line: SOLVER.MAX_ITER is '90k'; expected int" in error_of(model, "SOLVER.MAX_ITER", "90k")


# Unknown keys


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        (
            "SOLVER: {BASELR: 1}",
            "unknown key SOLVER.BASELR (did you mean BASE_LR?); SOLVER accepts IMS_PER_BATCH, ACCUMULATE, OPTIMIZER",
        ),
        ("SOLVER: {WEIGHTS: a}", "unknown key SOLVER.WEIGHTS (did you mean WEIGHT_DECAY"),
        ("SOLVER: {DEVICE: a}", "unknown key SOLVER.DEVICE (did you mean MODEL.DEVICE?)"),
        ("MODEL: {MASK_HEAD: {NAME: MaskHead}}", "unknown key MODEL.MASK_HEAD"),
        (
            "SOLVR: {}",
            "unknown key SOLVR (did you mean SOLVER?); the top level accepts IMPORTS, OUTPUT_DIR, SEED, DETERMINISTIC",
        ),
        ("1: 2", "unknown key 1"),
        (
            "MODEL: {ROI_HEADS: {MASK_HEAD: {EDGE_WEIGHT: 2}}}",
            "EDGE_WEIGHT belongs to EdgeHead, but MODEL.ROI_HEADS.MASK_HEAD.NAME is MaskHead; "
            "MODEL.ROI_HEADS.MASK_HEAD (MaskHead) accepts NAME, NUM_CONVS, CONV_DIM, NORM",
        ),
        ("MODEL: {ROI_HEADS: {THRESHOLD: {POSITVE: 1}}}", "MODEL.ROI_HEADS.THRESHOLD.POSITVE (did you mean POSITIVE?)"),
    ],
)
def test_an_unknown_key_names_the_file_the_key_and_what_is_near(model: Path, yaml: str, expected: str) -> None:
    message = error_of(write("mine.yaml", f"_BASE_: model.yaml\n{yaml}"))
    assert message.startswith("mine.yaml: ") and expected in message


# Imports


def write_part(name: str, part: str) -> Path:
    return write(
        name,
        f"""
        from maskrcnn.registry import MASK_HEADS

        @MASK_HEADS.register()
        class {part}:
            def __init__(self, *, sharpness: int = 3) -> None: ...
        """,
    )


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))


@pytest.mark.parametrize(
    ("file", "imports", "config"),
    [
        ("lab/part_a.py", "part_a", "lab/mine.yaml"),
        ("lab/part_b.py", "part_b.py", "lab/mine.yaml"),
        ("part_c.py", "[part_c]", "lab/mine.yaml"),
        ("lab/heads_d/edges.py", "heads_d.edges", "lab/mine.yaml"),
        ("lab/heads_e/__init__.py", "heads_e", "lab/mine.yaml"),
        ("lab/part_f.py", "../part_f.py", "lab/configs/mine.yaml"),
    ],
    ids=["beside the config", "file", "current folder", "in a folder", "package", "relative file"],
)
def test_a_part_of_ones_own(model: Path, file: str, imports: str, config: str) -> None:
    write_part(file, "OwnHead")
    up = "../" * config.count("/")
    path = write(
        config,
        f"""
        _BASE_: {up}model.yaml
        IMPORTS: {imports}
        MODEL: {{ROI_HEADS: {{MASK_HEAD: {{NAME: OwnHead, SHARPNESS: 5}}}}}}
        """,
    )
    cfg = load_config(path)
    assert cfg.MODEL.ROI_HEADS.MASK_HEAD == {"NAME": "OwnHead", "SHARPNESS": 5}
    assert cfg.IMPORTS == (str(Path(file).resolve()),)
    run = write("runs/1/config.yaml", dump(cfg))
    assert load_config(run) == cfg


def test_imports_add_up_over_files(model: Path) -> None:
    write_part("part_g.py", "HeadG")
    write_part("part_h.py", "HeadH")
    write("first.yaml", "_BASE_: model.yaml\nIMPORTS: part_g")
    cfg, origins = trace_config(write("mine.yaml", "_BASE_: first.yaml\nIMPORTS: [part_h.py]"), ["IMPORTS", "json"])
    assert [Path(name).name for name in cfg.IMPORTS] == ["part_g.py", "part_h.py", "json"]
    assert origins["IMPORTS"] == "first.yaml, mine.yaml, command line"
    assert {"HeadG", "HeadH"} <= set(registry.MASK_HEADS.names())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("no_such_module", "IMPORTS: no module no_such_module in"),
        ("json.no_such_module", "IMPORTS: no module json.no_such_module in"),
        ("no_such_file.py", "IMPORTS: no file no_such_file.py in"),
    ],
)
def test_an_import_that_does_not_exist(model: Path, name: str, expected: str) -> None:
    message = error_of(write("mine.yaml", f"_BASE_: model.yaml\nIMPORTS: {name}"))
    assert message.startswith("mine.yaml: ") and expected in message


def test_an_import_with_the_name_of_another_module(model: Path) -> None:
    write_part("json.py", "HeadJ")
    assert "rename yours" in error_of(write("mine.yaml", "_BASE_: model.yaml\nIMPORTS: json.py"))


def test_an_error_inside_an_imported_module_is_the_modules_own(model: Path) -> None:
    write("part_k.py", "import no_such_dependency")
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        load_config(write("mine.yaml", "_BASE_: model.yaml\nIMPORTS: part_k"))


# Data root, printing, writing


def test_the_data_root(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_config(model).DATASETS.ROOT == "./datasets"
    monkeypatch.setenv("DETECTRON2_DATASETS", "/d2")
    assert load_config(model).DATASETS.ROOT == "/d2"
    monkeypatch.setenv("MASKRCNN_DATASETS", "/ours")
    cfg, origins = trace_config(model)
    assert cfg.DATASETS.ROOT == "/ours" and origins["DATASETS.ROOT"] == "$MASKRCNN_DATASETS"
    assert load_config(model, ["DATASETS.ROOT", "/given"]).DATASETS.ROOT == "/given"


def test_every_value_is_printed_with_its_origin(model: Path) -> None:
    cfg, origins = trace_config(model, ["SOLVER.STEPS", "(6, 8)"])
    lines = {line.split(":")[0]: line for line in format_config(cfg, origins).splitlines()}
    assert set(lines) == set(origins)
    for key, value, origin in [
        ("SOLVER.STEPS", "[6, 8]", "command line"),
        ("MODEL.BACKBONE.DEPTH", "18", "model.yaml"),
        ("MODEL.BACKBONE.NORM", "BN", "default"),
        ("MODEL.ROI_HEADS.MASK_HEAD.NORM", "''", "default"),
    ]:
        assert lines[key].split("#")[0].strip() == f"{key}: {value}"
        assert lines[key].split("#")[1].strip() == origin


def test_a_written_config_reads_back_equal(model: Path) -> None:
    data = "[{JSON: a.json, IMAGES: b}, shapes_train]"
    cfg = load_config(model, ["DATASETS.TRAIN", data, "SOLVER.BASE_LR=1e-7", "MODEL.WEIGHTS", "a.pth", "OUTPUT_DIR=ü"])
    text = dump(cfg)
    assert "&id" not in text
    again = load_config(write("run/config.yaml", text))
    assert again == cfg and again.DATASETS.TRAIN == ({"JSON": "a.json", "IMAGES": "b"}, "shapes_train")
