"""`maskrcnn check_data`: find what is wrong with a data set in COCO format before training on it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from maskrcnn.checkpoint import write_atomically
from maskrcnn.config import data_root
from maskrcnn.data.checking import POLICIES, Report, check_coco, compare, json_of, text_of
from maskrcnn.data.datasets import files_of
from maskrcnn.registry import DATASETS, closest

EXAMPLES = """\
examples:
  maskrcnn check_data --json cells/train.json --images cells/train
  maskrcnn check_data --json cells/train.json --images cells/train --val-json cells/val.json --val-images cells/val
  maskrcnn check_data --json cells/train.json --images cells/train --policy repair --write cells/train_repaired.json
  maskrcnn check_data --json coco_2017_train --images-checked 500

exit code: 0 if all is well (there may be notes), 1 if there are errors or warnings, 2 for a wrong command line"""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="maskrcnn check_data",
        description="Find what is wrong with a data set in COCO format: annotations, image files, and what a training "
        "and a validation set have in common. Every problem is named with its file, entry, value and remedy.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--json", required=True, metavar="FILE", help="the annotation file, or a registered data set's name")
    p.add_argument("--images", type=Path, metavar="FOLDER", help="of its images; without it they are not looked for")
    p.add_argument("--val-json", metavar="FILE", help="a second file, to validate on: is checked and compared too")
    p.add_argument("--val-images", type=Path, metavar="FOLDER", help="of the images of that one")
    p.add_argument(
        "--images-checked",
        type=number_or_all,
        default=100,
        metavar="N",
        help="image files that are read whole, a fixed sample of N of them, or all (100)",
    )
    p.add_argument(
        "--policy",
        choices=POLICIES,
        default="error",
        help="what to make of the first file: drop entries with an error; repair what can be mended, warnings too, and "
        "drop the rest; or only report (error, the default)",
    )
    p.add_argument("--write", type=Path, metavar="FILE", help="where to write what --policy drop or repair leaves")
    p.add_argument("--report", type=Path, metavar="FILE", help="also write every problem and every change as JSON")
    p.add_argument("--root", help="of the registered data sets (DATASETS.ROOT's default)")
    return p


def number_or_all(text: str) -> int | None:
    """A number of images; None for all."""
    if text == "all":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor all")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    if args.write and args.policy == "error":
        p.error("--write needs --policy drop or --policy repair")
    if args.val_images and not args.val_json:
        p.error("--val-images needs --val-json")
    for path in filter(None, (args.write, args.report)):
        if path.is_dir():
            p.error(f"{path} is a folder; name a file")
        if not path.absolute().parent.is_dir():
            p.error(f"there is no folder {path.parent} to write {path.name} in")
    train = located(args.json, args.images, args.root)
    report = check_coco(*train, policy=args.policy, decode=args.images_checked)
    reports = [report]
    if args.val_json:
        val = located(args.val_json, args.val_images, args.root)
        val_report = check_coco(*val, decode=args.images_checked)
        reports.append(compare(report, train[1], val_report, val[1]))
    for each in reports:
        print(text_of(each))
    if args.report:
        write_atomically(args.report, json.dumps([json_of(each) for each in reports], indent=1).encode())
    if args.write:
        write_content(report, args.write)
    return 0 if all(each.clean for each in reports) else 1


def located(json_path: str, images: Path | None, root: str | None) -> tuple[Path, Path | None]:
    """The annotation file and the folder of images; those of a registered data set by its name.

    Raises:
        ValueError: neither a file nor a name, or no file of this name's.
    """
    path = Path(json_path).expanduser()
    if path.is_file():
        return path, images.expanduser() if images else None
    if json_path in DATASETS.names():
        return files_of(json_path, root or data_root()[0])
    raise ValueError(f"{json_path}: no such file, and no registered data set{closest(json_path, DATASETS.names())}")


def write_content(report: Report, path: Path) -> None:
    if report.refused:
        print(f"maskrcnn check_data: {path} is not written, since no policy helps against this", file=sys.stderr)
        return
    assert report.content is not None
    write_atomically(path, json.dumps(report.content).encode())
    images, annotations = (len(report.content[key]) for key in ("images", "annotations"))
    print(f"written: {path}, {images} images with {annotations} annotations")
