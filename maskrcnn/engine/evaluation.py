"""Evaluating a model on the test sets of a config."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from maskrcnn.data import Dataset, build_test_loader
from maskrcnn.data.loader import Mapper
from maskrcnn.engine import checks
from maskrcnn.engine.ema import WeightAverage
from maskrcnn.engine.folder import results_folder
from maskrcnn.engine.hooks.preemption import Interruptible, StopRequest
from maskrcnn.engine.inputs import unresized, with_targets
from maskrcnn.engine.pictures import beside_ground_truth
from maskrcnn.engine.precision import Precision
from maskrcnn.engine.state import untouched_rng
from maskrcnn.engine.validation import TOTAL_LOSS, validation_losses
from maskrcnn.engine.views import MultiViewInference
from maskrcnn.evaluation import CocoEvaluator, Evaluator, evaluate
from maskrcnn.modeling import Model
from maskrcnn.registry import EVALUATORS
from maskrcnn.structures import Sample

logger = logging.getLogger(__name__)


class Evaluation:
    """Evaluates a model on every test set: a call gives the metrics, and leaves the model and all randomness as found.

    With several test sets a metric's name begins with the set's. `metrics` are the names that a call will give; of the
    losses of TEST.LOSS only the total is among them. `figures` are the folders within `folder` in which a call leaves
    COCO's figures with their curves. `wanted` is False when there is nothing to evaluate.

    Args:
        request: ends an evaluation as soon as somebody asks to stop.
        ema: the weights to evaluate with, in the place of the model's.

    Raises:
        ValueError: evaluators that cannot work on these data, or give two metrics of one name; losses of what the data
            do not have.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: Model,
        test_sets: Mapping[str, Dataset],
        mapper: Mapper,
        folder: Path,
        precision: Precision,
        *,
        request: StopRequest | None = None,
        ema: WeightAverage | None = None,
    ) -> None:
        self.cfg, self.model, self.test_sets, self.mapper, self.folder = cfg, model, test_sets, mapper, folder
        self.precision = precision
        self.request = request or StopRequest()
        self.weights = ema.in_place if ema else nullcontext
        self.wanted = bool(test_sets and (cfg.TEST.EVALUATORS or cfg.TEST.LOSS))
        self.seconds = 0.0  # that the last evaluation took
        self.metrics: tuple[str, ...] = ()
        self.figures: tuple[str, ...] = ()
        for name, test_set in test_sets.items():
            evaluators = self.evaluators(name)
            if any(isinstance(evaluator, CocoEvaluator) for evaluator in evaluators):
                self.figures += (results_folder(folder, name, test_sets).relative_to(folder).as_posix(),)
            metrics = [metric for evaluator in evaluators for metric in evaluator.metrics]
            if repeated := sorted({metric for metric in metrics if metrics.count(metric) > 1}):
                raise ValueError(f"TEST.EVALUATORS: two of them give the metric {', '.join(repeated)}")
            if cfg.TEST.LOSS:
                checks.check_annotations(cfg, test_set)
                metrics.append(TOTAL_LOSS)
            self.metrics += tuple(self.prefix(name) + metric for metric in metrics)

    def __call__(self, views: MultiViewInference | None = None) -> dict[str, float]:
        """The metrics.

        Args:
            views: of the model, by which the evaluators' images are looked at instead.
        """
        if views is not None:
            logger.info("looking at each image in %d views (TEST.AUGMENTATION)", len(views.views))
        results: dict[str, float] = {}
        start = time.perf_counter()
        for name, test_set in self.test_sets.items():
            metrics: dict[str, float] = {}
            evaluators = self.evaluators(name)
            with untouched_rng(), self.weights():
                if evaluators:
                    loader = self.loader(test_set, self.mapper if views is None else unresized(self.mapper))
                    metrics |= evaluate(views or self.model, loader, evaluators, autocast=self.precision.autocast)
                if self.cfg.TEST.LOSS:
                    loader = self.loader(test_set, with_targets(self.mapper))
                    metrics |= validation_losses(self.model, loader, autocast=self.precision.autocast)
            for evaluator in evaluators:
                if hasattr(evaluator, "table"):
                    logger.info("%s, %d images:\n%s", name, len(test_set), evaluator.table())
            results |= {self.prefix(name) + metric: value for metric, value in metrics.items()}
        self.seconds = time.perf_counter() - start
        return results

    def prefix(self, name: str) -> str:
        return f"{name}/" if len(self.test_sets) > 1 else ""

    def loader(self, test_set: Dataset, mapper: Mapper) -> Interruptible[list[Sample]]:
        workers = self.cfg.DATALOADER.NUM_WORKERS
        loader = build_test_loader(test_set, mapper, batch_size=self.cfg.TEST.IMS_PER_BATCH, num_workers=workers)
        return Interruptible(loader, self.request)

    def evaluators(self, name: str) -> list[Evaluator]:
        folder = results_folder(self.folder, name, self.test_sets)
        return [
            EVALUATORS.get(kind)(
                dataset=self.test_sets[name],
                output_dir=folder,
                detections_per_image=self.cfg.TEST.DETECTIONS_PER_IMAGE,
            )
            for kind in self.cfg.TEST.EVALUATORS
        ]

    def pictures(self) -> Iterator[tuple[str, Any]]:
        """A few images of the first test set, ground truth beside predictions."""
        with untouched_rng(), self.weights():
            first = next(iter(self.test_sets.values()))
            yield from beside_ground_truth(self.model, first, self.mapper, autocast=self.precision.autocast)
