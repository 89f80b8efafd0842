"""The parts of a training run, each built once, and the hooks around them."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from yacs.config import CfgNode

from maskrcnn import env
from maskrcnn.checkpoint import Checkpointer, Weights, merge, read_weights
from maskrcnn.config import dump
from maskrcnn.data import Dataset, build_train_loader
from maskrcnn.data.loader import Mapper
from maskrcnn.distributed import is_main_process, rank, world_size
from maskrcnn.engine import checks, logs
from maskrcnn.engine.diagnosis import first_non_finite
from maskrcnn.engine.ema import WeightAverage
from maskrcnn.engine.evaluation import Evaluation
from maskrcnn.engine.hooks import (
    Averaging,
    Checkpointing,
    FiniteGuard,
    KeepBest,
    Logging,
    Pictures,
    Preemption,
    Profiling,
    Reporting,
    StopRequest,
)
from maskrcnn.engine.inputs import build_mappers, read_data
from maskrcnn.engine.needs import follow, fulfilled
from maskrcnn.engine.precision import Precision
from maskrcnn.engine.report.build import report_on
from maskrcnn.engine.report.results import Evaluated
from maskrcnn.engine.solver import build_optimizer
from maskrcnn.engine.state import TrainingState, agree_on_seed, load_weights, seed_everything, seed_of_rank
from maskrcnn.engine.trainer import Hook
from maskrcnn.engine.writers import build_writers
from maskrcnn.modeling import Model, build_model
from maskrcnn.modeling.generalized_rcnn import RegionModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """What a training run is made of. `cfg` has the class count and the seed filled in."""

    cfg: CfgNode
    start: int  # first iteration
    train_set: Dataset
    test_sets: dict[str, Dataset]
    test_mapper: Mapper
    state: TrainingState
    batches: Iterator[list[Any]]
    skipped: int  # steps that were left out before the start
    finished: bool  # the run had ended, and this may be all of it
    needs: Mapping[str, Any]  # of the weights that it started from

    @property
    def model(self) -> Model:
        return self.state.model


def build_parts(
    cfg: CfgNode,
    device: torch.device,
    precision: Precision,
    checkpoint: dict[str, Any] | None,
    origins: Mapping[str, str] | None = None,
) -> Parts:
    """Read weights and data, and build model, optimizer and loader from a config.

    Args:
        checkpoint: of the run to go on with, which says where to start and stands in for MODEL.WEIGHTS; its state is
            not restored here.
        origins: of the config's values, as far as known (`engine.needs.follow`).
    """
    if checkpoint:
        weights = Weights(tensors={}, source=checkpoint["source"], needs=checkpoint.get("needs", {}))
    else:
        weights = merge([read_weights(spec) for spec in cfg.MODEL.WEIGHTS])
    cfg = follow(cfg, weights.needs, weights.source, origins)
    train_set, test_sets = read_data(cfg)
    if checkpoint:
        checks.check_same_classes(checkpoint["class_names"], checkpoint["source"], train_set)
    cfg = checks.fill_in_classes(cfg, train_set)
    cfg = checks.changed(cfg, "", SEED=agree_on_seed(checkpoint["seed"] if checkpoint and cfg.SEED < 0 else cfg.SEED))
    _log_beginning(cfg, train_set, test_sets)
    seed_everything(cfg.SEED)
    model = build_model(cfg)
    if weights.tensors:
        _start_from(weights, model, cfg, train_set.class_names)
    model.to(memory_format=torch.channels_last).to(device)
    if cfg.COMPILE:
        model.compile_parts()
    if cfg.SOLVER.GRADIENT_CHECKPOINTING:
        model.checkpoint_parts()
    optimizer, scaler = build_optimizer(model, cfg.SOLVER), precision.scaler()  # freezes what LR_FACTORS says
    ema = WeightAverage(model, cfg.SOLVER.EMA) if cfg.SOLVER.EMA else None
    if rank() > 0:  # all have the same weights so far, and draw their own random numbers from here on
        seed_everything(seed_of_rank(cfg.SEED))
    logger.info("%s on %s: %s", type(model).__name__, device, checks.describe_parameters(model))
    if isinstance(model, RegionModel) and (unread := model.unread_levels()):
        logger.info("no stage reads %s: what computes these levels alone does not learn", ", ".join(unread))
    logger.info("computing in %s", precision)
    train_mapper, test_mapper = build_mappers(cfg, model.task)
    start = checkpoint["iteration"] + 1 if checkpoint else 0
    batches = build_train_loader(
        train_set,
        train_mapper,
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        seed=cfg.SEED,
        aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=cfg.DATALOADER.MIN_KEYPOINTS,
        start_iteration=start,
        passes=cfg.SOLVER.ACCUMULATE,
    )
    state = TrainingState(model, optimizer, scaler, ema)
    skipped = checkpoint.get("skipped", 0) if checkpoint else 0
    finished = checkpoint is not None and Path(checkpoint["source"]).name == Checkpointer.FINAL
    needs = fulfilled(cfg, weights.needs)
    return Parts(cfg, start, train_set, test_sets, test_mapper, state, batches, skipped, finished, needs)


def parallel(model: Model, device: torch.device) -> nn.Module:
    """The model as the training loop calls it: of several processes, each has it in DistributedDataParallel.

    Every trained parameter gets a gradient in every step, also from a batch without objects, so that nothing has to
    look for unused ones. The trainer takes care of running statistics; other buffers are alike from the start.
    """
    if world_size() == 1:
        return model
    renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # torch 2.14
    options: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    devices = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True, **options)


def build_hooks(
    parts: Parts,
    folder: Path,
    device: torch.device,
    precision: Precision,
    evaluation: Evaluation,
    request: StopRequest,
    past: Mapping[int, Mapping[str, float]],
    *,
    profile: int = 0,
) -> list[Hook]:
    """What happens beside the steps, in this order.

    Args:
        past: the metrics of earlier evaluations, by iteration, in a run that goes on.
        profile: iterations.
    """
    cfg, state = parts.cfg, parts.state
    outputs = build_writers(cfg, folder, parts.start, bar=logs.on_terminal()) if is_main_process() else []
    facts = {
        "seed": cfg.SEED,
        "class_names": list(parts.train_set.class_names),
        "category_ids": [int(i) for i in parts.train_set.category_ids],
        "config": dump(cfg),
        "needs": dict(parts.needs),
    }
    names = {id(parameter): name for name, parameter in parts.model.named_parameters()}
    guard = FiniteGuard(
        [names[id(p)] for group in state.optimizer.param_groups for p in group["params"]],
        partial(first_non_finite, parts.model, autocast=precision.autocast),
        limit=cfg.SOLVER.SKIP_NON_FINITE,
        skipped=parts.skipped,
        loss_scale=state.scaler.get_scale if state.scaler.is_enabled() else None,
    )

    def everything() -> dict[str, Any]:
        guard.check()
        return {**state.save(), "skipped": guard.skipped}

    checkpointing = Checkpointing(
        Checkpointer(folder, facts, keep=cfg.SOLVER.CHECKPOINTS_KEPT),
        everything,
        period=cfg.SOLVER.CHECKPOINT_PERIOD,
        eval_period=cfg.TEST.EVAL_PERIOD if evaluation.wanted else 0,
        saved=parts.start - 1,
        finished=parts.finished,
    )
    hooks: list[Hook] = [guard]
    if state.ema:
        hooks.append(Averaging(state.ema))
    hooks.append(checkpointing)
    if metric := cfg.TEST.BEST_METRIC:
        history = [(iteration, results[metric]) for iteration, results in past.items() if metric in results]
        patience, is_there = cfg.TEST.PATIENCE, (folder / Checkpointer.BEST).exists()
        hooks.append(KeepBest(metric, checkpointing.keep_best, patience=patience, history=history, is_there=is_there))
    # after it: an evaluation in metrics.json is one that needs no repeating if the run is killed
    workers = cfg.DATALOADER.NUM_WORKERS
    hooks.append(Logging(outputs, batch_size=cfg.SOLVER.IMS_PER_BATCH, num_workers=workers, device=device))
    hooks.append(Preemption(request, checkpointing.save_latest))
    if outputs:
        hooks.append(Pictures(outputs, evaluation.pictures))
    if is_main_process():

        def report(what: str) -> None:
            evaluated = Evaluated.now(what, evaluation.seconds, evaluation.figures)
            report_on(
                folder,
                parts.test_sets,
                evaluated,
                config=dump(cfg),
                page=cfg.TEST.REPORT,
                stop=lambda: bool(request.name),
            )

        hooks.append(Reporting(report))
    if profile and is_main_process():
        compiled = parts.model.compilable() if cfg.COMPILE else []
        hooks.append(Profiling(parts.model, folder / "profile", iterations=profile, device=device, compiled=compiled))
    return hooks


def _start_from(weights: Weights, model: Model, cfg: CfgNode, class_names: Sequence[str]) -> None:
    fitted = load_weights(model, weights, strict=False, class_names=class_names)
    logger.info("starting from %s: %s", weights.source, fitted.report())


def _log_beginning(cfg: CfgNode, train_set: Dataset, test_sets: Mapping[str, Dataset]) -> None:
    logger.info("environment:\n%s", env.summary())
    logger.info("config:\n%s", dump(cfg))
    for purpose, found in [("training", train_set), *(("evaluation", test_set) for test_set in test_sets.values())]:
        logger.info(
            "%s data: %s, %d images (%d without objects), %d objects of %d classes",
            purpose,
            found.name,
            len(found),
            int((found.num_objects == 0).sum()),
            int(found.num_objects.sum()),
            len(found.class_names),
        )
    if not test_sets:
        logger.info("no evaluation: DATASETS.TEST is empty")
    if hint := checks.learning_rate_hint(cfg.SOLVER):
        logger.info(hint)
