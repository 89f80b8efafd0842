"""What a run reads: its data sets, checked, and the mappers that make samples of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from yacs.config import CfgNode

from maskrcnn.checkpoint import write_atomically
from maskrcnn.data import Dataset, InstanceMapper, RandomHorizontalFlip, ResizeShortestEdge, concatenate, dataset
from maskrcnn.data.loader import Mapper
from maskrcnn.data.proposal_files import read_proposals
from maskrcnn.distributed import is_main_process
from maskrcnn.engine import checks

logger = logging.getLogger(__name__)

CHANGES_FILE = "data_problems.json"
MAPPERS = {"instance": InstanceMapper}  # by a model's task


def build_mappers(cfg: CfgNode, task: str) -> tuple[Mapper, Mapper]:
    """The mappers of training and of testing, with the transforms of INPUT.

    Raises:
        ValueError: no mapper for this task, or sizes that make no sense.
    """
    if task not in MAPPERS:
        raise ValueError(f"no way to feed a model of task {task!r}; known tasks: {', '.join(MAPPERS)}")
    sizes = cfg.INPUT
    try:
        train_resize = ResizeShortestEdge(
            sizes.MIN_SIZE_TRAIN, sizes.MAX_SIZE_TRAIN, sizes.MIN_SIZE_TRAIN_SAMPLING, rounding=sizes.SIZE_ROUNDING
        )
        test_resize = ResizeShortestEdge((sizes.MIN_SIZE_TEST,), sizes.MAX_SIZE_TEST, rounding=sizes.SIZE_ROUNDING)
    except ValueError as error:
        raise ValueError(f"INPUT.MIN_SIZE_* and MAX_SIZE_*: {error}") from error
    flips = [RandomHorizontalFlip()] if sizes.RANDOM_FLIP == "horizontal" else []
    mapper = MAPPERS[task]
    return mapper([train_resize, *flips], training=True), mapper([test_resize], training=False)


def with_targets(mapper: Mapper) -> Mapper:
    """A mapper with the transforms of testing that also attaches the ground truth."""
    assert isinstance(mapper, InstanceMapper)
    return InstanceMapper(mapper.transforms, training=True)


def unresized(mapper: Mapper) -> Mapper:
    """A mapper of testing that leaves images as their files have them, for who makes views of them (`views`)."""
    assert isinstance(mapper, InstanceMapper)
    return InstanceMapper([], training=False)


def read_data(cfg: CfgNode) -> tuple[Dataset, dict[str, Dataset]]:
    train_sets = [dataset(spec, cfg.DATASETS.ROOT, cfg.DATASETS.PROBLEMS) for spec in cfg.DATASETS.TRAIN]
    for train_set in train_sets:
        checks.check_annotated(train_set)
    train_set = concatenate(with_proposals(train_sets, cfg.DATASETS.PROPOSAL_FILES_TRAIN))
    checks.check_annotations(cfg, train_set)
    test_sets = read_test_sets(cfg, proposals=True)
    for test_set in test_sets.values():
        checks.check_same_classes(train_set.class_names, train_set.source, test_set)
        if hint := checks.shared_images_hint(train_set, test_set):
            logger.warning(hint)
    for found in (train_set, *test_sets.values()):
        checks.check_image_files(found)
    list_changes(Path(cfg.OUTPUT_DIR).expanduser(), [*train_sets, *test_sets.values()])
    return train_set, test_sets


def read_test_sets(cfg: CfgNode, *, proposals: bool = False) -> dict[str, Dataset]:
    """By name; a name that stands for two of them gets a number.

    Args:
        proposals: with those of their files, for who runs a model on them.
    """
    test_sets: dict[str, Dataset] = {}
    for spec in cfg.DATASETS.TEST:
        found = dataset(spec, cfg.DATASETS.ROOT, cfg.DATASETS.PROBLEMS)
        same = sum(other.name == found.name for other in test_sets.values())
        test_sets[f"{found.name}_{same + 1}" if same else found.name] = found
    files = cfg.DATASETS.PROPOSAL_FILES_TEST if proposals else ()
    return dict(zip(test_sets, with_proposals(test_sets.values(), files), strict=True))


def with_proposals(datasets: Iterable[Dataset], files: Sequence[str]) -> list[Dataset]:
    """The data sets, each with the proposals of its file; without files as they are.

    Raises:
        DatasetError: a file is missing, or not one of its data set's proposals.
    """
    if not files:
        return list(datasets)
    pairs = zip(datasets, files, strict=True)
    return [found.with_proposals(read_proposals(Path(file).expanduser(), found)) for found, file in pairs]


def list_changes(folder: Path, datasets: Sequence[Dataset]) -> None:
    """Write down what was left out or mended, by annotation file, where there is such a thing."""
    path = folder / CHANGES_FILE
    if not is_main_process():
        return
    changes = {found.source: [asdict(change) for change in found.changes] for found in datasets if found.changes}
    if changes:
        earlier = json.loads(path.read_text()) if path.exists() else {}  # training's, when the run is evaluated
        write_atomically(path, json.dumps(earlier | changes, indent=1).encode())
        logger.warning("what was left out of the data, or mended, is listed in %s", path)
