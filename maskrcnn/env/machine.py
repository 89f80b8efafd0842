"""What this machine is: devices, instruction sets, memory, versions. The log and a bug report begin with it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

import torch

from maskrcnn.ops import extension

try:
    import resource  # POSIX only
except ImportError:
    resource = None  # type: ignore[assignment]

CPU_FEATURES = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "neon", "sve", "bf16")
PACKAGES = ("torchvision", "numpy", "opencv-python-headless", "opencv-python", "faster-coco-eval", "pycocotools")


def pick_device(name: str, local_rank: int | None = None) -> torch.device:
    """MODEL.DEVICE as a device; "auto" is the GPU if torch sees a CUDA one, else the CPU.

    Args:
        local_rank: of one among several processes, each of which has a GPU of its own: the one of this number.

    Raises:
        ValueError: no such device on this machine, or no such name.
    """
    if name == "auto" and local_rank is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if local_rank is not None and (name.startswith("cuda") or name == "auto"):
        if name == "auto" and not torch.cuda.is_available():
            return torch.device("cpu")
        if name not in ("cuda", "auto"):
            raise ValueError(
                f"MODEL.DEVICE is {name!r} for every process, and each needs its own GPU; use cuda or auto"
            )
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"process {local_rank} of this machine has no GPU, since there are {torch.cuda.device_count()}; start "
                "torchrun with a lower --nproc-per-node"
            )
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"MODEL.DEVICE is {name!r}, which is no device; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"MODEL.DEVICE is {name!r}, but torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices "
            "here; use auto or cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"MODEL.DEVICE is {name!r}, but this machine has no Metal device; use auto or cpu")
    return device


def cpu_features() -> set[str]:
    """Names of the CPU's instruction sets, spelt as in CPU_FEATURES; a superset of those."""
    known = set()
    if hasattr(torch.cpu, "get_capabilities"):
        known = {name for name, value in torch.cpu.get_capabilities().items() if value is True}
    cpuinfo = Path("/proc/cpuinfo")  # older torch knows less than the kernel does
    if cpuinfo.exists():
        flags = (line.split(":", 1)[1].split() for line in cpuinfo.read_text().splitlines() if line.startswith("flags"))
        known |= {"avx512_f" if flag == "avx512f" else flag for flag in next(flags, [])}
    return known


def peak_memory(device: torch.device) -> int | None:
    """Bytes at the highest point so far: of the GPU's allocator, else of this process; None where that is unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def available_cores() -> int:
    """CPU cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def total_memory() -> int | None:
    """Bytes of this machine's memory; None where that is unknown."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    return next(int(line.split()[1]) * 1024 for line in meminfo.read_text().splitlines() if line.startswith("MemTotal"))


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def version(package: str) -> str | None:
    """The installed version of a distribution; None when it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _operators() -> str:
    if not extension.COMPILED:
        return "reference (plain PyTorch, slower)"
    names = {"cpu": "CPU", "cuda": "CUDA"}
    return f"compiled for {' and '.join(name for device, name in names.items() if device in extension.devices('nms'))}"


def facts() -> dict[str, str]:
    """What a bug report needs, by name, and nothing about the user."""
    found = {
        "maskrcnn": version("maskrcnn") or "not installed, run from its folder",
        "python": f"{platform.python_version()} on {platform.system()} {platform.release()} ({platform.machine()})",
        "torch": torch.__version__,
        **{name: installed for name in PACKAGES if (installed := version(name))},
        "operators": _operators(),
        "CPU": f"{cpu_name()}, {torch.get_num_threads()} threads",
        "instruction sets": " ".join(name for name in CPU_FEATURES if name in cpu_features()) or "none known",
        "CUDA": torch.version.cuda or "not in this torch",
    }
    if memory := total_memory():
        found["memory"] = f"{memory / 2**30:.1f} GiB"
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        found[f"GPU {index}"] = (
            f"{gpu.name}, {gpu.total_memory / 2**30:.1f} GiB, compute capability {gpu.major}.{gpu.minor}"
        )
    return found


def summary() -> str:
    """The facts as lines `name: value`."""
    found = facts()
    width = max(map(len, found))
    return "\n".join(f"{name + ':':{width + 1}} {value}" for name, value in found.items())
