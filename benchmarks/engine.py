"""What the training engine costs beside the steps: hooks, logging, finite guard, checkpoints, against a bare loop.

    python benchmarks/engine.py [--config demo/shapes] [--rounds 9] [--steps 20] [KEY VALUE ...]

Both train the same model on the same batches, `--steps` of them in turns: the bare loop with a forward pass, a backward
pass, clipping and the optimizer's step, the engine with all that a run has (`engine.parts.build_hooks`): metrics.json,
TensorBoard, log lines, guard, stop request, a checkpoint each SOLVER.CHECKPOINT_PERIOD. Writing one is timed too.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from machine import describe, timed
from torch import nn

import maskrcnn
from maskrcnn.engine.evaluation import Evaluation
from maskrcnn.engine.hooks import Checkpointing, StopRequest
from maskrcnn.engine.parts import Parts, build_hooks, build_parts
from maskrcnn.engine.precision import choose_precision
from maskrcnn.engine.solver import build_schedule
from maskrcnn.engine.trainer import Trainer

CPU = torch.device("cpu")


def bare_loop(parts: Parts, batches: Iterator[list[Any]]) -> Callable[[int], None]:
    """Steps as a tutorial writes them."""
    model, optimizer, clip = parts.model, parts.state.optimizer, parts.cfg.SOLVER.CLIP_GRADIENTS
    precision = choose_precision("SOLVER.AMP", parts.cfg.SOLVER.AMP, CPU)

    def steps(count: int) -> None:
        model.train()
        for _ in range(count):
            batch = next(batches)
            optimizer.zero_grad()
            with precision.autocast():
                losses = model(batch)
                total = sum(value for name, value in losses.items() if name.startswith("loss_"))
            total.backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()

    return steps


def engine_loop(parts: Parts, batches: Iterator[list[Any]], folder: Path) -> tuple[Callable[[int], None], Trainer]:
    """Steps as a run makes them."""
    cfg = parts.cfg
    precision = choose_precision("SOLVER.AMP", cfg.SOLVER.AMP, CPU)
    evaluation = Evaluation(cfg, parts.model, {}, parts.test_mapper, folder / "inference", precision)
    trainer = Trainer(
        parts.model,
        batches,
        parts.state.optimizer,
        build_schedule(cfg.SOLVER),
        build_hooks(parts, folder, CPU, precision, evaluation, StopRequest(), {}),
        precision=precision,
        scaler=parts.state.scaler,
        clip_gradients=cfg.SOLVER.CLIP_GRADIENTS,
    )
    done = itertools.count()

    def steps(count: int) -> None:
        trainer.model.train()
        for _ in range(count):
            step = trainer.step(next(done), cfg.SOLVER.MAX_ITER)
            for hook in trainer.hooks:
                hook.after_step(step)

    return steps, trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="demo/shapes")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20, help="of each in a round")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    print(describe())
    with tempfile.TemporaryDirectory() as folder:
        overrides = ["OUTPUT_DIR", folder, "DATALOADER.NUM_WORKERS", "0", "MODEL.DEVICE", "cpu", *arguments.overrides]
        cfg = maskrcnn.load_config(arguments.config, overrides)
        parts = build_parts(cfg, CPU, choose_precision("SOLVER.AMP", cfg.SOLVER.AMP, CPU), None)
        cached = list(itertools.islice(parts.batches, 2 * arguments.steps))  # both get the same, already read
        bare = bare_loop(parts, itertools.cycle(cached))
        engine, trainer = engine_loop(parts, itertools.cycle(cached), Path(folder))
        bare(3), engine(3)
        ratios, seconds = [], []
        for i in range(arguments.rounds):
            pair: dict[str, float] = {}
            order = [("bare", bare), ("engine", engine)]
            for name, steps in order if i % 2 else reversed(order):
                pair[name] = timed(lambda steps=steps: steps(arguments.steps))
            ratios.append(pair["engine"] / pair["bare"])
            seconds.append(pair["bare"] / arguments.steps)
        overhead = statistics.median(ratios) - 1
        print(f"a bare step {1000 * statistics.median(seconds):.1f} ms; the engine adds {100 * overhead:.2f}%")
        print(
            f"  (of {arguments.rounds} rounds, from {100 * (min(ratios) - 1):.2f}% to {100 * (max(ratios) - 1):.2f}%)"
        )
        hooks = [time_hook(trainer, hook) for hook in trainer.hooks]
        print("each hook, in microseconds a step:", "; ".join(hooks))
        checkpointing = next(hook for hook in trainer.hooks if isinstance(hook, Checkpointing))
        writing = statistics.median(timed(lambda: checkpointing.save_latest(0)) for _ in range(5))
        share = writing / cfg.SOLVER.CHECKPOINT_PERIOD / statistics.median(seconds)
        print(f"writing a checkpoint: {1000 * writing:.0f} ms, {100 * share:.2f}% of the steps between two")


def time_hook(trainer: Trainer, hook: Any) -> str:
    """Microseconds, in a step after which nothing is due."""
    step = trainer.step(100, 10**9)
    start = time.perf_counter()
    for _ in range(100):
        hook.after_step(step)
    return f"{type(hook).__name__} {1e4 * (time.perf_counter() - start):.0f}"


if __name__ == "__main__":
    main()
