"""`maskrcnn predict`: find the objects in images and folders of images; draw them, and write them as COCO JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from maskrcnn.data.images import read_image
from maskrcnn.engine.predictor import Predictor
from maskrcnn.evaluation.coco import detections_to_coco, write_json
from maskrcnn.structures import Detections
from maskrcnn.visualization import draw_detections, save_picture

PICTURE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"))  # others are drawn as .png
IMAGE_SUFFIXES = PICTURE_SUFFIXES | {".jpe", ".gif", ".ppm", ".pgm"}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="maskrcnn predict", description="Find objects in images, draw them and write them as COCO JSON."
    )
    p.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="image files, and folders with images in them")
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", type=Path, metavar="FOLDER", help="the output folder of a training run")
    source.add_argument("--config", "--config-file", type=Path, metavar="FILE", help="a config; needs --weights")
    p.add_argument("--weights", type=Path, metavar="FILE", help="weights other than the newest of the run")
    p.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the pictures go")
    p.add_argument("--json", type=Path, metavar="FILE", help="also write all detections, as a COCO file with scores")
    p.add_argument("--score-threshold", type=float, default=0.5, metavar="P", help="the least score shown (0.5)")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (auto)")
    p.add_argument("--color-by", choices=("class", "instance"), default="class", help="what a colour stands for")
    p.add_argument("--opacity", type=float, default=0.45, metavar="P", help="of the masks, 0 to 1 (0.45)")
    p.add_argument("--line-width", type=int, metavar="PIXELS", help="of boxes and outlines (by the image's size)")
    p.add_argument("--no-labels", action="store_true", help="no names and scores")
    p.add_argument("--mask-only", action="store_true", help="masks without boxes, names and keypoints")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """0; 1 when some of the images could not be read or written, after all others are done."""
    p = parser()
    args = p.parse_args(argv)
    if args.config and not args.weights:
        p.error("--config needs --weights")
    if not 0 <= args.score_threshold <= 1:
        p.error(f"--score-threshold is {args.score_threshold}; it goes from 0 to 1")
    if not 0 <= args.opacity <= 1:
        p.error(f"--opacity is {args.opacity}; it goes from 0 to 1")
    if args.line_width is not None and args.line_width < 1:
        p.error(f"--line-width is {args.line_width}; it must be at least 1")
    if args.json and args.json.is_dir():
        p.error(f"--json {args.json} is a folder; name a file")
    if args.output.exists() and not args.output.is_dir():
        p.error(f"--output {args.output} is a file; name a folder")
    jobs = plan(args.inputs, args.output)
    if not jobs:
        p.error(f"no images in {', '.join(map(str, args.inputs))}; known are {' '.join(sorted(IMAGE_SUFFIXES))}")
    predictor = Predictor(args.run or args.config, weights=args.weights, device=args.device)
    style = {
        "color_by": args.color_by,
        "opacity": args.opacity,
        "line_width": args.line_width,
        "show_labels": not args.no_labels,
        "mask_only": args.mask_only,
    }
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    failures = 0
    for source, target in tqdm(jobs, desc="predicting", unit="img", disable=None, dynamic_ncols=True):
        try:
            image = read_image(source)
            detections = predictor(image)
            detections = detections[detections.scores >= args.score_threshold]
            save_picture(target, draw_detections(image, detections, predictor.class_names, **style))
        except (OSError, ValueError) as error:
            text = str(error) if str(source) in str(error) else f"{source}: {error}"
            tqdm.write(f"maskrcnn predict: {text}", file=sys.stderr)
            failures += 1
            continue
        images.append(_image_entry(len(images) + 1, source, image))
        annotations += annotations_of(detections, len(images), predictor.category_ids, first_id=len(annotations) + 1)
    if args.json:
        categories = zip(predictor.category_ids, predictor.class_names, strict=True)
        named = [{"id": category, "name": name} for category, name in categories]
        write_json(args.json, {"images": images, "annotations": annotations, "categories": named})
    done = f"{len(annotations)} objects in {len(images)} images, drawn in {args.output}"
    print(done + (f", listed in {args.json}" if args.json else "") + (f"; {failures} failed" if failures else ""))
    return 1 if failures else 0


def plan(inputs: Sequence[Path], output: Path) -> list[tuple[Path, Path]]:
    """Each image once, in order, with the picture to write: its own name, and below the output the folders it came
    from; where two images would share a picture, the later one gets the name of its folder, or a number, in front.

    Raises:
        ValueError: a picture would overwrite its image.
    """
    jobs: list[tuple[Path, Path]] = []
    seen: set[Path] = set()
    taken: set[Path] = set()
    for source, relative in _images(inputs, output):
        if source.resolve() in seen:
            continue
        seen.add(source.resolve())
        suffix = relative.suffix if relative.suffix.lower() in PICTURE_SUFFIXES else f"{relative.suffix}.png"
        for target in _names(output / relative.parent, source.resolve().parent.name, f"{relative.stem}{suffix}"):
            if target not in taken:
                break
        taken.add(target)
        jobs.append((source, target))
    if overwritten := seen & {target.resolve() for target in taken}:
        raise ValueError(f"--output {output} would overwrite the image {min(overwritten)}; name another folder")
    return jobs


def _images(inputs: Sequence[Path], output: Path) -> Iterator[tuple[Path, Path]]:
    """The image files with their paths below the folder that was named. Pictures of an earlier run are none."""
    for path in inputs:
        if not path.is_dir():
            yield path, Path(path.name)
            continue
        for file in sorted(path.rglob("*")):
            inside_output = output.resolve() in file.resolve().parents and output.resolve() != path.resolve()
            if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file() and not inside_output:
                yield file, file.relative_to(path)


def _names(folder: Path, origin: str, name: str) -> Iterator[Path]:
    yield folder / name
    yield folder / f"{origin}_{name}"
    number = 2
    while True:
        yield folder / f"{origin}_{number}_{name}"
        number += 1


def _image_entry(image_id: int, source: Path, image: np.ndarray) -> dict[str, Any]:
    return {"id": image_id, "file_name": source.as_posix(), "height": image.shape[0], "width": image.shape[1]}


def annotations_of(
    detections: Detections, image_id: int, category_ids: Sequence[int], *, first_id: int
) -> list[dict[str, Any]]:
    """An image's detections as COCO annotations, with a score each."""
    annotations = detections_to_coco(detections, image_id, category_ids)
    for i, annotation in enumerate(annotations):
        rle = annotation.get("segmentation")
        area = float(coco_mask.area(rle)) if rle else annotation["bbox"][2] * annotation["bbox"][3]
        annotation |= {"id": first_id + i, "area": area, "iscrowd": 0}
    return annotations
