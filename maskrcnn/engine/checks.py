"""What can be wrong with a run, found before anything slow starts: values, files, and what crosses config sections."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode

from maskrcnn.checkpoint import trace_of_run
from maskrcnn.data import Dataset, DatasetError
from maskrcnn.data.checking.images import damages, sample
from maskrcnn.data.checking.splits import different_classes, shared_images
from maskrcnn.distributed import all_gather_object
from maskrcnn.engine.solver import build_schedule
from maskrcnn.engine.writers import check_writers
from maskrcnn.registry import EVALUATORS, MODELS, PROPOSALS
from maskrcnn.structures import Proposals

SAMPLED_IMAGES = 50  # read whole before training starts
COMPARED_IMAGES = 5000  # up to which training and test images are compared by content
REFERENCE_BATCH, REFERENCE_LR = 16, 0.02  # Mask R-CNN §3.1

# Lowest value of each number that has one.
LIMITS = {
    "SOLVER.IMS_PER_BATCH": 1,
    "SOLVER.ACCUMULATE": 1,
    "SOLVER.LR_FOR_BATCH": 0,
    "SOLVER.SKIP_NON_FINITE": 0,
    "SOLVER.EMA": 0,
    "SOLVER.CHECKPOINTS_KEPT": 0,
    "SOLVER.MAX_ITER": 1,
    "SOLVER.BASE_LR": 0,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.MOMENTUM": 0,
    "SOLVER.WEIGHT_DECAY": 0,
    "SOLVER.WEIGHT_DECAY_NORM": 0,
    "SOLVER.CLIP_GRADIENTS": 0,
    "SOLVER.CHECKPOINT_PERIOD": 0,
    "DATALOADER.NUM_WORKERS": 0,
    "DATALOADER.MIN_KEYPOINTS": 0,
    "TEST.EVAL_PERIOD": 0,
    "TEST.PATIENCE": 0,
    "TEST.IMS_PER_BATCH": 1,
    "TEST.DETECTIONS_PER_IMAGE": 1,
    "MODEL.NUM_CLASSES": 0,
}


class RunError(ValueError):
    """A run that cannot start as it was asked for."""


@contextmanager
def at_the_door() -> Iterator[None]:
    """While a run is being prepared, a plain ValueError is the user's: some part refused its options.

    Later it would be a programmer's, and keeps its traceback.
    """
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise RunError(str(error)) from error


def check_values(cfg: CfgNode, *, training: bool) -> None:
    """Raises RunError or ValueError: a number out of its range, no data set, no such evaluator or writer."""
    for key, lowest in LIMITS.items():
        section, name = key.split(".")
        if not cfg[section][name] >= lowest:  # NaN is not
            raise RunError(f"{key} is {cfg[section][name]}; it must be at least {lowest}")
    if not cfg.SOLVER.EMA < 1:
        raise RunError(f"SOLVER.EMA is {cfg.SOLVER.EMA}, a decay that would never let a new weight in; expected 0 to 1")
    if cfg.TEST.PATIENCE and not cfg.TEST.BEST_METRIC:
        raise RunError(f"TEST.PATIENCE is {cfg.TEST.PATIENCE}, but of which metric? Name it in TEST.BEST_METRIC")
    build_schedule(cfg.SOLVER)
    _check_evaluators(cfg)
    check_proposal_files(cfg, training=training)
    if training:
        check_writers(cfg.WRITERS)
    if training and not cfg.DATASETS.TRAIN:
        raise RunError("DATASETS.TRAIN is empty: name a data set, or give {JSON: annotation file, IMAGES: folder}")
    if not training and not (cfg.DATASETS.TEST and (cfg.TEST.EVALUATORS or cfg.TEST.LOSS)):
        raise RunError("to evaluate, DATASETS.TEST and TEST.EVALUATORS must name something (or set TEST.LOSS)")


def _check_evaluators(cfg: CfgNode) -> None:
    gives = MODELS.get(cfg.MODEL.NAME).outputs  # type: ignore[attr-defined]
    for name in cfg.TEST.EVALUATORS:
        takes = getattr(EVALUATORS.get(name), "outputs", gives)  # one that does not say takes anything
        if takes is not gives:
            raise RunError(
                f"TEST.EVALUATORS: {name!r} judges {takes.__name__}, but {cfg.MODEL.NAME} gives {gives.__name__}"
                + ("; use [proposals]" if gives is Proposals else "")
            )


def check_proposal_files(cfg: CfgNode, *, training: bool) -> None:
    """Raises RunError: the model needs files of proposals that are not given, or would not read those that are."""
    stage = cfg.MODEL.get("PROPOSALS", {}).get("NAME", "")
    reads = bool(stage) and getattr(PROPOSALS.get(stage), "from_files", False)
    for split in ("TRAIN", "TEST") if training else ("TEST",):
        key = f"PROPOSAL_FILES_{split}"
        sets, files = cfg.DATASETS[split], cfg.DATASETS[key]
        if files and not reads:
            raise RunError(
                f"DATASETS.{key} is {list(files)}, but MODEL.PROPOSALS.NAME is {stage!r}, which reads no files; leave "
                "the key out, or name ProposalsFromFile"
            )
        if reads and len(files) != len(sets):
            raise RunError(
                f"DATASETS.{key} is {list(files)}, but MODEL.PROPOSALS.NAME is {stage!r} and DATASETS.{split} has "
                f"{len(sets)} data set{'s' * (len(sets) != 1)}; give one file for each, in their order"
            )


def check_batch(solver: Mapping[str, Any], processes: int) -> None:
    """Raises RunError: the images of a step cannot be divided equally among so many processes."""
    batch, passes = solver["IMS_PER_BATCH"], processes * solver["ACCUMULATE"]
    if batch % passes:
        raise RunError(
            f"SOLVER.IMS_PER_BATCH is {batch}, the images of a step over all processes, which cannot be divided "
            f"equally among {processes} processes with {solver['ACCUMULATE']} passes each (SOLVER.ACCUMULATE); "
            f"choose a multiple of {passes}"
        )


def make_folder(folder: Path) -> None:
    """Make the output folder.

    Raises:
        RunError: something else stands there, or it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        file = next(path for path in (folder, *folder.parents) if path.exists())
        raise RunError(f"OUTPUT_DIR is {folder}, but {file} is a file; choose another folder") from None
    except OSError as error:
        raise RunError(f"OUTPUT_DIR is {folder}, which cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RunError(f"OUTPUT_DIR is {folder}, which is not writable")


def check_unused(folder: Path) -> None:
    """Raises RunError: the folder holds a run, which a new one would mix with or overwrite."""
    if trace := trace_of_run(folder):
        raise RunError(
            f"OUTPUT_DIR {folder} holds another run ({trace.name}); continue that one with --resume, or choose another "
            "folder"
        )


def fill_in_classes(cfg: CfgNode, dataset: Dataset) -> CfgNode:
    """The config with MODEL.NUM_CLASSES of the data set.

    Raises:
        RunError: it is given, and another.
    """
    count, given = len(dataset.class_names), cfg.MODEL.NUM_CLASSES
    if given not in (0, count):
        raise RunError(
            f"MODEL.NUM_CLASSES is {given}, but {dataset.source} defines {count} classes "
            f"({_shortened(dataset.class_names)}); leave it out, or 0, to have it filled in"
        )
    return changed(cfg, "MODEL", NUM_CLASSES=count)


def changed(cfg: CfgNode, section: str, **values: Any) -> CfgNode:
    """A frozen copy with other values in one section ("" is the top level)."""
    copy = cfg.clone()
    copy.defrost()
    (copy[section] if section else copy).update(values)
    copy.freeze()
    return copy


def check_best_metric(cfg: CfgNode, metrics: Sequence[str]) -> None:
    """Raises RunError: TEST.BEST_METRIC is no metric that an evaluation of this run gives."""
    wanted = cfg.TEST.BEST_METRIC
    if wanted and wanted not in metrics:
        known = f"those of this run are {', '.join(metrics)}" if metrics else "nothing is evaluated (DATASETS.TEST)"
        raise RunError(f"TEST.BEST_METRIC is {wanted!r}, which is no metric; {known}")


def check_same_start(iteration: int | None, folder: Path) -> None:
    """Raises RunError: not every process found the same checkpoint."""
    found = all_gather_object(iteration)
    if len(set(found)) > 1:
        told = ", ".join(f"rank {r} {'none' if i is None else f'iteration {i}'}" for r, i in enumerate(found))
        raise RunError(
            f"the processes found different checkpoints in {folder} ({told}); OUTPUT_DIR must be a folder that all "
            "machines share"
        )


def check_same_classes(names: Sequence[str], source: str, dataset: Dataset) -> None:
    """Raises RunError: class names of training, or of a checkpoint, that are not those of the data set."""
    if difference := different_classes(names, dataset.class_names):
        raise RunError(f"{source} and {dataset.source} have different classes: {difference}")


def check_image_files(dataset: Dataset) -> None:
    """Raises DatasetError: of a sample of the image files one is missing, damaged, or not of the recorded size."""
    chosen = sample(len(dataset), SAMPLED_IMAGES)
    paths, sizes = dataset.paths, dataset.sizes.tolist()
    found = damages([paths[i] for i in chosen], [(sizes[i][0], sizes[i][1]) for i in chosen])
    problems = [problem for problem in found if problem]
    if problems:
        _, message = problems[0]
        others = f" (and {len(problems) - 1} others)" if len(problems) > 1 else ""
        raise DatasetError(
            f"{dataset.source}: of {len(chosen)} image files that were tried, {len(problems)} cannot be trained on: "
            f"{message}{others}; `maskrcnn check_data --images-checked all` tries all of them"
        )


def shared_images_hint(train_set: Dataset, test_set: Dataset) -> str | None:
    """That images are both trained on and evaluated on; None if none are.

    Of large data sets only the files of equal name are compared, which reads few of them.
    """
    by_content = len(train_set) + len(test_set) <= COMPARED_IMAGES
    shared = list(shared_images(train_set.paths, test_set.paths, by_content=by_content))
    if not shared:
        return None
    i, twin = shared[0]
    return (
        f"{len(shared)} of the {len(test_set)} images of {test_set.source} are in {train_set.source} too, the first "
        f"being {test_set.paths[i]}, the same as {twin}: evaluating on them measures what was learnt by heart"
    )


def check_annotated(dataset: Dataset) -> None:
    """Raises RunError: these are images alone."""
    if not dataset.annotated:
        raise RunError(f"{dataset.source} has no annotations, so no losses can be computed on it; take other data")


def check_annotations(cfg: CfgNode, dataset: Dataset) -> None:
    """Raises DatasetError or RunError: the model learns something that the training data do not have."""
    check_annotated(dataset)
    if _has_part(cfg, "MASK_HEAD"):
        dataset.check_masks()
    if _has_part(cfg, "KEYPOINT_HEAD") and not dataset.has_keypoints:
        raise RunError(
            f"{dataset.source} has no keypoints to train MODEL.ROI_HEADS.KEYPOINT_HEAD on; set its NAME to '', or "
            "choose other data"
        )


def _has_part(cfg: CfgNode, key: str) -> bool:
    return bool(cfg.MODEL.get("ROI_HEADS", {}).get(key, {}).get("NAME"))


def learning_rate_hint(solver: Mapping[str, Any]) -> str | None:
    """What the linear rule says of SGD with another batch size than the paper's; None when there is nothing to say."""
    if solver["LR_FOR_BATCH"]:
        scaled = solver["BASE_LR"] * solver["IMS_PER_BATCH"] / solver["LR_FOR_BATCH"]
        return (
            f"the learning rate is {scaled:g}: SOLVER.BASE_LR {solver['BASE_LR']:g}, scaled from SOLVER.LR_FOR_BATCH "
            f"{solver['LR_FOR_BATCH']} to SOLVER.IMS_PER_BATCH {solver['IMS_PER_BATCH']}"
        )
    if solver["OPTIMIZER"] != "SGD":
        return None
    batch, rate = solver["IMS_PER_BATCH"], solver["BASE_LR"]
    suggested = REFERENCE_LR * batch / REFERENCE_BATCH
    if batch == REFERENCE_BATCH or abs(rate - suggested) < 1e-3 * suggested:
        return None
    return (
        f"SOLVER.IMS_PER_BATCH is {batch} and SOLVER.BASE_LR {rate:g}; the paper's {REFERENCE_LR} for a batch of "
        f"{REFERENCE_BATCH} would be {suggested:g} here by the linear rule, with iterations scaled by "
        f"{REFERENCE_BATCH / batch:.3g} (nothing is scaled by itself: SOLVER.LR_FOR_BATCH asks for it)"
    )


def _shortened(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def describe_parameters(model: torch.nn.Module) -> str:
    """`44.4 M parameters, 44.2 M of them trained; frozen: backbone.stem, backbone.stages.res2`."""
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = list(frozen_parts(model))
    return f"{total / 1e6:.1f} M parameters, {trained / 1e6:.1f} M of them trained" + (
        f"; frozen: {_shortened(frozen)}" if frozen else ""
    )


def frozen_parts(module: torch.nn.Module, name: str = "") -> Iterator[str]:
    """Names of the largest modules whose parameters are all frozen, and of frozen parameters beside trained ones."""
    parameters = list(module.parameters())
    if not any(p.requires_grad for p in parameters):
        if parameters:
            yield name
        return
    prefix = f"{name}." if name else ""
    yield from (prefix + own for own, p in module.named_parameters(recurse=False) if not p.requires_grad)
    for child_name, child in module.named_children():
        yield from frozen_parts(child, prefix + child_name)
