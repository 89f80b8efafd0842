"""Figures that papers and model zoos published for the shipped configs, and what was measured beside them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from yacs.config import CfgNode

from maskrcnn.config import leaves, load_config
from maskrcnn.config.files import configs_folder, read_yaml, shipped_name
from maskrcnn.evaluation.tables import aligned

FOLDER = "published"  # of the manifests, one file for each source, among the shipped configs
LISTED = 8  # keys in a line

# A run may have other values of these without being another experiment.
INCIDENTAL = {
    *("OUTPUT_DIR", "SEED", "DETERMINISTIC", "COMPILE", "WRITERS", "IMPORTS", "MODEL.DEVICE", "MODEL.NUM_CLASSES"),
    *("DATASETS.ROOT", "DATASETS.TEST", "DATALOADER.NUM_WORKERS", "SOLVER.CHECKPOINT_PERIOD"),
    *("SOLVER.CHECKPOINTS_KEPT", "SOLVER.GRADIENT_CHECKPOINTING", "SOLVER.ACCUMULATE", "SOLVER.SKIP_NON_FINITE"),
    *("TEST.LOSS", "TEST.REPORT", "TEST.EVAL_PERIOD", "TEST.BEST_METRIC", "TEST.IMS_PER_BATCH", "TEST.EVALUATORS"),
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """One row of a published table.

    Args:
        config: the shipped config of this model, by its name.
        source, row: who published it, and where.
        data: what it was tested on, as the source calls it.
        test_sets: the registered data sets beside whose figures these may stand.
        metrics: in percent, under the names of the evaluators.
        name: of the model in the source's own zoo, if it has one.
    """

    config: str
    source: str
    row: str
    data: str
    test_sets: tuple[str, ...]
    metrics: Mapping[str, float]
    name: str = ""


def read_rows() -> list[Row]:
    """Every published row, source by source."""
    return [row for path in sorted((configs_folder() / FOLDER).glob("*.yaml")) for row in _rows(path)]


def _rows(path: Path) -> Iterator[Row]:
    manifest = read_yaml(path)
    for config, entries in manifest["results"].items():
        for entry in entries:
            words = {key: value for key, value in entry.items() if "/" not in key}
            metrics = {key: float(value) for key, value in entry.items() if "/" in key}
            test_sets = tuple(manifest["test_sets"][entry["data"]])
            yield Row(config, manifest["source"], test_sets=test_sets, metrics=metrics, **words)


def rows_of(files: Iterable[Path]) -> list[Row]:
    """The rows of the first of these files that has any.

    Args:
        files: a config and what it inherits from, the nearest first (`config.lineage`).
    """
    by_config: dict[str, list[Row]] = {}
    for row in read_rows():
        by_config.setdefault(row.config, []).append(row)
    return next((by_config[name] for name in map(shipped_name, files) if name in by_config), [])


def log_beside(
    measured: Mapping[str, float], test_sets: Sequence[str], cfg: CfgNode, files: Sequence[Path], *, trained: bool
) -> None:
    """Log what was measured beside what was published for the config, if anything was for these test sets.

    Args:
        measured: the metrics of an evaluation; of several test sets each name begins with its set's.
        test_sets: their names.
        cfg: the config that was used.
        files: the files it is from (`config.lineage`).
        trained: whether the run trained, so that what its weights started from counts.
    """
    rows = rows_of(files)
    tables = [
        text
        for row in rows
        for name in test_sets
        if name in row.test_sets and (text := beside(row, measured, name, several=len(test_sets) > 1))
    ]
    if tables:
        others = other_values(cfg, rows[0].config, trained=trained)
        some = ", ".join(others[:LISTED]) + (f" and {len(others) - LISTED} more" if len(others) > LISTED else "")
        heading = f"published for {rows[0].config}" + (f", here with other values for {some}" if others else "")
        logger.info("%s:\n%s", heading, "\n\n".join(tables))


def beside(row: Row, measured: Mapping[str, float], test_set: str, *, several: bool) -> str:
    """A table of the row's metrics: measured, published, their difference; "" if none was measured."""
    prefix = f"{test_set}/" if several else ""
    lines = [["", "measured", "published", "difference"]]
    for name, value in row.metrics.items():
        own = measured.get(prefix + name, -1.0)
        if own >= 0:  # -1, or NaN: there was nothing to measure
            lines.append([name, f"{own:.1f}", f"{value:.1f}", f"{own - value:+.1f}"])
    title = f"{row.source}, {row.row}, on {row.data}; measured on {test_set}"
    return f"{title}\n{aligned(lines)}" if len(lines) > 1 else ""


def other_values(cfg: CfgNode, name: str, *, trained: bool) -> list[str]:
    """The keys that a config has other values for than a shipped one, without those that change no experiment."""
    incidental = INCIDENTAL if trained else INCIDENTAL | {"MODEL.WEIGHTS"}
    own, shipped = (dict(leaves(tree, section=CfgNode)) for tree in (cfg, load_config(name)))
    keys = [*own, *(key for key in shipped if key not in own)]
    return [key for key in keys if key not in incidental and own.get(key) != shipped.get(key)]
