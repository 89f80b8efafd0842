"""`maskrcnn compare RUN RUN ...`: several runs on one page."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from yacs.config import CfgNode

from maskrcnn.cli.report import config_of
from maskrcnn.config import dump
from maskrcnn.data import Dataset, DatasetError
from maskrcnn.engine.inputs import read_test_sets
from maskrcnn.engine.report.compare import COMPARISON_FILE, ComparedRun, check_runs, write_comparison
from maskrcnn.engine.report.results import ReportError

KEY = re.compile(r"[A-Z]\w*(\.\w+)+(=.*)?", re.DOTALL)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="maskrcnn compare",
        usage="%(prog)s [-h] [--output FILE] RUN RUN ... [KEY VALUE ...]",
        description="Write one page about several runs: their figures with the differences to the first run, curves "
        "over each other, the same images side by side, and what differs in their configs. It needs the test images "
        "of one of the runs, and no model.",
        epilog="example: maskrcnn compare output/baseline output/longer",
    )
    p.add_argument("--output", type=Path, default=Path(COMPARISON_FILE), metavar="FILE", help="default: %(default)s")
    p.add_argument(
        "arguments",
        nargs="+",
        metavar="RUN",
        help="the output folders of runs, the one to compare with first; then config values for all of them, such as "
        "DATASETS.ROOT of another machine",
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_intermixed_args(argv)
    folders, overrides = split(args.arguments)
    check_runs(folders)
    if not args.output.parent.is_dir():
        raise ReportError(f"--output {args.output}: there is no folder {args.output.parent}")
    if args.output.is_dir():
        raise ReportError(f"--output {args.output} is a folder; name a file in it")
    configs = [config_of(folder, overrides) for folder in folders]
    read: dict[str, dict[str, Dataset]] = {}
    runs = [compared_run(folder, config, read) for folder, config in zip(folders, configs, strict=True)]
    write_comparison(runs, args.output)
    print(f"comparison: {args.output}")
    return 0


def split(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Folders, and the overrides from the first word on that is a config's key and no folder."""
    keys = (i for i, word in enumerate(arguments) if KEY.fullmatch(word) and not Path(word).exists())
    first = next(keys, len(arguments))
    return [Path(word) for word in arguments[:first]], list(arguments[first:])


def compared_run(folder: Path, config: CfgNode, read: dict[str, dict[str, Dataset]]) -> ComparedRun:
    """A run whose data cannot be read, as they may be on another machine, takes part without them."""
    try:
        return ComparedRun(folder, test_sets(config, read))
    except DatasetError as error:
        return ComparedRun(folder, {}, without_data=str(error))


def test_sets(config: CfgNode, read: dict[str, dict[str, Dataset]]) -> dict[str, Dataset]:
    """The test sets of a config, each file read once for all runs: `read` has those of earlier ones."""
    section = dump(CfgNode({key: config.DATASETS[key] for key in ("ROOT", "TEST", "PROBLEMS")}))
    if section not in read:
        read[section] = read_test_sets(config)
    return read[section]
