"""`maskrcnn train`: train a model from a config, go on with a run, or evaluate one."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from maskrcnn.config import COMMAND_LINE, format_config, lineage, trace_config
from maskrcnn.distributed import job, local_world_size
from maskrcnn.engine import run
from maskrcnn.engine.checks import RunError
from maskrcnn.engine.hooks.preemption import EXIT_CODE, Preempted
from maskrcnn.engine.provenance import Invocation, launcher

PROFILED = "5"  # iterations, if no number is given


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="maskrcnn train",
        description="Train a model from a config; its results go to OUTPUT_DIR.",
        epilog="example: maskrcnn train --config mask_rcnn/mask_rcnn_r50_fpn_1x_coco SOLVER.IMS_PER_BATCH 4",
    )
    p.add_argument(
        "--config", "--config-file", required=True, metavar="FILE", help="a file, or a shipped config's name"
    )
    p.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in OUTPUT_DIR, if any")
    p.add_argument(
        "--eval-only",
        action="store_true",
        help="only evaluate: MODEL.WEIGHTS of the command line, else OUTPUT_DIR's newest checkpoint, else the config's",
    )
    p.add_argument(
        "--profile",
        type=iterations,
        default=0,
        metavar="[N]",
        help=f"write what N iterations spend their time on to OUTPUT_DIR/profile ({PROFILED})",
    )
    p.add_argument("--print-config", action="store_true", help="print each value and where it comes from, and stop")
    p.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1; the same as MODEL.DEVICE")
    p.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config values, also as KEY=VALUE")
    return p


def iterations(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} iterations; expected at least 1, or 0 for no profile")
    return number


def parse(arguments: list[str]) -> argparse.Namespace:
    return parser().parse_intermixed_args(with_number(arguments))  # intermixed: a flag after the overrides counts


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = parse(without_launch_flags(arguments))
    if args.profile and args.eval_only:
        parser().error("--profile is of training, which --eval-only leaves out")
    device = ["MODEL.DEVICE", args.device] if args.device else []
    cfg, origins = trace_config(args.config, [*args.overrides, *device])
    invocation = Invocation(command_line(arguments), origins, lineage(args.config))
    if args.print_config:
        print(format_config(cfg, origins))
    elif args.eval_only:
        chosen = origins.get("MODEL.WEIGHTS") == COMMAND_LINE
        run.test(cfg, weights=cfg.MODEL.WEIGHTS if chosen else (), invocation=invocation)
    else:
        try:
            run.train(cfg, resume=args.resume, profile=args.profile, invocation=invocation)
        except Preempted as stop:
            print(f"maskrcnn train: {stop}", file=sys.stderr)
            return EXIT_CODE
    return 0


def command_line(arguments: Sequence[str]) -> str:
    """What was typed, for a shell. torchrun's own options are known as far as its processes are told of them."""
    started = f"torchrun --nproc-per-node {local_world_size()} -m maskrcnn train" if job() else "maskrcnn train"
    return f"{started} {shlex.join(arguments)}"


def without_launch_flags(arguments: list[str]) -> list[str]:
    """The arguments without those by which other libraries start several processes.

    Raises:
        RunError: they ask for several; it has the line for torchrun.
    """
    launch = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    launch.add_argument("--num-gpus", type=int, default=1)
    launch.add_argument("--num-machines", type=int, default=1)
    for flag in ("--machine-rank", "--dist-url", "--launcher", "--local-rank", "--local_rank"):
        launch.add_argument(flag)
    asked, rest = launch.parse_known_args(arguments)
    if asked == launch.parse_args([]) or (asked.num_gpus == asked.num_machines == 1 and asked.launcher == "none"):
        return rest
    line = launcher(machines=asked.num_machines, per_machine=asked.num_gpus if asked.num_gpus > 1 else "GPUS")
    each = "" if asked.num_machines == 1 else ", with this line on each machine"
    raise RunError(f"several GPUs are several processes, which torchrun starts{each}:\n  {line} {shlex.join(rest)}")


def with_number(arguments: list[str]) -> list[str]:
    """The arguments with a number after each --profile: argparse would take the first override for it."""
    for i, (word, following) in enumerate(zip(arguments, [*arguments, ""][1:], strict=True)):
        if word == "--profile" and not following.removeprefix("-").isdecimal():
            return [*arguments[: i + 1], PROFILED, *arguments[i + 1 :]]
    return arguments
