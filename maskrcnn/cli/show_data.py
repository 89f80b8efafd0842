"""`maskrcnn show_data`: draw a data set's annotations as the model sees them, after every transform."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from yacs.config import CfgNode

from maskrcnn.config import load_config
from maskrcnn.data.datasets import dataset
from maskrcnn.data.loader import Mapper
from maskrcnn.data.records import Dataset, ImageRecord, concatenate
from maskrcnn.data.transforms import to_hwc
from maskrcnn.engine.inputs import build_mappers, with_targets
from maskrcnn.registry import MODELS
from maskrcnn.structures import Instances, Sample
from maskrcnn.visualization import draw_targets, fit, save_picture, sheet

CELL = (360, 480)  # room for one picture on a sheet
CROWDED = 25  # more names than this cover the objects
SEED = 0  # of the choice of images, so that two sheets can be compared


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="maskrcnn show_data",
        description="Draw images with their annotations after every transform: what the model sees. Crowd regions, "
        "which it is not trained on, are hatched.",
        epilog="example: maskrcnn show_data --config demo/shapes INPUT.RANDOM_FLIP none",
    )
    p.add_argument(
        "--config", "--config-file", required=True, metavar="FILE", help="a file, or a shipped config's name"
    )
    p.add_argument(
        "--split", choices=("train", "test"), default="train", help="DATASETS.TRAIN or DATASETS.TEST (train)"
    )
    p.add_argument("--count", type=int, default=16, metavar="N", help="images, the same in every run (16)")
    p.add_argument(
        "--output",
        type=Path,
        default=Path("data.jpg"),
        metavar="PATH",
        help="a picture, such as sheet.jpg, for one sheet; else a folder, for a picture of each image (data.jpg)",
    )
    p.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config values, also as KEY=VALUE")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_intermixed_args(argv)  # intermixed: a flag after the overrides counts
    if args.count < 1:
        p.error(f"--count is {args.count}; it must be at least 1")
    cfg = load_config(args.config, args.overrides)
    specs = cfg.DATASETS.TRAIN if args.split == "train" else cfg.DATASETS.TEST
    if not specs:
        p.error(f"DATASETS.{args.split.upper()} is empty: there is nothing to show")
    data = concatenate([dataset(spec, cfg.DATASETS.ROOT, cfg.DATASETS.PROBLEMS) for spec in specs])
    mapper = mapper_of(cfg, args.split)
    chosen = tqdm(choose(data, args.count), desc="drawing", unit="img", disable=None, leave=False)
    if args.output.suffix and not args.output.is_dir():
        save_picture(args.output, data_sheet(data, mapper, chosen, heading=f"{data.name}, as in {args.split}ing"))
    else:
        for record, sample, crowd in samples_of(data, mapper, chosen):
            picture = draw_sample(sample, data.class_names, crowd=crowd)
            save_picture(args.output / f"{record.path.stem}_{record.image_id}.jpg", picture)
    print(f"annotations as the model sees them: {args.output}")
    return 0


def mapper_of(cfg: CfgNode, split: str) -> Mapper:
    """The mapper of training; or one with the transforms of testing that also keeps the ground truth."""
    model: Any = MODELS.get(cfg.MODEL.NAME)
    train_mapper, test_mapper = build_mappers(cfg, model.task)
    return train_mapper if split == "train" else with_targets(test_mapper)


def samples_of(
    data: Dataset, mapper: Mapper, indices: Iterable[int]
) -> Iterator[tuple[ImageRecord, Sample, Instances | None]]:
    """Records, samples, and the crowd regions that no model is given, as they lie in the sample's image.

    An image's random transforms depend on its place in the data set alone.
    """
    for i in indices:
        record = data[i]
        sample = mapper(record, np.random.default_rng([SEED, i]))
        crowd = [replace(obj, crowd=False) for obj in record.objects if obj.crowd]  # or the mapper would drop them
        there = replace(record, objects=crowd)  # transforms draw the same random numbers whatever the objects
        yield record, sample, mapper(there, np.random.default_rng([SEED, i])).targets if crowd else None


def data_sheet(data: Dataset, mapper: Mapper, indices: Iterable[int], *, heading: str = "") -> np.ndarray:
    """Samples on one sheet, each with its file, its size for the network and its number of objects."""
    pictures, titles = [], []
    for record, sample, crowd in samples_of(data, mapper, indices):
        assert sample.targets is not None
        pictures.append(draw_sample(sample, data.class_names, crowd=crowd, scale=fit(sample.size, CELL)))
        height, width = sample.size
        titles.append(f"{record.path.name}  {width} x {height}, {counted(len(sample.targets))}")
    return sheet(pictures, titles=titles, columns=4, cell=CELL, heading=heading)


def draw_sample(
    sample: Sample, class_names: Sequence[str], *, crowd: Instances | None = None, scale: float = 1.0
) -> np.ndarray:
    """A sample's image with its targets and the crowd regions of its frame, (H * scale, W * scale, 3) uint8."""
    assert sample.targets is not None
    image = to_hwc(sample.image).round().clip(0, 255).astype(np.uint8)
    show_labels = len(sample.targets) <= CROWDED
    return draw_targets(image, sample.targets, class_names, crowd=crowd, scale=scale, show_labels=show_labels)


def choose(data: Dataset, count: int) -> list[int]:
    """Images with objects, as far as there are so many, picked by a fixed seed."""
    order = np.random.default_rng(SEED).permutation(len(data))
    with_objects_first = order[np.argsort(data.num_objects[order] == 0, kind="stable")]
    return sorted(with_objects_first[:count].tolist())


def counted(number: int) -> str:
    return f"{number} object{'' if number == 1 else 's'}"
