"""Images a second of two processes that train together, against one process alone, each with one thread.

    python benchmarks/processes.py [--config mask_rcnn/mask_rcnn_r18_fpn_small_scratch] [--rounds 5] [KEY VALUE ...]

Every process trains on two images a step, at a shorter side of 320 pixels, on the built-in shapes, by the engine's own
trainer: alone, or in DistributedDataParallel over gloo. The samples are read before, and the same in each round.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from machine import describe
from yacs.config import CfgNode

import maskrcnn
from maskrcnn.engine.parts import build_parts, parallel
from maskrcnn.engine.precision import choose_precision
from maskrcnn.engine.solver import build_schedule
from maskrcnn.engine.trainer import Trainer

CPU = torch.device("cpu")
WARM_UP = 3
SIZES = ["INPUT.MIN_SIZE_TRAIN", "[320]", "INPUT.MAX_SIZE_TRAIN", "480"]
DATA = ["DATASETS.TRAIN", "[shapes_train]", "DATASETS.TEST", "[]", "DATALOADER.NUM_WORKERS", "0"]


def train(number: int, count: int, cfg: CfgNode, folder: str, steps: int) -> None:
    """Leaves the seconds of each step in the folder, as the first process saw them."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(number), WORLD_SIZE=str(count), LOCAL_RANK=str(number))
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=count)
    precision = choose_precision("SOLVER.AMP", cfg.SOLVER.AMP, CPU)
    parts = build_parts(cfg, CPU, precision, None)
    batches = itertools.cycle(list(itertools.islice(parts.batches, 8)))
    schedule = build_schedule(cfg.SOLVER)
    trainer = Trainer(
        *(parallel(parts.model, CPU), batches, parts.state.optimizer, schedule, []),
        precision=precision,
        scaler=parts.state.scaler,
        clip_gradients=cfg.SOLVER.CLIP_GRADIENTS,
    )
    trainer.model.train()
    seconds = [trainer.step(i, cfg.SOLVER.MAX_ITER).time for i in range(WARM_UP + steps)][WARM_UP:]
    if number == 0:
        Path(folder, "seconds").write_text(" ".join(map(str, seconds)))
    if count > 1:
        dist.destroy_process_group()


def images_per_second(count: int, config: str, overrides: list[str], steps: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        batch = ["SOLVER.IMS_PER_BATCH", str(2 * count), "OUTPUT_DIR", folder, "MODEL.DEVICE", "cpu"]
        cfg = maskrcnn.load_config(config, [*DATA, *SIZES, *batch, *overrides])
        arguments: tuple[Any, ...] = (count, cfg, folder, steps)
        mp.start_processes(train, arguments, nprocs=count, start_method="fork")
        seconds = [float(word) for word in Path(folder, "seconds").read_text().split()]
    return 2 * count * len(seconds) / sum(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="mask_rcnn/mask_rcnn_r18_fpn_small_scratch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12, help="of each in a round")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(describe())
    ratios = []
    for _ in range(arguments.rounds):
        one, two = (
            images_per_second(count, arguments.config, arguments.overrides, arguments.steps) for count in (1, 2)
        )
        ratios.append(two / one)
        print(f"one process {one:.2f} images/s, two {two:.2f}: {ratios[-1]:.2f}x", flush=True)
    print(f"median {statistics.median(ratios):.2f}x")


if __name__ == "__main__":
    main()
