"""A whole run from a config: `train` and `test` check what they were given, then build every part once."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import yaml
from yacs.config import CfgNode

from maskrcnn import env
from maskrcnn.atomic import WholeFile
from maskrcnn.checkpoint import (
    Checkpointer,
    CheckpointError,
    load_checkpoint,
    merge,
    newest_checkpoint,
    read_weights,
    write_atomically,
)
from maskrcnn.config import dump, leaves
from maskrcnn.distributed import (
    from_main,
    is_main_process,
    job,
    local_rank,
    process_group,
    world_size,
)
from maskrcnn.engine import checks, logs
from maskrcnn.engine.determinism import make_deterministic
from maskrcnn.engine.evaluation import Evaluation
from maskrcnn.engine.folder import CONFIG_FILE, INFERENCE
from maskrcnn.engine.hooks import StopRequest
from maskrcnn.engine.inference import prepare_inference
from maskrcnn.engine.inputs import build_mappers, list_changes, read_test_sets
from maskrcnn.engine.needs import follow
from maskrcnn.engine.parts import build_hooks, build_parts, parallel
from maskrcnn.engine.precision import choose_precision
from maskrcnn.engine.provenance import Invocation, record_start
from maskrcnn.engine.published import log_beside
from maskrcnn.engine.report.build import report_on
from maskrcnn.engine.report.results import Evaluated
from maskrcnn.engine.solver import build_schedule
from maskrcnn.engine.state import check_resumable, load_weights
from maskrcnn.engine.trainer import Trainer
from maskrcnn.engine.views import MultiViewInference
from maskrcnn.engine.writers.json_lines import METRICS_FILE, evaluations
from maskrcnn.modeling import build_model
from maskrcnn.structures import Proposals

CLAIM_FILE = ".job"  # which torchrun job has a folder for its own

logger = logging.getLogger(__name__)


def train(
    cfg: CfgNode, *, resume: bool = False, profile: int = 0, invocation: Invocation = Invocation()
) -> dict[str, float]:
    """Train, evaluate, and leave in OUTPUT_DIR all that a run leaves (docs/training.md); the last metrics.

    Under torchrun every process calls this, and they train one model together.

    Args:
        resume: go on from the newest checkpoint in OUTPUT_DIR, if there is one. So does a process that torchrun
            restarted.
        profile: so many iterations, after a few, and leave OUTPUT_DIR/profile; 0: none.
        invocation: for OUTPUT_DIR/run.json: the command, and where the config's values come from, by which they win
            over what the weights need (`engine.needs.follow`). With the config's files, published figures are logged
            beside the last metrics.

    Raises:
        ConfigError, DatasetError, CheckpointError, RunError, GroupError: before anything slow, what is wrong with
            config, data, weights or processes.
        NonFiniteLoss: training diverged.
        OutOfMemory: a batch was too large.
        CheckpointingFailed: the end of the run could not be written.
        Preempted: a signal asked to stop; the state is saved.
    """
    folder, asked = Path(cfg.OUTPUT_DIR).expanduser(), cfg
    if cfg.DETERMINISTIC:
        make_deterministic()
    with checks.at_the_door():
        checks.check_values(cfg, training=True)
        checks.check_batch(cfg.SOLVER, world_size())
        device = _pick_device(cfg)
        precision = choose_precision("SOLVER.AMP", cfg.SOLVER.AMP, device)
        test_precision = choose_precision("TEST.AMP", cfg.TEST.AMP, device)
    request = StopRequest()
    with ExitStack() as stack:
        restarted = stack.enter_context(process_group(device))
        from_main(lambda: _claim(folder, resume=resume, restarted=restarted))
        resume |= restarted
        stack.enter_context(logs.logging_to(folder))
        stack.enter_context(request.listening())
        with checks.at_the_door():
            checkpoint = _newest_state(folder, cfg) if resume else None
            checks.check_same_start(checkpoint["iteration"] if checkpoint else None, folder)
            parts = build_parts(cfg, device, precision, checkpoint, invocation.origins)
            cfg = parts.cfg
            evaluation = Evaluation(
                cfg,
                parts.model,
                parts.test_sets,
                parts.test_mapper,
                folder / INFERENCE,
                test_precision,
                request=request,
                ema=parts.state.ema,
            )
            checks.check_best_metric(cfg, evaluation.metrics)
            views = MultiViewInference.from_config(cfg, parts.model)
            if checkpoint:  # last, so that nothing draws from the restored generators before the first step
                parts.state.restore(checkpoint, checkpoint["source"])
        if parts.finished and is_main_process():  # unless a kill came between the final checkpoint and this
            (folder / Checkpointer.LATEST).unlink(missing_ok=True)
        if is_main_process():
            write_atomically(folder / CONFIG_FILE, dump(cfg).encode())
            environment = {**env.facts(), "device": str(device), "precision": str(precision)}
            record_start(
                folder,
                iteration=parts.start,
                invocation=invocation,
                asked=asked,
                used=cfg,
                environment=environment,
            )
        past = from_main(lambda: evaluations(folder / METRICS_FILE, before=parts.start))
        trainer = Trainer(
            parallel(parts.model, device),
            parts.batches,
            parts.state.optimizer,
            build_schedule(cfg.SOLVER),
            build_hooks(parts, folder, device, precision, evaluation, request, past, profile=profile),
            precision=precision,
            scaler=parts.state.scaler,
            clip_gradients=cfg.SOLVER.CLIP_GRADIENTS,
            accumulate=cfg.SOLVER.ACCUMULATE,
            evaluate=evaluation if evaluation.wanted else None,
            eval_period=cfg.TEST.EVAL_PERIOD,
        )
        left = max(cfg.SOLVER.MAX_ITER - parts.start, 0)
        logger.info("training from iteration %d: %d left of %d", parts.start, left, cfg.SOLVER.MAX_ITER)
        results = trainer.train(parts.start, cfg.SOLVER.MAX_ITER, known=past.get(parts.start - 1))
        if views is not None and evaluation.wanted:  # beside the run's own figures, among which it would stand out
            results = evaluation(views)
            if is_main_process():
                what = f"the end, {views}"
                evaluated = Evaluated.now(what, evaluation.seconds, evaluation.figures)
                report_on(folder, parts.test_sets, evaluated, config=dump(cfg), page=cfg.TEST.REPORT)
        log_beside(results, list(parts.test_sets), cfg, invocation.files, trained=True)
        logger.info("done; the run is in %s", folder)
        return results


def test(cfg: CfgNode, *, weights: Sequence[str] = (), invocation: Invocation = Invocation()) -> dict[str, float]:
    """Evaluate on DATASETS.TEST; the metrics.

    Args:
        weights: what to evaluate; else the newest checkpoint in OUTPUT_DIR, else MODEL.WEIGHTS.
        invocation: where the config's values come from, by which they win over what the weights need
            (`engine.needs.follow`). With the config's files, figures that were published for it are logged beside the
            metrics.

    Raises:
        ConfigError, DatasetError, CheckpointError, RunError: what is wrong with config, data or weights.
    """
    folder = Path(cfg.OUTPUT_DIR).expanduser()
    with checks.at_the_door():
        checks.check_values(cfg, training=False)
        device = _pick_device(cfg)
        precision = choose_precision("TEST.AMP", cfg.TEST.AMP, device)
        checks.make_folder(folder)
    with logs.logging_to(folder), process_group(device):
        with checks.at_the_door():
            newest = newest_checkpoint(folder)
            specs = tuple(weights) or ((str(newest),) if newest else tuple(cfg.MODEL.WEIGHTS))
            if not specs:
                raise CheckpointError(
                    f"no weights to evaluate: {folder} holds no checkpoint, and MODEL.WEIGHTS is empty"
                )
            logger.info("evaluating %s", ", ".join(specs))
            loaded = merge([read_weights(spec) for spec in specs])
            test_sets = read_test_sets(cfg, proposals=True)
            list_changes(folder, list(test_sets.values()))
            first, *others = test_sets.values()
            for other in others:
                checks.check_same_classes(first.class_names, first.source, other)
            cfg = checks.fill_in_classes(cfg, first)
            cfg = follow(cfg, loaded.needs, loaded.source, invocation.origins)
            model = build_model(cfg)
            classes = None if model.outputs is Proposals else first.class_names  # proposals are of no class
            load_weights(model, loaded, strict=True, class_names=classes)
            prepare_inference(model, device, precision)
            if cfg.COMPILE:
                model.compile_parts()
            logger.info("computing in %s", precision)
            _, mapper = build_mappers(cfg, model.task)
            evaluation = Evaluation(cfg, model, test_sets, mapper, folder / INFERENCE, precision)
            views = MultiViewInference.from_config(cfg, model)
        results = evaluation(views)
        log_beside(results, list(test_sets), cfg, invocation.files, trained=False)
        if is_main_process() and cfg.TEST.EVALUATORS:  # of losses alone nothing would be in it, and the last one stays
            what = ", ".join(specs) if views is None else f"{', '.join(specs)}, {views}"
            evaluated = Evaluated.now(what, evaluation.seconds, evaluation.figures)
            report_on(folder, test_sets, evaluated, config=dump(cfg), page=cfg.TEST.REPORT)
        return results


def _claim(folder: Path, *, resume: bool, restarted: bool) -> None:
    """Make the run's folder. One that holds a run is for going on with it, by who asks for it or had begun it."""
    claim = folder / CLAIM_FILE
    has_our_name = claim.exists() and claim.read_text() == job()
    if has_our_name and not restarted:
        claim.unlink()  # of another job of that name: the restarts of this one are not to be taken for its
    if not resume and not (restarted and has_our_name):
        checks.check_unused(folder)
    checks.make_folder(folder)
    WholeFile.remove_parts(folder)
    if name := job():
        write_atomically(claim, name.encode())


def _pick_device(cfg: CfgNode) -> torch.device:
    device = env.pick_device(cfg.MODEL.DEVICE, local_rank() if world_size() > 1 else None)
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def _newest_state(folder: Path, cfg: CfgNode) -> dict[str, Any] | None:
    """The newest checkpoint, with its path as "source"; None when there is none, which is said and no error."""
    path = newest_checkpoint(folder)
    if path is None:
        logger.info("nothing to resume in %s: starting from the beginning", folder)
        return None
    content = load_checkpoint(path)
    check_resumable(content, str(path))
    logger.info("resuming from %s, after iteration %d", path, content["iteration"])
    before, now = (dict(leaves(yaml.safe_load(text))) for text in (content["config"], dump(cfg)))
    filled_in = {"MODEL.NUM_CLASSES", "SEED"}
    for key in sorted((before.keys() | now.keys()) - filled_in):
        if before.get(key) != now.get(key):
            logger.info("changed since: %s %s -> %s", key, json.dumps(before.get(key)), json.dumps(now.get(key)))
    return {**content, "source": str(path)}
