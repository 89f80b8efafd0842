"""Models by their well-known names: built from the shipped configs, with weights of one's own if wanted."""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from yacs.config import CfgNode

from maskrcnn.checkpoint import Weights, check_hash, read_weights
from maskrcnn.checkpoint.download import HASH, SCHEMES
from maskrcnn.config import ConfigError, config_path, load_config
from maskrcnn.config.files import configs_folder
from maskrcnn.engine.needs import CLASSES as CLASSES_KEY
from maskrcnn.engine.needs import config_for
from maskrcnn.engine.published import read_rows
from maskrcnn.engine.state import load_weights
from maskrcnn.modeling import Model, build_model

MODELS = ("mask_rcnn",)  # the folders of configs whose names are those of models
ARCHITECTURE = tuple(f"MODEL.BACKBONE.{key}" for key in ("DEPTH", "GROUPS", "WIDTH_PER_GROUP"))  # that names speak of
CLASSES = {"keypoints_coco_": 1, "coco_": 80, "cityscapes_": 8}  # by how the name of a config's data begins

logger = logging.getLogger(__name__)


def get(
    name: str,
    *,
    weights: str | Path | None = None,
    sha256: str = "",
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
) -> Model:
    """A model by name, on the CPU, in evaluation mode: `get("mask_rcnn_R_50_FPN_3x", weights="model_final.pkl")`.

    Args:
        name: one of `names()`, with or without the folder (`COCO-InstanceSegmentation/`) and `.yaml`; or any config.
        weights: a file of any library that can be read, `torchvision://NAME`, or a URL; None: fresh weights, and no
            look at the network.
        sha256: of the weights; a URL needs it (here, or behind it as `#sha256=...`), for a file it is optional.
        num_classes: for fine-tuning: the class outputs start afresh unless the weights have as many classes.
        class_names: for fine-tuning: the classes; outputs of those that the weights know by name are kept.
        overrides: config values, KEY VALUE in turn or KEY=VALUE; they win over what the weights need.

    Without `num_classes` and `class_names` the weights must be the whole model's, and the classes are theirs; fresh
    weights have those of the config's data. With either, what the weights do not have stays fresh, and the log tells
    what was taken.

    Raises:
        ConfigError: no such model.
        CheckpointError: the weights cannot be had, are others than `sha256` says, are of a trunk of another depth or
            other groups than the name says, or do not fit.
        ValueError: what is said of the classes is contradictory, given twice or nothing at all; `sha256` is of no
            weights.
    """
    if sha256 and weights is None:
        raise ValueError("sha256 is given, but no weights that it is of")
    config, count = find(name), _count(num_classes, class_names)
    if count is not None and any(item.partition("=")[0] == CLASSES_KEY for item in overrides):
        raise ValueError(f"the overrides give {CLASSES_KEY}, and so do num_classes or class_names; give one of them")
    overrides = [*overrides, *(() if count is None else (CLASSES_KEY, str(count)))]
    trained = None if weights is None else _read(str(weights), sha256)
    configure = partial(load_config, config)
    if trained is not None:
        configure = partial(config_for, config, trained, fixed=ARCHITECTURE)
    cfg = configure(overrides)
    if not cfg.MODEL.NUM_CLASSES:
        cfg = configure([*overrides, CLASSES_KEY, str(_usual_count(cfg))])
    model = build_model(cfg).eval()
    if trained is not None:
        names = class_names if class_names is not None else _names(trained, count)
        fitted = load_weights(model, trained, strict=count is None, class_names=names)
        logger.info("%s with %s: %s", name, trained.source, fitted.report())
    return model


def get_config(name: str, overrides: Sequence[str] = ()) -> CfgNode:
    """The config of a model by name.

    Raises:
        ConfigError: no such model, or the overrides are wrong.
    """
    return load_config(find(name), overrides)


def names() -> list[str]:
    """The models: Detectron2's names, with the folders that they have there, then those of the shipped configs."""
    return [*_well_known(), *_own()]


def find(name: str) -> Path:
    """The config of a model by name.

    Raises:
        ConfigError: no such model; lists the closest names.
    """
    plain = name.removesuffix(".yaml")
    by_name = {full.rpartition("/")[2]: config for full, config in reversed(_well_known().items())}  # the first wins
    by_name |= _own() | _well_known()
    if plain in by_name:
        return config_path(by_name[plain])
    try:
        return config_path(name)
    except ConfigError:
        near = difflib.get_close_matches(plain, by_name, n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ConfigError(f"no model {name!r}; {hint}maskrcnn.model_zoo.names() lists all") from None


def _well_known() -> dict[str, str]:
    """Name -> shipped config."""
    return {row.name: row.config for row in read_rows() if row.name}


def _own() -> dict[str, str]:
    """File name without suffix -> shipped config."""
    folder = configs_folder()
    paths = [path for models in MODELS for path in sorted((folder / models).glob("*.yaml"))]
    return {path.stem: path.relative_to(folder).as_posix() for path in paths}


def _read(weights: str, sha256: str) -> Weights:
    if weights.startswith(SCHEMES):
        return read_weights(f"{weights}{HASH}{sha256}" if sha256 else weights)
    path = Path(weights).expanduser()
    if sha256 and path.is_file():
        check_hash(path, sha256)
    return read_weights(weights)


def _count(num_classes: int | None, class_names: Sequence[str] | None) -> int | None:
    """How many classes were asked for; None: nobody asked."""
    if isinstance(class_names, str):
        raise ValueError(f"class_names is {class_names!r}; expected a list of names, such as [{class_names!r}]")
    if class_names is not None and (twice := [n for n, times in Counter(class_names).items() if times > 1]):
        raise ValueError(f"class_names has {', '.join(map(repr, twice))} more than once; give each class its own name")
    count = num_classes if class_names is None else len(class_names)
    if num_classes not in (None, count):
        raise ValueError(f"num_classes is {num_classes}, but there are {count} class_names; give one of the two")
    if count is not None and count < 1:
        raise ValueError(f"a model of {count} classes; give at least 1")
    return count


def _names(trained: Weights, count: int | None) -> Sequence[str] | None:
    """Of the model's classes, whose number alone is known: the weights' own ones if there are as many."""
    if count is None or trained.class_names is not None and len(trained.class_names) == count:
        return None
    return [f"new class {k}" for k in range(count)]


def _usual_count(cfg: CfgNode) -> int:
    """The classes of the data that a shipped config is for."""
    data = str(next(iter(cfg.DATASETS.TRAIN), ""))
    count = next((count for prefix, count in CLASSES.items() if data.startswith(prefix)), None)
    if count is None:
        raise ConfigError("the number of classes is not known: the config names no known data set; give num_classes")
    return count
