"""`maskrcnn report RUN`: the page about a run, made again from what the run has left."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from yacs.config import CfgNode

from maskrcnn.config import ConfigError, load_config
from maskrcnn.data import Dataset
from maskrcnn.engine.folder import INFERENCE, config_file
from maskrcnn.engine.inputs import read_test_sets
from maskrcnn.engine.report.build import write_report
from maskrcnn.engine.report.results import evaluated_folder
from maskrcnn.evaluation import CocoEvaluator
from maskrcnn.registry import EVALUATORS


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="maskrcnn report",
        description="Write RUN/report.html from the run's metrics and the results of its last evaluation. Training and "
        "--eval-only do so by themselves; it needs the test images, and no model.",
        epilog="example: maskrcnn report output/demo",
    )
    p.add_argument("run", type=Path, metavar="RUN", help="the output folder of a run")
    p.add_argument(
        "overrides", nargs="*", metavar="KEY VALUE", help="config values, such as DATASETS.ROOT of another machine"
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    cfg = config_of(args.run, args.overrides)
    test_sets = read_test_sets(cfg)
    print(f"report: {write_report(args.run, test_sets)}")
    inference = args.run / INFERENCE
    without = [name for name in test_sets if evaluated_folder(inference, name, test_sets) is None]
    for line in reasons(cfg, {name: test_sets[name] for name in without}, args.run):
        print(f"maskrcnn report: {line}", file=sys.stderr)
    return 0


def reasons(cfg: CfgNode, without: Mapping[str, Dataset], run: Path) -> Iterator[str]:
    """Why the page has no figures of some test sets, and what makes them, where anything does."""
    if images := [name for name, found in without.items() if not found.annotated]:
        yield f"no figures of {', '.join(images)}: these images have no annotations"
    names = ", ".join(name for name in without if name not in images)
    used = list(cfg.TEST.EVALUATORS)
    kinds = [EVALUATORS.get(name) for name in used]
    if names and not any(isinstance(kind, type) and issubclass(kind, CocoEvaluator) for kind in kinds):
        yield f"no figures of {names}: the page shows those of 'coco' and 'coco_keypoints'; TEST.EVALUATORS is {used}"
    elif names:
        arguments = shlex.join(["--eval-only", "--config", str(config_file(run)), "OUTPUT_DIR", str(run)])
        yield f"no figures of {names}; `tools/train_net.py {arguments}` makes them"


def config_of(run: Path, overrides: Sequence[str]) -> CfgNode:
    """The config that a run has left in its folder."""
    config = config_file(run)
    if not config.exists():
        raise ConfigError(f"{run} is no folder of a run: it has no config.yaml")
    return load_config(config, overrides)
