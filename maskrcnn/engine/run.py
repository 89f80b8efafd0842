"""A whole run from a config: `train` and `test` check what they were given, then build every part once."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from yacs.config import CfgNode

from maskrcnn import env
from maskrcnn.checkpoint import (
    Checkpointer,
    CheckpointError,
    Weights,
    load_checkpoint,
    merge,
    newest_checkpoint,
    read_weights,
    write_atomically,
)
from maskrcnn.config import dump
from maskrcnn.data import (
    Dataset,
    InstanceMapper,
    RandomHorizontalFlip,
    ResizeShortestEdge,
    build_test_loader,
    build_train_loader,
    concatenate,
    dataset,
)
from maskrcnn.data.loader import Mapper
from maskrcnn.distributed import is_main_process
from maskrcnn.engine import checks, logs
from maskrcnn.engine.hooks import Checkpointing, FiniteGuard, Logging, Pictures
from maskrcnn.engine.inference import prepare_inference
from maskrcnn.engine.pictures import beside_ground_truth
from maskrcnn.engine.precision import Precision, choose_precision
from maskrcnn.engine.solver import build_optimizer, build_schedule
from maskrcnn.engine.state import check_resumable, load_weights, restore, seed_everything, training_state, untouched_rng
from maskrcnn.engine.trainer import Hook, Trainer
from maskrcnn.engine.writers import build_writers
from maskrcnn.evaluation import Evaluator, evaluate
from maskrcnn.modeling import Model, build_model
from maskrcnn.registry import EVALUATORS

logger = logging.getLogger(__name__)

CHANGES_FILE = "data_problems.json"
MAPPERS = {"instance": InstanceMapper}  # by a model's task


def train(cfg: CfgNode, *, resume: bool = False) -> dict[str, float]:
    """Train, evaluate, and leave in OUTPUT_DIR all that a run leaves (docs/training.md); the last metrics.

    Args:
        resume: go on from the newest checkpoint in OUTPUT_DIR.

    Raises:
        ConfigError, DatasetError, CheckpointError, RunError: before anything slow, what is wrong with config, data or
            weights.
        NonFiniteLoss: training diverged.
    """
    folder = Path(cfg.OUTPUT_DIR).expanduser()
    with checks.at_the_door():
        checks.check_one_process()
        checks.check_values(cfg, training=True)
        device = env.pick_device(cfg.MODEL.DEVICE)
        precision = choose_precision("SOLVER.AMP", cfg.SOLVER.AMP, device)
        test_precision = choose_precision("TEST.AMP", cfg.TEST.AMP, device)
        if not resume:
            checks.check_unused(folder)
        checks.make_folder(folder)
    with logs.logging_to(folder):
        with checks.at_the_door():
            checkpoint = _newest_state(folder, cfg) if resume else None
            parts = build_parts(cfg, device, precision, checkpoint)
            cfg = parts.cfg
            evaluation = Evaluation(
                cfg, parts.model, parts.test_sets, parts.test_mapper, folder / "inference", test_precision
            )
            if checkpoint:  # last, so that nothing draws from the restored generators before the first step
                checks.check_same_classes(checkpoint["class_names"], checkpoint["source"], parts.train_set)
                restore(checkpoint, checkpoint["source"], parts.model, parts.optimizer, parts.scaler)
        write_atomically(folder / "config.yaml", dump(cfg).encode())
        trainer = Trainer(
            parts.model,
            parts.batches,
            parts.optimizer,
            build_schedule(cfg.SOLVER),
            build_hooks(parts, folder, device, evaluation),
            precision=precision,
            scaler=parts.scaler,
            clip_gradients=cfg.SOLVER.CLIP_GRADIENTS,
            evaluate=evaluation if evaluation.wanted else None,
            eval_period=cfg.TEST.EVAL_PERIOD,
        )
        left = max(cfg.SOLVER.MAX_ITER - parts.start, 0)
        logger.info("training from iteration %d: %d left of %d", parts.start, left, cfg.SOLVER.MAX_ITER)
        results = trainer.train(parts.start, cfg.SOLVER.MAX_ITER)
        logger.info("done; the run is in %s", folder)
        return results


@dataclass(frozen=True)
class Parts:
    """What a training run is made of, each built once. `cfg` has the class count and the seed filled in."""

    cfg: CfgNode
    start: int  # first iteration
    train_set: Dataset
    test_sets: dict[str, Dataset]
    test_mapper: Mapper
    model: Model
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    batches: Iterator[list[Any]]


def build_parts(cfg: CfgNode, device: torch.device, precision: Precision, checkpoint: dict[str, Any] | None) -> Parts:
    """Read weights and data, and build model, optimizer and loader from a config.

    Args:
        checkpoint: of the run to go on with, which says where to start and stands in for MODEL.WEIGHTS.
    """
    weights = None if checkpoint else merge([read_weights(spec) for spec in cfg.MODEL.WEIGHTS])
    train_set, test_sets = _read_data(cfg)
    cfg = checks.fill_in_classes(cfg, train_set)
    cfg = checks.changed(cfg, "", SEED=seed_everything(checkpoint["seed"] if checkpoint and cfg.SEED < 0 else cfg.SEED))
    _log_beginning(cfg, train_set, test_sets)
    model = build_model(cfg)
    if weights is not None and weights.tensors:
        _start_from(weights, model, cfg, train_set.class_names)
    model.to(memory_format=torch.channels_last).to(device)
    if cfg.COMPILE:
        model.compile_parts()
    optimizer, scaler = build_optimizer(model, cfg.SOLVER), precision.scaler()  # freezes what LR_FACTORS says
    logger.info("%s on %s: %s", type(model).__name__, device, checks.describe_parameters(model))
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
        start_iteration=start,
    )
    return Parts(cfg, start, train_set, test_sets, test_mapper, model, optimizer, scaler, batches)


def build_hooks(parts: Parts, folder: Path, device: torch.device, evaluation: Evaluation) -> list[Hook]:
    """What happens beside the steps, in this order."""
    cfg = parts.cfg
    outputs = build_writers(cfg, folder, parts.start, bar=logs.on_terminal()) if is_main_process() else []
    facts = {
        "seed": cfg.SEED,
        "class_names": list(parts.train_set.class_names),
        "category_ids": [int(i) for i in parts.train_set.category_ids],
        "config": dump(cfg),
    }
    guard = FiniteGuard()
    return [
        guard,
        Checkpointing(
            Checkpointer(folder, facts),
            lambda: training_state(parts.model, parts.optimizer, parts.scaler),
            period=cfg.SOLVER.CHECKPOINT_PERIOD,
            check=guard.check,
        ),
        Logging(
            outputs,
            batch_size=cfg.SOLVER.IMS_PER_BATCH,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            device=device,
        ),
        Pictures(outputs, evaluation.pictures),
    ]


def test(cfg: CfgNode, *, weights: Sequence[str] = ()) -> dict[str, float]:
    """Evaluate on DATASETS.TEST; the metrics.

    Args:
        weights: what to evaluate; else the newest checkpoint in OUTPUT_DIR, else MODEL.WEIGHTS.

    Raises:
        ConfigError, DatasetError, CheckpointError, RunError: what is wrong with config, data or weights.
    """
    folder = Path(cfg.OUTPUT_DIR).expanduser()
    with checks.at_the_door():
        checks.check_one_process()
        checks.check_values(cfg, training=False)
        device = env.pick_device(cfg.MODEL.DEVICE)
        precision = choose_precision("TEST.AMP", cfg.TEST.AMP, device)
        checks.make_folder(folder)
    with logs.logging_to(folder):
        with checks.at_the_door():
            newest = newest_checkpoint(folder)
            specs = tuple(weights) or ((str(newest),) if newest else tuple(cfg.MODEL.WEIGHTS))
            if not specs:
                raise CheckpointError(
                    f"no weights to evaluate: {folder} holds no checkpoint, and MODEL.WEIGHTS is empty"
                )
            logger.info("evaluating %s", ", ".join(specs))
            loaded = merge([read_weights(spec) for spec in specs])
            test_sets = _read_test_sets(cfg)
            _list_changes(folder, list(test_sets.values()))
            first, *others = test_sets.values()
            for other in others:
                checks.check_same_classes(first.class_names, first.source, other)
            cfg = checks.fill_in_classes(cfg, first)
            for line in checks.differing_needs(cfg, loaded):
                logger.warning(line)
            model = build_model(cfg)
            load_weights(model, loaded, strict=True, class_names=first.class_names)
            prepare_inference(model, device, precision)
            if cfg.COMPILE:
                model.compile_parts()
            logger.info("computing in %s", precision)
            _, mapper = build_mappers(cfg, model.task)
            evaluation = Evaluation(cfg, model, test_sets, mapper, folder / "inference", precision)
        return evaluation()


class Evaluation:
    """Evaluates a model on every test set: a call gives the metrics, and leaves the model and all randomness as found.

    With several test sets a metric's name begins with the set's. `wanted` is False when there is nothing to evaluate.

    Raises:
        ValueError: evaluators that cannot work on these data, or give two metrics of one name.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: Model,
        test_sets: Mapping[str, Dataset],
        mapper: Mapper,
        folder: Path,
        precision: Precision,
    ) -> None:
        self.cfg, self.model, self.test_sets, self.mapper, self.folder = cfg, model, test_sets, mapper, folder
        self.precision = precision
        self.wanted = bool(test_sets and cfg.TEST.EVALUATORS)
        for name in test_sets:
            metrics = [metric for evaluator in self.evaluators(name) for metric in evaluator.metrics]
            if repeated := sorted({metric for metric in metrics if metrics.count(metric) > 1}):
                raise ValueError(f"TEST.EVALUATORS: two of them give the metric {', '.join(repeated)}")

    def __call__(self) -> dict[str, float]:
        results: dict[str, float] = {}
        for name, test_set in self.test_sets.items():
            evaluators = self.evaluators(name)
            loader = build_test_loader(
                test_set,
                self.mapper,
                batch_size=self.cfg.TEST.IMS_PER_BATCH,
                num_workers=self.cfg.DATALOADER.NUM_WORKERS,
            )
            with untouched_rng():
                metrics = evaluate(self.model, loader, evaluators, autocast=self.precision.autocast)
            for evaluator in evaluators:
                if hasattr(evaluator, "table"):
                    logger.info("%s, %d images:\n%s", name, len(test_set), evaluator.table())
            prefix = f"{name}/" if len(self.test_sets) > 1 else ""
            results |= {prefix + metric: value for metric, value in metrics.items()}
        return results

    def evaluators(self, name: str) -> list[Evaluator]:
        folder = self.folder / name if len(self.test_sets) > 1 else self.folder
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
        with untouched_rng():
            first = next(iter(self.test_sets.values()))
            yield from beside_ground_truth(self.model, first, self.mapper, autocast=self.precision.autocast)


