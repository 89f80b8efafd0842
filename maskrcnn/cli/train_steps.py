"""`maskrcnn train_steps`: RPN and detector trained in turn, until they share a trunk."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from maskrcnn.config import lineage, trace_config
from maskrcnn.engine.alternating import train_in_steps
from maskrcnn.engine.hooks.preemption import EXIT_CODE, Preempted
from maskrcnn.engine.provenance import Invocation


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="maskrcnn train_steps",
        description="Train a detector with an RPN in four steps (Ren et al. 2015): RPN, detector on its proposals, RPN "
        "on the detector's trunk, detector's own layers on the same trunk. Each is a run in OUTPUT_DIR/step1 ... "
        "step4; OUTPUT_DIR/model_final.pth is the detector of them all. Called again, it goes on where it stopped.",
        epilog="example: maskrcnn train_steps --config mask_rcnn/mask_rcnn_r50_fpn_160k_coco OUTPUT_DIR output/steps",
    )
    p.add_argument(
        "--config", "--config-file", required=True, metavar="FILE", help="a file, or a shipped config's name"
    )
    p.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config values, also as KEY=VALUE")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_intermixed_args(argv)  # intermixed: a flag after the overrides counts
    try:
        cfg, origins = trace_config(args.config, args.overrides)
        train_in_steps(cfg, tell=print, invocation=Invocation(origins=origins, files=lineage(args.config)))
    except Preempted as stop:
        print(f"maskrcnn train_steps: {stop}", file=sys.stderr)
        return EXIT_CODE
    return 0
