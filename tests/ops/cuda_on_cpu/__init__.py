"""The CUDA kernels' source, compiled by the C++ compiler and run on the CPU, as `torch.ops.maskrcnn_cuda_on_cpu`."""

from __future__ import annotations

import functools
import hashlib
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from maskrcnn.ops import extension

NAMESPACE = "maskrcnn_cuda_on_cpu"
HERE = Path(__file__).resolve().parent


@functools.cache
def operators() -> Any:
    """`torch.ops.maskrcnn_cuda_on_cpu`: the operators of csrc/*.cu, for CPU tensors. Skips without a compiler."""
    torch.ops.load_library(build())
    return getattr(torch.ops, NAMESPACE)


def build() -> Path:
    """The library, from the cache if it lies there. Skips without a compiler."""
    compiler = extension.find_compiler()
    if compiler is None or compiler.is_msvc:
        pytest.skip("needs g++ or clang++")
    command = compiler.command
    source = extension.source_folder()
    files = sorted(
        [*source.glob("*.h"), *source.glob("*.cuh"), *source.glob("*.cu"), source / "ops.cpp", *HERE.glob("*")]
    )
    content = [path.read_bytes() for path in files if path.is_file()]
    digest = hashlib.sha256(b"".join([compiler.identity.encode(), *content])).hexdigest()[:16]
    library = extension.cache_folder() / f"cuda-on-cpu-{digest}.so"
    if library.is_file():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    objects = []
    for path in [source / "ops.cpp", *sorted(source.glob("*.cu"))]:
        target = library.with_suffix(f".{path.name}.o")
        flags = ["-O1", "-std=c++20", "-fPIC", f"-DTORCH_TARGET_VERSION={extension.TARGET_VERSION}"]
        flags += [f"-Dmaskrcnn={NAMESPACE}", f"-I{source}", f"-I{HERE}", "-w"]
        flags += [word for folder in extension._include_folders() for word in ("-isystem", str(folder))]
        _run([*command, *flags, "-x", "c++", "-c", str(path), "-o", str(target)])
        objects.append(target)
    folder = Path(torch.__file__).parent / "lib"
    temporary = library.with_suffix(".tmp")
    libraries = ["-ltorch_cpu", "-ltorch", "-lc10"]
    _run([*command, "-shared", *map(str, objects), "-o", str(temporary), f"-L{folder}", *libraries])
    for path in objects:
        path.unlink()
    temporary.replace(library)
    return library


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stderr[:8000]}")
