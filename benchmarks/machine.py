"""What a benchmark says of the machine it ran on, and how it times two things beside each other."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")


def describe() -> str:
    """CPU, instruction sets, threads, versions, and the measured peak of a float32 matrix product."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    cpu = fields.get("model name", platform.processor() or platform.machine())
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    found = [name for name in INSTRUCTION_SETS if name in flags]
    return (
        f"CPU {cpu}; {' '.join(found) or 'instruction sets unknown'}; {torch.get_num_threads()} threads; "
        f"torch {torch.__version__}; matmul peak {matmul_peak():.0f} GFLOP/s (float32)"
    )


def matmul_peak(side: int = 2048) -> float:
    """GFLOP/s of a square float32 product, the best of ten."""
    a, b = torch.randn(side, side), torch.randn(side, side)
    a @ b
    return 2 * side**3 / min(timed(lambda: a @ b) for _ in range(10)) / 1e9


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def side_by_side(ours: Callable[[], object], peer: Callable[[], object], *, rounds: int) -> tuple[float, float, float]:
    """Median seconds of ours and of the peer, in turns after one round of warm-up, and the median of peer / ours."""
    ours(), peer()
    times = [(timed(ours), timed(peer)) for _ in range(rounds)]
    mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    return mine, theirs, statistics.median(b / a for a, b in times)