def build_mappers(cfg: CfgNode, task: str) -> tuple[Mapper, Mapper]:
    """The mappers of training and of testing, with the transforms of INPUT.

    Raises:
        ValueError: no mapper for this task, or sizes that make no sense.
    """
    if task not in MAPPERS:
        raise ValueError(f"no way to feed a model of task {task!r}; known tasks: {', '.join(MAPPERS)}")
    sizes = cfg.INPUT
    try:
        train_resize = ResizeShortestEdge(sizes.MIN_SIZE_TRAIN, sizes.MAX_SIZE_TRAIN, sizes.MIN_SIZE_TRAIN_SAMPLING)
        test_resize = ResizeShortestEdge((sizes.MIN_SIZE_TEST,), sizes.MAX_SIZE_TEST)
    except ValueError as error:
        raise ValueError(f"INPUT.MIN_SIZE_* and MAX_SIZE_*: {error}") from error
    flips = [RandomHorizontalFlip()] if sizes.RANDOM_FLIP == "horizontal" else []
    mapper = MAPPERS[task]
    return mapper([train_resize, *flips], training=True), mapper([test_resize], training=False)


def _read_data(cfg: CfgNode) -> tuple[Dataset, dict[str, Dataset]]:
    train_sets = [dataset(spec, cfg.DATASETS.ROOT, cfg.DATASETS.PROBLEMS) for spec in cfg.DATASETS.TRAIN]
    train_set = concatenate(train_sets)
    checks.check_annotations(cfg, train_set)
    test_sets = _read_test_sets(cfg)
    for test_set in test_sets.values():
        checks.check_same_classes(train_set.class_names, train_set.source, test_set)
        if hint := checks.shared_images_hint(train_set, test_set):
            logger.warning(hint)
    for found in (train_set, *test_sets.values()):
        checks.check_image_files(found)
    _list_changes(Path(cfg.OUTPUT_DIR).expanduser(), [*train_sets, *test_sets.values()])
    return train_set, test_sets


