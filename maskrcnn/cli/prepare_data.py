"""`maskrcnn prepare_data`: put known data sets where they are looked for, and convert others to the COCO format."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from maskrcnn.config import data_root
from maskrcnn.data.converters import labelme_to_coco, read_names, voc_to_coco, yolo_to_coco
from maskrcnn.data.layouts import LAYOUTS, Layout
from maskrcnn.data.linking import advice, find_parts, put_part
from maskrcnn.data.records import DatasetError
from maskrcnn.evaluation.coco import write_json

FORMATS: dict[str, tuple[Callable[..., dict[str, Any]], str]] = {
    "voc": (voc_to_coco, "PASCAL VOC: an .xml file for each image, with boxes"),
    "yolo": (yolo_to_coco, "YOLO: a .txt file for each image, with boxes or polygons"),
    "labelme": (labelme_to_coco, "LabelMe: a .json file for each image, with polygons, rectangles and circles"),
}
SHOWN = 20  # names in a line
BOX_CONFIG = "mask_rcnn/faster_rcnn_r50_fpn_1x_coco"


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="maskrcnn prepare_data",
        description="Link a known data set into the data root, or convert annotations to the COCO format.",
        epilog="examples: maskrcnn prepare_data coco2017 --source ~/Downloads; "
        "maskrcnn prepare_data yolo --source cells/images/train --json cells/train.json; "
        "maskrcnn prepare_data WHAT --help tells the options of each",
    )
    p.add_argument("--list", action="store_true", help="show the known data sets, and which are complete in the root")
    _add_root(p, default=None)
    what = p.add_subparsers(dest="what", metavar="WHAT", title="WHAT is one of")
    for name, layout in LAYOUTS.items():
        known = what.add_parser(
            name,
            help=layout.title,
            description=f"Find {layout.title} where it was unpacked, and link it into the data root.",
        )
        known.add_argument(
            "--source", type=Path, required=True, metavar="FOLDER", help="where it was unpacked, or any folder above"
        )
        known.add_argument("--copy", action="store_true", help="copy instead of linking")
        _add_root(known, default=argparse.SUPPRESS)
    for name, (_, title) in FORMATS.items():
        other = what.add_parser(name, help=title, description=f"Convert to the COCO format. {title}.")
        other.add_argument("--source", type=Path, required=True, metavar="FOLDER", help="the annotations and images")
        other.add_argument("--json", type=Path, required=True, metavar="FILE", help="the annotation file to write")
        other.add_argument(
            "--names",
            type=Path,
            metavar="FILE",
            help="class names in their order, one a line, or a .yaml file with 'names'; the same for training and "
            "validation data",
        )
        if name == "voc":
            other.add_argument("--split", metavar="NAME", help="only the images of ImageSets/Main/NAME.txt")
            other.add_argument(
                "--difficult-as-crowd", action="store_true", help="do not train on difficult objects, nor count them"
            )
    return p


def _add_root(p: argparse.ArgumentParser, default: str | None) -> None:
    """`default`: SUPPRESS in a subparser, which would else overwrite what came before its name."""
    p.add_argument(
        "--root",
        type=Path,
        default=default,
        metavar="FOLDER",
        help="the data root ($MASKRCNN_DATASETS, else $DETECTRON2_DATASETS, else ./datasets)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """0; 1 when something is missing or wrong in the data."""
    p = parser()
    args = p.parse_args(argv)
    if args.list == bool(args.what):
        p.error("say either --list or what to prepare, such as coco2017 or yolo; --help shows all")
    root = Path(args.root or data_root()[0]).expanduser()
    if root.exists() and not root.is_dir():
        p.error(f"the data root {root} is a file; name a folder with --root")
    if args.list:
        print(overview(root))
        return 0
    source = args.source.expanduser()
    if not source.is_dir():
        p.error(f"--source {source}: no such folder")
    if args.what in FORMATS and args.json.is_dir():
        p.error(f"--json {args.json} is a folder; name a file")
    if args.what in FORMATS and args.names and not args.names.is_file():
        p.error(f"--names {args.names}: no such file")
    try:
        if args.what in FORMATS:
            return convert(args, source)
        return prepare(LAYOUTS[args.what], source, root, copy=args.copy)
    except (DatasetError, OSError) as error:
        print(f"maskrcnn prepare_data: {error}", file=sys.stderr)
        return 1


def overview(root: Path) -> str:
    """The known data sets, and what each still lacks in the data root."""
    lines = [f"data root: {root.absolute()}"]
    for name, layout in LAYOUTS.items():
        lines += ["", f"{name}: {layout.title}, {layout.page}"]
        for data_set, parts in layout.data_sets.items():
            lacks = [f"{part.path} {lack}" for part in parts if (lack := part.lack(root / part.path))]
            lines.append(f"  {data_set}: {'; '.join(lacks) or 'complete'}")
    return "\n".join(lines)


def prepare(layout: Layout, source: Path, root: Path, *, copy: bool) -> int:
    """Link each part that was unpacked; tell what was done, what is missing and where to get it; the exit code."""
    unpacked = find_parts(source, layout.parts)
    problems = 0
    for part in layout.parts:
        try:
            done = put_part(part, unpacked.places.get(part.path), root, copy=copy)
        except DatasetError as error:
            done, problems = str(error), problems + 1
        if not done:
            done, problems = advice(part, unpacked), problems + 1
        print(f"{part.path}: {done}", flush=True)
    if problems:
        print(f"\n{layout.title}: {problems} of {len(layout.parts)} parts are not in {root.absolute()}")
        print(f"official page: {layout.page}; unpack below {source} and run this again")
        known = {part.archive for part in layout.parts}
        if others := [str(path) for path in unpacked.archives if path.name not in known]:
            print(f"other archives there, not unpacked: {_some(others)}")
        return 1
    print(f"\n{layout.title}: complete in {root.absolute()}, as {', '.join(layout.data_sets)}")
    if root.resolve() != Path(data_root()[0]).expanduser().resolve():
        print(f"for the other commands to find it: export MASKRCNN_DATASETS={root.absolute()}")
    return 0


def convert(args: argparse.Namespace, source: Path) -> int:
    """Write the COCO-format file, and tell what is in it and how to train on it; the exit code."""
    options: dict[str, Any] = {"class_names": read_names(args.names) if args.names else None}
    if args.what == "voc":
        options |= {"split": args.split, "difficult_as_crowd": args.difficult_as_crowd}
    content = FORMATS[args.what][0](source, **options)
    write_json(args.json, content)
    print(summary(content, args.json, source))
    return 0


def summary(content: dict[str, Any], json_path: Path, images: Path) -> str:
    """What was converted, and how to train on it."""
    annotations = content["annotations"]
    masks = sum("segmentation" in annotation for annotation in annotations)
    names = [category["name"] for category in content["categories"]]
    counts = f"{len(content['images'])} images, {len(annotations)} objects, {masks} of them with masks"
    entry = yaml.safe_dump(
        {"JSON": str(json_path), "IMAGES": str(images)}, default_flow_style=True, sort_keys=False, width=10**6
    ).strip()
    lines = [f"{json_path}: {counts}; {len(names)} classes: {_some(names)}", "", "to train on it:"]
    lines += ["DATASETS:", f"  TRAIN: {entry}"]
    if masks < len(annotations):
        lines += ["", f"objects without masks train only models without a mask head, such as {BOX_CONFIG}"]
    return "\n".join(lines)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
