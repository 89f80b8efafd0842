"""Reading and loading data at the size of COCO.

    python benchmarks/data_loading.py --json instances_train2017.json --images train2017

`read`: a file as large as COCO's (118 k images; made by repeating the one given) is read: seconds, and the peak memory
of this process. `memory`: the proportional set size (PSS) of this process and 4 workers after 200 batches of 2 images,
and how much it grows over 2,000 more. `speed`: images per second of one worker beside torchvision's detection
pipeline (transforms v2), from JPEG files of 640x480 to a shorter side of 800 with polygon masks and flips, in turns.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torchvision
from coco_sized import ANNOTATIONS, IMAGES, repeated
from machine import describe
from torchvision.datasets import wrap_dataset_for_transforms_v2
from torchvision.transforms import v2

from maskrcnn.data import InstanceMapper, RandomHorizontalFlip, ResizeShortestEdge, build_train_loader, read_coco

SHORT, LONG = 800, 1333
MIB = 2**20


def of_size(content: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """The images of one (h, w) that have objects, without crowd regions."""
    objects = [a for a in content["annotations"] if not a.get("iscrowd")]
    annotated = {a["image_id"] for a in objects}
    images = [i for i in content["images"] if (i["height"], i["width"]) == size and i["id"] in annotated]
    kept = {image["id"] for image in images}
    return {**content, "images": images, "annotations": [a for a in objects if a["image_id"] in kept]}


def write_files(source: Path, large: Path, one_size: Path) -> None:
    content = json.loads(source.read_text())
    large.write_text(json.dumps(repeated(content, IMAGES, ANNOTATIONS, rename=False)))
    one_size.write_text(json.dumps(of_size(content, (480, 640))))


def memory_peak() -> float:
    """MiB that this process has held at most."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def proportional_memory() -> float:
    """MiB of this process and its children, shared pages counted once."""
    own = str(os.getpid())
    children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
    total = 0
    for process in (own, *children):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def ours(json_path: Path, images: Path, *, workers: int) -> Iterator[Any]:
    mapper = InstanceMapper([ResizeShortestEdge((SHORT,), LONG), RandomHorizontalFlip()], training=True)
    return build_train_loader(read_coco(json_path, images), mapper, batch_size=2, num_workers=workers, seed=0)


def torchvisions(json_path: Path, images: Path, *, workers: int) -> Iterator[Any]:
    transforms = v2.Compose([v2.ToImage(), v2.RandomShortestSize(SHORT, LONG), v2.RandomHorizontalFlip(0.5)])
    data = torchvision.datasets.CocoDetection(str(images), str(json_path), transforms=transforms)
    data = wrap_dataset_for_transforms_v2(data, target_keys=("boxes", "labels", "masks"))
    loader = torch.utils.data.DataLoader(data, batch_size=2, shuffle=True, num_workers=workers, collate_fn=list)
    while True:
        yield from loader


def read(json_path: Path, images: Path) -> None:
    before = memory_peak()
    start = time.perf_counter()
    data = read_coco(json_path, images)
    seconds = time.perf_counter() - start
    print(
        f"read: {len(data)} images, {data.num_objects.sum()} objects, {json_path.stat().st_size / MIB:.0f} MiB of JSON "
        f"in {seconds:.1f} s; memory peak of this process {memory_peak():.0f} MiB, {before:.0f} before"
    )


def memory(json_path: Path, images: Path) -> None:
    batches = ours(json_path, images, workers=4)

    def after(count: int) -> list[float]:
        """Of the last 40 batches: how many lie ready makes a difference of 40 MiB from one to the next."""
        return [proportional_memory() for i, _ in zip(range(count), batches, strict=False) if i >= count - 40]

    # The allocators of the workers fill up for about two thousand batches; what is lost steadily shows after that.
    first, warm, later = after(200), after(2000), after(2000)
    growth = [statistics.median(b) - statistics.median(a) for a, b in ((first, warm), (warm, later))]
    print(
        f"memory: {max(first):.0f} MiB in 6 processes after 200 batches, {growth[0]:+.0f} MiB after 2000 more, "
        f"{growth[1]:+.0f} MiB after 2000 more again"
    )


def speed(json_path: Path, images: Path, *, rounds: int, batches: int) -> None:
    pipelines = [ours(json_path, images, workers=1), torchvisions(json_path, images, workers=1)]
    rates: list[tuple[float, ...]] = []
    for _ in range(rounds + 1):
        pair = []
        for pipeline in pipelines:
            for _ in range(4):  # what the worker made while the other one was timed
                next(pipeline)
            start = time.perf_counter()
            for _ in range(batches):
                next(pipeline)
            pair.append(2 * batches / (time.perf_counter() - start))
        rates.append(tuple(pair))
    mine, theirs = (statistics.median(column) for column in zip(*rates[1:], strict=True))
    ratio = statistics.median(a / b for a, b in rates[1:])
    print(f"speed: one worker, ours {mine:.1f} images/s, torchvision's {theirs:.1f}: {ratio:.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="a COCO annotation file")
    parser.add_argument("--images", type=Path, required=True, help="the folder of its images")
    parser.add_argument("--parts", nargs="+", choices=("read", "memory", "speed"), default=["read", "memory", "speed"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=20, help="of one timing")
    args = parser.parse_args()
    torch.set_num_threads(2)
    print(describe())
    with tempfile.TemporaryDirectory() as folder:
        large, one_size = Path(folder) / "large.json", Path(folder) / "640x480.json"
        # in a process of its own, whose memory is not counted here
        writer = multiprocessing.get_context("spawn").Process(target=write_files, args=(args.json, large, one_size))
        writer.start()
        writer.join()
        if "read" in args.parts:
            read(large, args.images)
        if "memory" in args.parts:
            memory(large, args.images)
        if "speed" in args.parts:
            speed(one_size, args.images, rounds=args.rounds, batches=args.batches)


if __name__ == "__main__":
    main()
