"""What a benchmark says of the machine it ran on, and how it times two things beside each other."""

from __future__ import annotations

import ctypes
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
    times = in_turns({"ours": ours, "peer": peer}, rounds=rounds)
    ratio = statistics.median(b / a for a, b in zip(times["ours"], times["peer"], strict=True))
    return statistics.median(times["ours"]), statistics.median(times["peer"]), ratio


def in_turns(contenders: dict[str, Callable[[], object]], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of each, in turns after one round of warm-up, so that a slow minute of the machine meets all of them."""
    for work in contenders.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            times[name].append(timed(work))
    return times


def memory_peak(work: Callable[[], object]) -> float | None:
    """MiB that the work needs beyond what the process holds already; None where Linux's /proc does not tell."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what is free already would be used again, and not seen
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    except (OSError, AttributeError):
        return None
    work()
    return _status("VmHWM") - before


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
