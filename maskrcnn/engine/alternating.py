"""Alternating training in four steps, after which RPN and detector share a trunk (Ren et al. 2015, §3.2 and §4.4)."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from yacs.config import CfgNode

from maskrcnn.checkpoint import (
    Checkpointer,
    load_checkpoint,
    merge,
    newest_checkpoint,
    read_weights,
    write_atomically,
)
from maskrcnn.config import dump
from maskrcnn.distributed import is_main_process
from maskrcnn.engine import checks, run
from maskrcnn.engine.checks import RunError, changed
from maskrcnn.engine.folder import CONFIG_FILE, INFERENCE
from maskrcnn.engine.needs import follow, fulfilled
from maskrcnn.engine.provenance import Invocation
from maskrcnn.engine.state import load_weights
from maskrcnn.engine.writers.json_lines import METRICS_FILE, evaluations
from maskrcnn.evaluation.proposals import PROPOSALS_FILE
from maskrcnn.modeling import build_model

SHARED = ("backbone.", "neck.")  # the parts that are frozen in steps 3 and 4
FIRST_STAGE, SECOND_STAGE = "proposals.", "roi_heads."

logger = logging.getLogger(__name__)


def train_in_steps(
    cfg: CfgNode, *, tell: Callable[[str], None] = logger.info, invocation: Invocation = Invocation()
) -> dict[str, float]:
    """Train a two-stage detector in four steps, join them and evaluate; the last metrics.

    1. The RPN, from MODEL.WEIGHTS; its proposals for every data set.
    2. The detector on these, from MODEL.WEIGHTS: two networks that share nothing.
    3. The RPN anew on the trunk of 2, which stays as it is; it goes on from its own layers of 1. Proposals.
    4. The detector's own layers on these, from those of 2, on the same trunk.

    Each step is a run in OUTPUT_DIR/step1 ... step4 with the solver of the config. Then OUTPUT_DIR has the checkpoint
    of the whole detector. Called again, it goes on where it stopped.

    Args:
        cfg: of an ordinary detector with an RPN.
        tell: gets a line at the beginning of each step, in the main process.
        invocation: with the config's files, figures that were published for it are logged beside the last metrics.

    Raises:
        RunError: the config is of no such detector; and what `run.train` and `run.test` raise.
    """
    with checks.at_the_door():
        check_steps(cfg)
    folder = Path(cfg.OUTPUT_DIR).expanduser()
    step1, step2, step3, step4 = (folder / f"step{i}" for i in range(1, 5))
    start, rpn, trunk = tuple(cfg.MODEL.WEIGHTS), str(step1 / Checkpointer.FINAL), str(step2 / Checkpointer.FINAL)
    given = Invocation(origins=invocation.origins)  # whoever gave a value gave it for the steps too
    train_first, train_second = partial(train_rpn, invocation=given), partial(train_detector, invocation=given)
    steps: dict[str, Callable[[], None]] = {
        "the RPN": partial(train_first, cfg, step1, weights=start),
        "a detector on its proposals": partial(train_second, cfg, step2, weights=start, proposals_of=step1),
        "the RPN on the detector's trunk": partial(train_first, cfg, step3, weights=(rpn, trunk), frozen=True),
        "the detector's own layers on its proposals": partial(
            train_second, cfg, step4, weights=(trunk,), proposals_of=step3, frozen=True
        ),
    }
    for i, (what, step) in enumerate(steps.items(), start=1):
        if is_main_process():
            tell(f"step {i} of 4: {what}, in {folder / f'step{i}'}")
        step()
    if is_main_process():
        tell(f"the detector of all four steps is {join(cfg, step3, step4, folder, origins=given.origins)}")
    if not wants_evaluation(cfg):
        return {}
    weights = (str(folder / Checkpointer.FINAL),)
    return run.test(cfg, weights=weights, invocation=invocation)  # where the processes wait for the main one


def check_steps(cfg: CfgNode) -> None:
    """Raises RunError or ValueError: the model is no detector with an RPN, or the config is wrong elsewhere."""
    if cfg.MODEL.NAME != "GeneralizedRCNN" or cfg.MODEL.PROPOSALS.NAME != "RPN":
        stage = cfg.MODEL.get("PROPOSALS", {}).get("NAME", "")
        raise RunError(
            f"MODEL.NAME is {cfg.MODEL.NAME!r} and MODEL.PROPOSALS.NAME {stage!r}; training in four steps is for "
            "'GeneralizedRCNN' with 'RPN', such as mask_rcnn/mask_rcnn_r50_fpn_1x_coco"
        )
    checks.check_values(cfg, training=True)
    names = parameter_names(cfg)
    if unknown := [pattern for pattern, _ in cfg.SOLVER.LR_FACTORS if not fnmatch.filter(names, pattern)]:
        raise RunError(f"SOLVER.LR_FACTORS: {unknown[0]!r} matches no parameter, such as {names[-1]}")


def train_rpn(
    cfg: CfgNode, folder: Path, *, weights: Sequence[str], invocation: Invocation, frozen: bool = False
) -> None:
    """A step that trains the RPN, and its proposals for every data set."""
    cfg = changed(cfg, "", MODEL=CfgNode({key: value for key, value in cfg.MODEL.items() if key != "ROI_HEADS"}))
    cfg = changed(cfg, "MODEL", NAME="ProposalNetwork")
    cfg = step_config(cfg, folder, weights, frozen=frozen)
    cfg = changed(cfg, "TEST", AUGMENTATION=CfgNode({**cfg.TEST.AUGMENTATION, "ENABLED": False}))  # of detectors alone
    alone = changed(cfg, "DATASETS", TEST=())  # the proposals come with the recall that they allow
    train_once(changed(alone, "TEST", BEST_METRIC="", PATIENCE=0, LOSS=False, EVALUATORS=("proposals",)), invocation)
    stage = cfg.MODEL.PROPOSALS
    numbers = {
        "TRAIN": {"PRE_NMS_TOPK_TEST": stage.PRE_NMS_TOPK_TRAIN, "POST_NMS_TOPK_TEST": stage.POST_NMS_TOPK_TRAIN},
        "TEST": {},
    }
    for split, options in numbers.items():
        for spec, path in zip(cfg.DATASETS[split], proposal_files(cfg, folder, split), strict=True):
            if path.exists():
                continue
            asked = changed(cfg, "DATASETS", TEST=(spec,), TRAIN=())
            asked = changed(asked, "MODEL", PROPOSALS=CfgNode({**stage, **options}))
            asked = changed(asked, "TEST", BEST_METRIC="", LOSS=False, REPORT=False, EVALUATORS=("proposals",))
            asked = changed(asked, "", OUTPUT_DIR=str(path.parents[1]))
            run.test(asked, weights=(str(folder / Checkpointer.FINAL),), invocation=invocation)
            if not path.exists():
                raise RunError(f"{path} could not be written, without which there is no next step; the log says why")


def proposal_files(cfg: CfgNode, step: Path, split: str) -> tuple[Path, ...]:
    """Where the proposals of a step are, for each data set of DATASETS.TRAIN or TEST."""
    folders = (step / f"{split.lower()}_proposals_{i + 1}" for i in range(len(cfg.DATASETS[split])))
    return tuple(folder / INFERENCE / PROPOSALS_FILE for folder in folders)


def train_detector(
    cfg: CfgNode,
    folder: Path,
    *,
    weights: Sequence[str],
    proposals_of: Path,
    invocation: Invocation,
    frozen: bool = False,
) -> None:
    """A step that trains the second stage on the proposals of the step before."""
    stage = cfg.MODEL.PROPOSALS
    numbers = {"TOPK_TRAIN": stage.POST_NMS_TOPK_TRAIN, "TOPK_TEST": stage.POST_NMS_TOPK_TEST}
    cfg = changed(cfg, "MODEL", PROPOSALS=CfgNode({"NAME": "ProposalsFromFile", **numbers}))
    files = {
        f"PROPOSAL_FILES_{split}": tuple(map(str, proposal_files(cfg, proposals_of, split)))
        for split in ("TRAIN", "TEST")
    }
    train_once(step_config(changed(cfg, "DATASETS", **files), folder, weights, frozen=frozen), invocation)


def step_config(cfg: CfgNode, folder: Path, weights: Sequence[str], *, frozen: bool) -> CfgNode:
    """The config of one step. Of SOLVER.LR_FACTORS those stay that are about a part of its model."""
    cfg = changed(changed(cfg, "", OUTPUT_DIR=str(folder)), "MODEL", WEIGHTS=tuple(weights))
    names = parameter_names(cfg)
    factors = [(pattern, factor) for pattern, factor in cfg.SOLVER.LR_FACTORS if fnmatch.filter(names, pattern)]
    if frozen:
        factors += [(f"{part}*", 0.0) for part in SHARED if any(name.startswith(part) for name in names)]
    return changed(cfg, "SOLVER", LR_FACTORS=tuple(factors))


def parameter_names(cfg: CfgNode) -> list[str]:
    cfg = changed(cfg, "MODEL", NUM_CLASSES=cfg.MODEL.NUM_CLASSES or 1)
    with torch.device("meta"):  # no memory, no initialisation
        return [name for name, _ in build_model(cfg).named_parameters()]


def train_once(cfg: CfgNode, invocation: Invocation) -> None:
    """Train, or go on with it, unless it is done."""
    if not is_finished(cfg):
        run.train(cfg, resume=True, invocation=invocation)


def is_finished(cfg: CfgNode) -> bool:
    """Whether a run has ended, and its last evaluation too."""
    folder = Path(cfg.OUTPUT_DIR)
    newest = newest_checkpoint(folder)
    if newest is None or newest.name != Checkpointer.FINAL:
        return False
    last = load_checkpoint(newest)["iteration"]
    return not wants_evaluation(cfg) or last in evaluations(folder / METRICS_FILE, before=last + 1)


def wants_evaluation(cfg: CfgNode) -> bool:
    return bool(cfg.DATASETS.TEST and (cfg.TEST.EVALUATORS or cfg.TEST.LOSS))


def join(cfg: CfgNode, rpn: Path, detector: Path, folder: Path, *, origins: Mapping[str, str] | None = None) -> Path:
    """One checkpoint of the RPN of a step, the heads of another, and the trunk of both, with its config beside it.

    Raises:
        RunError: they do not have the same trunk.
        CheckpointError: together they are not the weights of the config's model.
    """
    first, second = (read_weights(str(step / Checkpointer.FINAL)) for step in (rpn, detector))
    trunks = [{name: t for name, t in w.tensors.items() if name.startswith(SHARED)} for w in (first, second)]
    if different := list(differences(*trunks)):
        raise RunError(
            f"{rpn} and {detector} do not share a trunk: {len(different)} tensors differ, the first being "
            f"{different[0]}; was one of them trained again? Remove {detector} and {rpn} to repeat these steps"
        )
    heads = {name: tensor for name, tensor in second.tensors.items() if name.startswith(SECOND_STAGE)}
    layers = {name: tensor for name, tensor in first.tensors.items() if name.startswith(FIRST_STAGE)}
    class_names, category_ids = second.class_names or (), second.category_ids or ()  # a run's checkpoint has them
    cfg = changed(cfg, "MODEL", NUM_CLASSES=len(class_names))
    needs = merge([first, second]).needs  # of MODEL.WEIGHTS, as the steps met them: each knows those of its own parts
    cfg = follow(cfg, needs, f"{rpn} and {detector}", origins)
    model = build_model(cfg)
    whole = replace(second, tensors={**trunks[0], **layers, **heads}, source=f"{rpn} and {detector}")
    load_weights(model, whole, strict=True)
    facts = {
        "class_names": list(class_names),
        "category_ids": list(category_ids),
        "config": dump(cfg),
        "needs": fulfilled(cfg, needs),
    }
    write_atomically(folder / CONFIG_FILE, dump(cfg).encode())
    state = {"model": dict(model.state_dict())}
    return Checkpointer(folder, facts).save(cfg.SOLVER.MAX_ITER - 1, state, Checkpointer.FINAL)


def differences(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """Names of tensors that only one has, or that are not the same bit for bit."""
    yield from sorted(a.keys() ^ b.keys())
    yield from (name for name in a.keys() & b.keys() if not torch.equal(a[name], b[name]))
