"""`maskrcnn predict`: find the objects in images and videos; draw them, and write them as COCO JSON."""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from maskrcnn.cli.predict_inputs import (
    VIDEO_SUFFIXES,
    Frame,
    count_frames,
    frames,
    is_video,
    plan,
    read_image_ids,
)
from maskrcnn.cli.predict_json import FORMATS, DetectionsFile
from maskrcnn.cli.predict_pictures import Pictures
from maskrcnn.data.images import IMAGE_SUFFIXES
from maskrcnn.engine.predictor import Predictor
from maskrcnn.structures import Detections
from maskrcnn.visualization import draw_detections

Stream = Callable[[Iterable[np.ndarray]], Iterable[Detections]]


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="maskrcnn predict",
        description="Find objects in images and videos, draw them and write them as COCO JSON.",
        epilog="example: maskrcnn predict photos --run output/demo --output drawn --json drawn/found.json",
    )
    p.add_argument(
        "inputs",
        nargs="+",
        type=Path,
        metavar="INPUT",
        help="images, videos, folders with such in them, and patterns in quotes, such as 'photos/**/*.jpg'",
    )
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", type=Path, metavar="FOLDER", help="the output folder of a training run")
    source.add_argument("--config", "--config-file", type=Path, metavar="FILE", help="a config; needs --weights")
    p.add_argument("--weights", type=Path, metavar="FILE", help="weights other than the newest of the run")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (auto)")
    p.add_argument("--batch-size", type=int, default=1, metavar="N", help="images of one size at a time (1)")
    p.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="look at large images in square tiles of this side as well as in whole, for small objects",
    )
    p.add_argument(
        "--overlap", type=int, metavar="PIXELS", help="of neighbouring tiles: the size of small objects (tile / 4)"
    )
    p.add_argument("--score-threshold", type=float, default=0.5, metavar="P", help="the least score shown (0.5)")

    p.add_argument("--output", type=Path, metavar="FOLDER", help="where pictures and videos go")
    p.add_argument("--no-pictures", action="store_true", help="write JSON alone; --output is not needed then")
    p.add_argument("--json", type=Path, metavar="FILE", help="also write all detections")
    forms = "; ".join(f"{name}: {text}" for name, text in FORMATS.items())
    p.add_argument("--format", choices=FORMATS, default="coco", help=f"of the JSON file (coco). {forms}")
    p.add_argument(
        "--image-ids",
        type=Path,
        metavar="FILE",
        help="a COCO file whose images, by file name, say the ids to write",
    )

    p.add_argument("--color-by", choices=("class", "instance"), default="class", help="what a colour stands for")
    p.add_argument("--opacity", type=float, default=0.45, metavar="P", help="of the masks, 0 to 1 (0.45)")
    p.add_argument("--line-width", type=int, metavar="PIXELS", help="of boxes and outlines (by the image's size)")
    p.add_argument("--no-labels", action="store_true", help="no names and scores")
    p.add_argument("--mask-only", action="store_true", help="masks without boxes, names and keypoints")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """0; 1 when some of the files could not be read or written, after all others are done."""
    p = parser()
    args = p.parse_args(argv)
    check(p, args)
    jobs = plan(args.inputs, None if args.no_pictures else args.output)
    if not jobs:
        known_suffixes = " ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
        p.error(f"no images in {', '.join(map(str, args.inputs))}; known are {known_suffixes}")
    if args.image_ids and (videos := [source for source, _ in jobs if is_video(source)]):
        p.error(f"--image-ids is for images, but {videos[0]} is a video")
    known = read_image_ids(args.image_ids) if args.image_ids else None
    predictor = Predictor(args.run or args.config, weights=args.weights, device=args.device, batch_size=args.batch_size)
    stream: Stream = predictor.stream
    if args.tile:
        stream = partial(map, partial(predictor.tiled, tile=args.tile, overlap=args.overlap))

    failed: set[Path] = set()

    def report(source: Path, error: Exception) -> None:
        text = str(error) if str(source) in str(error) else f"{source}: {error}"
        tqdm.write(f"maskrcnn predict: {text}", file=sys.stderr)
        failed.add(source)

    num_frames = num_objects = 0
    with ExitStack() as stack:
        pictures = None if args.no_pictures else stack.enter_context(Pictures(drawing(args, predictor)))
        listed = None
        if args.json:
            file = DetectionsFile(args.json, args.format, predictor.category_ids, predictor.class_names)
            listed = stack.enter_context(file)
        wanted = (frame for frame in frames(jobs, known, report) if frame.source not in failed)
        bar = tqdm(wanted, total=count_frames(jobs), desc="predicting", unit="img", disable=None, dynamic_ncols=True)
        for frame, found in beside_detections(bar, stream):
            found = found[found.scores >= args.score_threshold]
            try:
                if pictures:
                    pictures.add(frame, found)
                if listed:
                    listed.add(frame, found)
            except (OSError, ValueError) as error:
                report(frame.source, error)
                continue
            num_frames += 1
            num_objects += len(found)
    parts = [f"{num_objects} objects in {num_frames} images"]
    parts += [] if args.no_pictures else [f"drawn in {args.output}"]
    parts += [f"listed in {args.json}"] if args.json else []
    print(", ".join(parts) + (f"; {len(failed)} failed" if failed else ""))
    return 1 if failed else 0


def check(p: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End the program with a message if arguments do not fit."""
    if args.config and not args.weights:
        p.error("--config needs --weights")
    for name in ("score_threshold", "opacity"):
        if not 0 <= getattr(args, name) <= 1:
            p.error(f"--{name.replace('_', '-')} is {getattr(args, name)}; it goes from 0 to 1")
    for name in ("line_width", "batch_size", "tile"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            p.error(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be at least 1")
    if args.overlap is not None and (args.tile is None or not 0 <= args.overlap < args.tile):
        p.error(f"--overlap is {args.overlap}; it needs --tile, and goes from 0 to less than that")
    if args.no_pictures and not args.json:
        p.error("--no-pictures leaves nothing to write; name a file with --json")
    if not args.no_pictures and args.output is None:
        p.error("--output is missing; name a folder for the pictures, or give --no-pictures")
    if args.json and args.json.is_dir():
        p.error(f"--json {args.json} is a folder; name a file")
    if args.output and args.output.exists() and not args.output.is_dir():
        p.error(f"--output {args.output} is a file; name a folder")
    if args.format == "coco-results" and not args.image_ids:
        p.error("--format coco-results names images by id alone, so it needs --image-ids")


def drawing(args: argparse.Namespace, predictor: Predictor) -> Callable[[np.ndarray, Detections], np.ndarray]:
    return partial(
        draw_detections,
        class_names=predictor.class_names,
        color_by=args.color_by,
        opacity=args.opacity,
        line_width=args.line_width,
        show_labels=not args.no_labels,
        mask_only=args.mask_only,
    )


def beside_detections(source: Iterable[Frame], stream: Stream) -> Iterator[tuple[Frame, Detections]]:
    """Frames with what is found in them; those that the predictor has read ahead wait here."""
    waiting: deque[Frame] = deque()

    def pixels() -> Iterator[np.ndarray]:
        for frame in source:
            waiting.append(frame)
            yield frame.pixels

    for found in stream(pixels()):
        yield waiting.popleft(), found
