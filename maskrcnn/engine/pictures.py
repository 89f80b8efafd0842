"""A few images of a data set with their ground truth beside what a model finds in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from maskrcnn.data import Dataset
from maskrcnn.data.loader import Mapper
from maskrcnn.data.mappers import instances, read_recorded
from maskrcnn.evaluation import evaluation_mode
from maskrcnn.modeling import Model
from maskrcnn.structures import Proposals
from maskrcnn.visualization import draw_detections, draw_instances, draw_targets, sheet

SCORE_THRESHOLD = 0.5
PROPOSALS = 20  # of a model that gives those, the best


def beside_ground_truth(
    model: Model,
    dataset: Dataset,
    mapper: Mapper,
    *,
    count: int = 4,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Iterator[tuple[str, np.ndarray]]:
    """Names and pictures of `count` images, evenly spread over the data set and always the same ones.

    Each of the model's modules is left in the mode that it was in.
    """
    indices = {round(float(i)) for i in np.linspace(0, len(dataset) - 1, count)} if len(dataset) else set()
    with evaluation_mode(model):
        for i in sorted(indices):
            record = dataset[i]
            with torch.inference_mode(), autocast():
                found = model.inference([mapper(record, np.random.default_rng(0))])[0]
            image, names = read_recorded(record), dataset.class_names
            if isinstance(found, Proposals):
                best = found[:PROPOSALS]
                drawn = draw_instances(image, best.boxes, [0] * len(best), scores=best.scores, class_names=["object"])
            else:
                drawn = draw_detections(image, found, names, score_threshold=SCORE_THRESHOLD)
            pictures = [draw_targets(image, instances(record), names), drawn]
            yield f"predictions/{record.image_id}", sheet(pictures, titles=["ground truth", "predictions"], columns=2)