def _read_test_sets(cfg: CfgNode) -> dict[str, Dataset]:
    """By name; a name that stands for two of them gets a number."""
    test_sets: dict[str, Dataset] = {}
    for spec in cfg.DATASETS.TEST:
        found = dataset(spec, cfg.DATASETS.ROOT, cfg.DATASETS.PROBLEMS)
        same = sum(other.name == found.name for other in test_sets.values())
        test_sets[f"{found.name}_{same + 1}" if same else found.name] = found
    return test_sets


def _list_changes(folder: Path, datasets: Sequence[Dataset]) -> None:
    """Write down what was left out or mended, by annotation file, where there is such a thing."""
    path = folder / CHANGES_FILE
    changes = {found.source: [asdict(change) for change in found.changes] for found in datasets if found.changes}
    if changes:
        earlier = json.loads(path.read_text()) if path.exists() else {}  # training's, when the run is evaluated
        write_atomically(path, json.dumps(earlier | changes, indent=1).encode())
        logger.warning("what was left out of the data, or mended, is listed in %s", path)


def _newest_state(folder: Path, cfg: CfgNode) -> dict[str, Any] | None:
    """The newest checkpoint, with its path as "source"; None when there is none, which is said and no error."""
    path = newest_checkpoint(folder)
    if path is None:
        logger.info("nothing to resume in %s: starting from the beginning", folder)
        return None
    content = load_checkpoint(path)
    check_resumable(content, str(path))
    logger.info("resuming from %s, after iteration %d", path, content["iteration"])
    before, now = (_leaves(yaml.safe_load(text)) for text in (content["config"], dump(cfg)))
    filled_in = {"MODEL.NUM_CLASSES", "SEED"}
    for key in sorted((before.keys() | now.keys()) - filled_in):
        if before.get(key) != now.get(key):
            logger.info("changed since: %s %s -> %s", key, json.dumps(before.get(key)), json.dumps(now.get(key)))
    return {**content, "source": str(path)}


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves


def _start_from(weights: Weights, model: Model, cfg: CfgNode, class_names: Sequence[str]) -> None:
    fitted = load_weights(model, weights, strict=False, class_names=class_names)
    logger.info("starting from %s: %s", weights.source, fitted.report())
    for line in checks.differing_needs(cfg, weights):
        logger.warning("%s: %s", weights.source, line)


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
