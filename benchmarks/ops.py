"""The operators beside torchvision's and pycocotools': a Markdown table of medians, in one process, with two threads.

    python benchmarks/ops.py                    # every file of benchmarks/op_rows
    python benchmarks/ops.py --only keypoints   # the rows, or files, with this in their name
    python benchmarks/ops.py --device cuda      # the rows that have a form for a GPU

Ours and the peer take turns; the ratio is the median of each turn's. On a GPU the time includes the wait for it, and
the last column is the share of its peak memory bandwidth, by the bytes that any implementation has to move.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import op_rows
import torch
from machine import describe, side_by_side, timed
from op_rows import Row


def rows(device: str, only: str) -> Iterator[Row]:
    """Of all files in `op_rows`, on the CPU those of every file, elsewhere of those that take a device."""
    for module in pkgutil.iter_modules(op_rows.__path__):
        make = importlib.import_module(f"op_rows.{module.name}").rows
        takes_device = "device" in inspect.signature(make).parameters
        if device != "cpu" and not takes_device:
            print(f"{module.name}: for the CPU alone", file=sys.stderr)
            continue
        for row in make(device) if takes_device else make():
            if only in module.name or only in row.name:
                yield row


def line(row: Row, rounds: int, device: str, bandwidth: float | None) -> str:
    """The row of the table."""
    ours = finished(row.ours, device)
    if row.peer is None:
        ours()
        mine, theirs, ratio = statistics.median(timed(ours) for _ in range(rounds)), None, None
    else:
        mine, theirs, ratio = side_by_side(ours, finished(row.peer, device), rounds=rounds)
    cells = [row.name, milliseconds(mine), milliseconds(theirs), f"{ratio:.2f}x" if ratio else "–"]
    if row.target is None or ratio is None:
        cells += ["–", ""]
    else:
        cells += [f"{row.target:g}x", "met" if ratio >= row.target else "missed"]
    if bandwidth:
        cells.append(f"{row.bytes_moved / mine / bandwidth:.0%}" if row.bytes_moved else "–")
    return f"| {' | '.join(cells)} |"


def finished(work: Callable[[], object], device: str) -> Callable[[], object]:
    """The work and, on a GPU, the wait for its end."""
    if device == "cpu":
        return work

    def wait() -> None:
        work()
        torch.cuda.synchronize()

    return wait


def milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1e3:.3g} ms"


def peak_bandwidth() -> float:
    """Bytes per second that copying 1 GiB reads and writes: what a kernel can reach, rather than what is printed."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = finished(lambda: target.copy_(source), "cuda")
    copy()
    return 2 * source.numel() / min(timed(copy) for _ in range(10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="NAME", help="rows, or files, with this in their name")
    parser.add_argument("--rounds", type=int, default=7, help="of each row, after one of warm-up (7)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (2)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(describe())
    bandwidth = None
    if args.device == "cuda":
        bandwidth = peak_bandwidth()
        print(f"GPU {torch.cuda.get_device_name()}; copying moves {bandwidth / 1e9:.0f} GB/s")
    columns = ["operator", "ours", "peer", "peer / ours", "target", ""] + (["of peak"] if bandwidth else [])
    print(f"\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for row in rows(args.device, args.only):
        print(line(row, args.rounds, args.device, bandwidth), flush=True)


if __name__ == "__main__":
    main()
