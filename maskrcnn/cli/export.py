"""`maskrcnn export`: a trained model's weights in another library's layout."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from maskrcnn.checkpoint.exporters import TARGETS
from maskrcnn.engine.export import export


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="maskrcnn export",
        description="Write a trained model's weights as safetensors, or for Detectron2 or torchvision, and print the "
        "settings with which they give the same answers there.",
        epilog="example: maskrcnn export --config output/run --to detectron2 --output mask_rcnn.pth",
    )
    p.add_argument(
        "--config",
        "--config-file",
        required=True,
        metavar="FILE",
        help="a run's output folder, or a config with MODEL.WEIGHTS",
    )
    p.add_argument("--to", required=True, choices=list(TARGETS), help="whose layout")
    p.add_argument("--output", required=True, type=Path, metavar="FILE", help=".safetensors, else .pth")
    p.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config values, also as KEY=VALUE")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_intermixed_args(argv)  # intermixed: a flag after the overrides counts
    try:
        exported = export(args.config, args.output, to=args.to, overrides=args.overrides)
    except OSError as error:
        raise ValueError(f"{args.output} cannot be written ({error})") from error
    print(f"{args.output} is written")
    if exported.settings:
        print(f"\nThe same answers there need, in {args.to}:\n")
        print("\n".join(f"  {key}: {json.dumps(value)}" for key, value in exported.settings.items()))
    for note in exported.notes:
        print(f"\n{note}")
    return 0
