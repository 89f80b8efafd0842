"""`maskrcnn show_predictions RUN`: one sheet with ground truth beside predictions on validation images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from maskrcnn.cli.show_data import CELL, CROWDED, choose, counted
from maskrcnn.data.datasets import dataset
from maskrcnn.data.mappers import keypoints, read_recorded
from maskrcnn.data.records import Dataset, ImageRecord, concatenate
from maskrcnn.engine.inputs import with_proposals
from maskrcnn.engine.predictor import Predictor
from maskrcnn.structures.masks import masks_of
from maskrcnn.visualization import draw_detections, draw_instances, fit, save_picture, sheet


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="maskrcnn show_predictions",
        description="Draw ground truth beside predictions, for images of the run's validation set.",
    )
    p.add_argument("run", type=Path, metavar="RUN", help="the output folder of a training run")
    p.add_argument("--count", type=int, default=12, metavar="N", help="images, the same in every run (12)")
    p.add_argument("--output", type=Path, metavar="FILE", help="the sheet (RUN/predictions.jpg)")
    p.add_argument("--score-threshold", type=float, default=0.5, metavar="P", help="the least score shown (0.5)")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (auto)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    if args.count < 1:
        p.error(f"--count is {args.count}; it must be at least 1")
    predictor = Predictor(args.run, device=args.device)
    if not predictor.cfg.DATASETS.TEST:
        p.error(f"{args.run}/config.yaml has no DATASETS.TEST to show images of")
    sets = predictor.cfg.DATASETS
    data = concatenate(
        with_proposals([dataset(spec, sets.ROOT, sets.PROBLEMS) for spec in sets.TEST], sets.PROPOSAL_FILES_TEST)
    )
    output = args.output or args.run / "predictions.jpg"
    save_picture(output, prediction_sheet(predictor, data, args.count, score_threshold=args.score_threshold))
    print(f"ground truth beside predictions: {output}")
    return 0


def prediction_sheet(predictor: Predictor, data: Dataset, count: int, *, score_threshold: float = 0.5) -> np.ndarray:
    """Ground truth and predictions side by side, two images in a row: (H, W, 3) uint8."""
    pictures, titles = [], []
    for i in tqdm(choose(data, count), desc="drawing", unit="img", disable=None, leave=False):
        record = data[i]
        image = read_recorded(record)
        detections = predictor.on_record(record)
        detections = detections[detections.scores >= score_threshold]
        scale = fit(record.size, CELL)
        pictures.append(draw_record(image, record, data.class_names, scale=scale))
        pictures.append(
            draw_detections(
                image, detections, predictor.class_names, scale=scale, show_labels=len(detections) <= CROWDED
            )
        )
        titles += [f"{record.path.name}: {counted(len(record.objects))}", f"predicted: {counted(len(detections))}"]
    heading = f"{data.name}: ground truth (left) beside predictions of at least {score_threshold:.0%} (right)"
    return sheet(pictures, titles=titles, columns=4, cell=CELL, heading=heading)


def draw_record(
    image: np.ndarray, record: ImageRecord, class_names: Sequence[str], *, scale: float = 1.0, **style: Any
) -> np.ndarray:
    """An image with its annotations, crowd regions among them; `style` goes to `draw_instances`."""
    objects = record.objects
    segmentations = [obj.segmentation for obj in objects if obj.segmentation is not None]
    return draw_instances(
        image,
        np.array([obj.box for obj in objects], np.float32).reshape(-1, 4),
        [obj.label for obj in objects],
        masks=masks_of(segmentations, record.size) if len(segmentations) == len(objects) else None,
        keypoints=keypoints(objects),
        crowd=[obj.crowd for obj in objects],
        class_names=class_names,
        scale=scale,
        show_labels=len(objects) <= CROWDED,
        **style,
    )
