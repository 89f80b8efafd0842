"""`maskrcnn report RUN`: the page about a run, made again from what the run has left."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from yacs.config import CfgNode

from maskrcnn.config import ConfigError, load_config
from maskrcnn.engine.folder import config_file
from maskrcnn.engine.inputs import read_test_sets
from maskrcnn.engine.report.build import write_report


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
    print(f"report: {write_report(args.run, read_test_sets(config_of(args.run, args.overrides)))}")
    return 0


def config_of(run: Path, overrides: Sequence[str]) -> CfgNode:
    """The config that a run has left in its folder."""
    config = config_file(run)
    if not config.exists():
        raise ConfigError(f"{run} is no folder of a run: it has no config.yaml")
    return load_config(config, overrides)
