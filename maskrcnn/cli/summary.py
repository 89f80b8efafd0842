"""`maskrcnn summary`: parameters, multiply-adds and activations of a config's model, module by module."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from maskrcnn.config import load_config
from maskrcnn.engine.summary import summarize


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="maskrcnn summary",
        description="What a config's model is made of and costs, for one inference of one image. Needs neither weights "
        "nor data; proposals and detections are as many as the config allows.",
        epilog="example: maskrcnn summary --config mask_rcnn/mask_rcnn_r50_fpn_1x_coco MODEL.BACKBONE.DEPTH 101",
    )
    p.add_argument(
        "--config", "--config-file", required=True, metavar="FILE", help="a file, or a shipped config's name"
    )
    p.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="of the image as the network gets it (what INPUT makes at test time of one of 480 x 640)",
    )
    p.add_argument("--depth", type=int, default=2, metavar="N", help="levels of modules to show (2)")
    p.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config values, also as KEY=VALUE")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_intermixed_args(argv)  # intermixed: a flag after the overrides counts
    if args.size and min(args.size) < 1:
        p.error(f"--size is {args.size[0]} {args.size[1]}; both must be at least 1")
    if args.depth < 0:
        p.error(f"--depth is {args.depth}; it must be at least 0")
    size = (args.size[0], args.size[1]) if args.size else None
    print(summarize(load_config(args.config, args.overrides), size=size, depth=args.depth))
    return 0
