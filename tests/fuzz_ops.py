"""Random calls of every operator, good ones and bad ones, under sanitizers on request.

    python tests/fuzz_ops.py --calls 100000 --sanitize

A call must give a result of the shapes and dtypes that its fake promises, or raise ValueError, RuntimeError or
MemoryError; anything else, a report of AddressSanitizer or UBSan, or a call of more than a minute fails. Every tenth
call goes to the CUDA kernels' source, which runs on the CPU here (tests/ops/cuda_on_cpu).

A new operator needs a line in `GENERATORS` for each argument whose name is not there yet. Calls are made from the seed
and their number alone: the report of a failure ends with the command that repeats it.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from maskrcnn.ops import extension  # noqa: E402
from ops import cuda_on_cpu  # noqa: E402

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
DTYPES = (*FLOATS, torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64)
SIZES = (0, 1, 2, 3, 4, 5, 7, 9, 16, 17, 33)
SMALL_SIZES = (0, 1, 2, 3, 5)  # a block of fibers is a thousand times slower than a thread of a GPU
ODD_NUMBERS = (0, -1, -7, 2**31, 2**40, 2**62, -(2**63))
ODD_FLOATS = (0.0, -1.0, 1e30, -1e30, 1e-30, float("nan"), float("inf"), -float("inf"))
MEMORY = 1536 << 20  # no call may take more; what asks for it must fail in order
SECONDS_PER_CALL = 60
SANITIZERS = "-fsanitize=address,undefined,float-cast-overflow -fno-sanitize=vptr -fno-sanitize-recover=all"


class Case:
    """What the arguments of one call have in common: the sizes that their shapes share, by letter, and the dtype."""

    def __init__(self, seed: str, sizes: tuple[int, ...] = SIZES) -> None:
        self.random = random.Random(seed)
        self.torch = torch.Generator().manual_seed(self.random.getrandbits(60))
        self.sizes = sizes
        self.dtype = self.random.choice(FLOATS)
        self.shared: dict[str, Any] = {}

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """The same for every argument that asks for it in this call."""
        if key not in self.shared:
            self.shared[key] = make()
        return self.shared[key]

    def size(self, letter: str) -> int:
        size: int = self.once(letter, lambda: self.random.choice(self.sizes))
        return size

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    @property
    def box_dtype(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def floats(self, *shape: str | int, dtype: torch.dtype | None = None) -> Tensor:
        """Normal numbers of a random magnitude, at times with some that are not finite; letters are shared sizes."""
        sizes = [self.size(s) if isinstance(s, str) else s for s in shape]
        values = torch.randn(sizes, generator=self.torch, dtype=torch.float64)
        values *= self.random.choice((1.0, 1.0, 0.0, 1e-3, 100.0, 1e30))
        if self.chance(0.2) and values.numel() > 0:
            at = torch.randint(values.numel(), (3,), generator=self.torch)
            values.view(-1)[at] = torch.tensor(self.random.choices(ODD_FLOATS, k=3), dtype=torch.float64)
        return self.layout(values.to(dtype or self.dtype))

    def probabilities(self, *shape: str, dtype: torch.dtype | None = None) -> Tensor:
        sizes = [self.size(s) for s in shape]
        return self.layout(torch.rand(sizes, generator=self.torch, dtype=torch.float64).to(dtype or self.dtype))

    def integers(self, *shape: str | int, low: int, high: int, dtype: torch.dtype = torch.int64) -> Tensor:
        """In [low, high), at times one that is not."""
        sizes = [self.size(s) if isinstance(s, str) else s for s in shape]
        values = torch.randint(low, max(high, low + 1), sizes, generator=self.torch, dtype=torch.int64)
        if self.chance(0.05) and values.numel() > 0:
            values.view(-1)[self.random.randrange(values.numel())] = self.random.choice(ODD_NUMBERS)
        return values.to(dtype)

    def offsets(self, groups: str, total: str) -> Tensor:
        """(groups + 1,) ascending from 0 to the size `total`; at times not."""
        inner = torch.randint(0, self.size(total) + 1, (self.size(groups),), generator=self.torch).sort().values
        offsets = torch.cat((torch.zeros(1, dtype=torch.int64), inner))
        offsets[-1] = self.size(total) if self.size(groups) > 0 else 0
        if self.chance(0.1):
            offsets[self.random.randrange(len(offsets))] = self.random.choice((*ODD_NUMBERS, 3))
        return offsets

    def boxes(self, count: str, dtype: torch.dtype | None = None) -> Tensor:
        """(count, 4) within some tens of pixels; at times inverted, without area, huge or not finite."""
        dtype = dtype or self.box_dtype
        corner = torch.rand(self.size(count), 2, generator=self.torch, dtype=torch.float64) * 40 - 8
        sides = torch.rand(self.size(count), 2, generator=self.torch, dtype=torch.float64) * 30
        boxes = torch.cat((corner, corner + sides), dim=1)
        kind = self.random.choice(("usual", "usual", "whole", "inverted", "huge", "odd"))
        if kind == "whole":
            boxes = boxes.round()
        elif kind == "inverted":
            boxes = boxes[:, [2, 3, 0, 1]]
        elif kind == "huge" and self.chance(0.3):
            boxes *= self.random.choice((1e3, 1e9, 1e30))
        elif kind == "odd" and len(boxes) > 0:
            row, column = self.random.randrange(len(boxes)), self.random.randrange(4)
            boxes[row, column] = self.random.choice(ODD_FLOATS)
        return self.layout(boxes.to(dtype))

    def rois(self) -> Tensor:
        index = self.integers("R", 1, low=0, high=self.size("N")).to(self.box_dtype)
        return torch.cat((index, self.boxes("R")), dim=1)

    def layout(self, values: Tensor) -> Tensor:
        """The same values in some memory layout."""
        kind = self.random.choice(("contiguous", "contiguous", "channels_last", "transposed", "strided", "offset"))
        if kind == "channels_last" and values.ndim == 4:
            return values.contiguous(memory_format=torch.channels_last)
        if kind == "transposed" and values.ndim >= 2:
            return values.mT.contiguous().mT
        if kind == "strided":
            return torch.stack((values, values), dim=-1)[..., 1]
        if kind == "offset" and values.ndim > 0:
            return torch.cat((values[:1], values))[min(1, len(values)) :]
        return values

    def levels(self) -> list[tuple[int, int]]:
        sizes: list[tuple[int, int]] = self.once(
            "levels",
            lambda: [(self.random.choice(self.sizes), self.random.choice(self.sizes)) for _ in range(self.count())],
        )
        return sizes

    def count(self) -> int:
        return self.random.choice((1, 1, 2, 4))

    def small(self) -> int:
        return self.random.choice((1, 1, 2, 3, 7))


def level_tensors(case: Case) -> list[Tensor]:
    return [case.floats("N", "C", height, width) for height, width in case.levels()]


def lengths(case: Case) -> Tensor:
    """How many of the total each of G masks has."""
    made: Tensor = case.once("lengths", lambda: case.integers("G", low=0, high=6))
    return made


def total_length(case: Case) -> int:
    return min(int(lengths(case).clamp(0, 50).sum()), 10_000)


# How to make an argument: by "operator.argument", else by the argument's name alone.
GENERATORS: dict[str, Callable[[Case], Any]] = {
    # RoIs and features
    "input": lambda case: case.floats("N", "C", "H", "W"),
    "features": level_tensors,
    "rois": Case.rois,
    "scale": lambda case: case.random.choice((1.0, 0.5, 0.25, 1 / 16)),
    "scales": lambda case: [0.5**k for k in range(len(case.levels()))],
    "sizes": lambda case: [case.size("N"), *(side for level in case.levels() for side in level)],
    "level_rule": lambda case: None if case.chance(0.5) else [4.0, 16.0, 1e-6, 2.0, case.random.choice((0.0, 1.0))],
    "height": lambda case: case.once("h", case.small),
    "width": lambda case: case.once("w", case.small),
    "sampling_ratio": lambda case: case.random.choice((0, 1, 2, 3)),
    "grad": lambda case: case.floats("R", "C", case.once("h", case.small), case.once("w", case.small)),
    "argmax": lambda case: case.integers(
        "R",
        "C",
        case.once("h", case.small),
        case.once("w", case.small),
        low=-1,
        high=case.size("H") * case.size("W"),
        dtype=torch.int32,
    ),
    "images": lambda case: case.size("N"),
    "in_height": lambda case: case.size("H"),
    "in_width": lambda case: case.size("W"),
    # Suppression
    "boxes": lambda case: case.boxes("R"),
    "scores": lambda case: case.floats("R", dtype=case.box_dtype),
    "groups": lambda case: case.integers("R", low=0, high=3) if case.chance(0.8) else torch.zeros(0, dtype=torch.int64),
    "padded_nms.boxes": lambda case: torch.stack([case.boxes("P") for _ in range(case.size("N"))] or [case.boxes("N")]),
    "padded_nms.scores": lambda case: case.floats("N", "P", dtype=case.box_dtype),
    "padded_nms.groups": lambda case: case.integers("P", low=0, high=3),
    "iou_threshold": lambda case: case.random.choice((0.0, 0.3, 0.5, 1.0)),
    "max_keep": lambda case: case.random.choice((0, 1, 5, 100)),
    "sigma": lambda case: case.random.choice((0.1, 0.5, 2.0)),
    "min_score": lambda case: case.random.choice((0.0, 0.001, 0.5)),
    # Masks
    "masks": lambda case: case.probabilities("R", "m", "m"),
    "threshold": lambda case: case.random.choice((0.0, 0.3, 0.5, 1.0)),
    "stops": lambda case: case.integers("R", case.once("w", case.small), low=0, high=3).cumsum(dim=-1),
    "total": lambda case: case.random.choice((0, 1, 5, 20)),
    "size": lambda case: case.once("h", case.small),
    "offsets": lambda case: case.offsets("G", "T"),
    "ring_offsets": lambda case: case.offsets("rings", "T"),
    "object_offsets": lambda case: case.offsets("G", "rings"),
    "index": lambda case: case.integers("R", low=0, high=case.size("G")),
    "points": lambda case: case.floats("T", 2, dtype=case.box_dtype),
    "queries": lambda case: case.floats("R", "P", 2, dtype=case.box_dtype),
    "cover_cells.boxes": lambda case: case.boxes("R", dtype=torch.float64),
    "sample_runs.points": lambda case: case.floats("R", "P", 2, dtype=case.box_dtype),
    "lengths": lengths,
    "counts": lambda case: case.integers(total_length(case), low=0, high=20),
    "text": lambda case: case.integers(total_length(case), low=48, high=112, dtype=torch.uint8),
    "bitmaps": lambda case: case.integers("G", case.small(), case.small(), low=0, high=2, dtype=torch.bool),
    "corners": lambda case: case.integers("G", 2, low=0, high=case.small()),
    "runs": lambda case: case.integers("T", 3, low=0, high=9, dtype=torch.int32),
    # Keypoints; of boxes beyond any image some thousand samples per cell may be looked at
    "decode_keypoints.boxes": lambda case: case.boxes("R").clamp(-1e3, 1e3) if case.chance(0.95) else case.boxes("R"),
    "heatmaps": lambda case: case.floats("R", "K", "m", "m"),
}


def operators() -> list[str]:
    """The names of the compiled operators."""
    names = [name.partition("::") for name in torch._C._dispatch_get_all_op_names()]
    return sorted({name.split(".")[0] for namespace, _, name in names if namespace == "maskrcnn"})


def without_generator(operator: str) -> list[str]:
    """The operator's arguments that nothing in `GENERATORS` makes, but for those that are True or False."""
    return [
        argument.name
        for argument in schema_of(operator).arguments
        if str(argument.type) != "bool" and not {argument.name, f"{operator}.{argument.name}"} & set(GENERATORS)
    ]


def schema_of(operator: str) -> Any:
    return getattr(torch.ops.maskrcnn, operator).default._schema


def make_arguments(operator: str, case: Case) -> list[Any]:
    """Mostly what belongs together; in every second call something is made wrong."""
    arguments = []
    for argument in schema_of(operator).arguments:
        make = GENERATORS.get(f"{operator}.{argument.name}", GENERATORS.get(argument.name))
        arguments.append(make(case) if make else case.chance(0.5))
    while case.chance(0.5) and arguments:
        at = case.random.randrange(len(arguments))
        arguments[at] = spoil(arguments[at], case)
    return arguments


def spoil(value: Any, case: Case) -> Any:
    """A value of the schema's type, but perhaps not one that the operator can take."""
    if isinstance(value, Tensor):
        return spoil_tensor(value, case)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return case.random.choice(ODD_NUMBERS)
    if isinstance(value, float):
        return case.random.choice(ODD_FLOATS)
    if isinstance(value, list) and value:
        at = case.random.randrange(len(value))
        kind = case.random.choice(("drop", "repeat", "spoil"))
        inner = {"drop": [], "repeat": [value[at]] * 2, "spoil": [spoil(value[at], case)]}[kind]
        return [*value[:at], *inner, *value[at + 1 :]]
    return value


def spoil_tensor(value: Tensor, case: Case) -> Tensor:
    kinds = ["dtype", "unsqueeze", "flatten", "number", "layout"]
    if value.ndim > 0:
        kinds += ["cut", "grow", "empty", "expand", "odd"]
    kind = case.random.choice(kinds)
    dimension = case.random.randrange(max(value.ndim, 1))
    if kind == "dtype":
        return value.to(case.random.choice(DTYPES))
    if kind == "unsqueeze":
        return value.unsqueeze(dimension)
    if kind == "flatten":
        return value.flatten()
    if kind == "number":
        return value.new_zeros(())
    if kind == "cut":
        return value.narrow(dimension, 0, max(value.shape[dimension] - 1, 0))
    if kind == "grow":
        return torch.cat((value, value), dim=dimension)
    if kind == "empty":
        return value.narrow(dimension, 0, 0)
    if kind == "expand" and value.shape[dimension] > 0:
        return value.narrow(dimension, 0, 1).expand(value.shape)
    if kind == "odd" and value.numel() > 0 and value.dtype != torch.bool:
        value, numbers = value.clone(), ODD_FLOATS if value.is_floating_point() else (0, 1, 47, 127)
        if value.numel() > 1 or value.is_contiguous():
            index = tuple(case.random.randrange(side) for side in value.shape)
            value[index] = case.random.choice(numbers)
        return value
    return case.layout(value)


def describe(operator: str, arguments: Iterable[Any]) -> str:
    def one(value: Any) -> str:
        if isinstance(value, Tensor):
            dtype = str(value.dtype).removeprefix("torch.")
            return f"{dtype}{list(value.shape)} of strides {list(value.stride())} on {value.device}"
        return "[" + ", ".join(map(one, value)) + "]" if isinstance(value, list) else repr(value)

    names = [argument.name for argument in schema_of(operator).arguments]
    given = ", ".join(f"{name}={one(value)}" for name, value in zip(names, arguments, strict=True))
    return f"{operator}({given})"


class Wrong(Exception):
    """A call did what it must not."""


def call(namespace: Any, operator: str, arguments: list[Any]) -> bool:
    """True: a result as its fake promises; False: refused in order. Raises Wrong."""
    try:
        results = getattr(namespace, operator)(*arguments)
    except (ValueError, RuntimeError, MemoryError):
        return False
    except Exception as error:
        raise Wrong(f"raised {type(error).__name__}: {error}") from error
    promised = fake_results(operator, arguments)
    results = flat(results)
    if len(results) != len(promised):
        raise Wrong(f"{len(results)} results instead of {len(promised)}")
    for result, fake in zip(results, promised, strict=True):
        shapes_differ = result.ndim != fake.ndim or any(
            isinstance(side, int) and side != actual for side, actual in zip(fake.shape, result.shape, strict=True)
        )
        if shapes_differ or result.dtype != fake.dtype:
            raise Wrong(f"gave {result.dtype} {list(result.shape)}; its fake says {fake.dtype} {list(fake.shape)}")
    return True


def fake_results(operator: str, arguments: list[Any]) -> list[Tensor]:
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:

        def fake(value: Any) -> Any:
            if isinstance(value, Tensor):
                return mode.from_tensor(value, static_shapes=True)
            return [fake(one) for one in value] if isinstance(value, list) else value

        try:
            return flat(getattr(torch.ops.maskrcnn, operator)(*map(fake, arguments)))
        except Exception as error:
            raise Wrong(f"gave a result, but its fake raised {type(error).__name__}: {error}") from error


def flat(results: Any) -> list[Tensor]:
    return [results] if isinstance(results, Tensor) else [one for part in results for one in flat(part)]


def run_calls(args: argparse.Namespace, last_call: Path) -> int:
    """In the process that may crash: makes the calls; `last_call` tells the other one which call it was."""
    chosen = [args.only] if args.only else operators()
    if not args.sanitize:  # the sanitizer has a limit of its own
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    on_cuda_source = cuda_on_cpu.operators() if args.cuda_source else None
    cuda_names = [name for name in chosen if has_cuda_source(name)] if args.cuda_source else []
    names = [name for name in chosen if "cpu" in extension.devices(name)]
    counts: collections.Counter[tuple[str, bool]] = collections.Counter()
    started = time.monotonic()

    def watch() -> None:
        while True:
            before = counts.total()
            time.sleep(SECONDS_PER_CALL)
            if counts.total() == before:
                last_call.write_text(f"{last_call.read_text()}\ntook more than {SECONDS_PER_CALL} s")
                os._exit(3)

    threading.Thread(target=watch, daemon=True).start()
    for number in range(args.first, args.first + args.calls):
        use_cuda_source = bool(cuda_names) and (number % 10 == 0 or not names)
        case = Case(f"{args.seed} {number}", SMALL_SIZES if use_cuda_source else SIZES)
        operator = case.random.choice(cuda_names if use_cuda_source else names)
        arguments = make_arguments(operator, case)
        label = f"{operator} (CUDA source)" if use_cuda_source else operator
        last_call.write_text(f"{number} {label}\n{describe(operator, arguments)}")
        try:
            gave = call(on_cuda_source if use_cuda_source else torch.ops.maskrcnn, operator, arguments)
        except Wrong as wrong:
            last_call.write_text(f"{last_call.read_text()}\n{wrong}")
            return 1
        counts[label, gave] += 1
    for label in sorted({label for label, _ in counts}):
        print(f"{label:40} {counts[label, True]:8} results {counts[label, False]:8} refused")
    print(f"{counts.total()} calls in {time.monotonic() - started:.0f} s: none wrong")
    few = [label for label, _ in counts if counts[label, True] == 0 and counts[label, False] > 100]
    if few:  # then the generators are at fault
        print(f"no call of {', '.join(few)} was a good one")
        return 1
    return 0


def has_cuda_source(operator: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"{cuda_on_cpu.NAMESPACE}::{operator}", "CPU")


def sanitized_environment(environment: dict[str, str]) -> dict[str, str]:
    """Variables under which the operators are compiled with the sanitizers, and then loaded with their libraries."""
    compiler = shutil.which("g++")
    if compiler is None:
        raise SystemExit("--sanitize needs g++, whose sanitizers are shared libraries that can be loaded into Python")
    # An -O of its own does not matter: the build's -O3 comes later. Lines of the source are worth their time.
    return environment | {"CXX": f"{shlex.quote(compiler)} {SANITIZERS} -fno-omit-frame-pointer -g1"}


def preloading(environment: dict[str, str]) -> dict[str, str]:
    # libstdc++ too: the sanitizer looks for __cxa_throw when it starts, and Python has not loaded any by then.
    libraries = [library_path(name) for name in ("libasan.so", "libubsan.so", "libstdc++.so")]
    return environment | {
        "LD_PRELOAD": " ".join(libraries),
        # Python and torch leak at their exit.
        "ASAN_OPTIONS": f"detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb={MEMORY >> 20}",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def library_path(name: str) -> str:
    return subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--sanitize", action="store_true", help="under AddressSanitizer and UBSan")
    parser.add_argument("--only", metavar="OPERATOR", help="calls of this operator alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first call")
    parser.add_argument("--no-cuda-source", dest="cuda_source", action="store_false", help="the CPU's kernels alone")
    parser.add_argument("--last-call", type=Path, help=argparse.SUPPRESS)  # marks the process that may crash
    args = parser.parse_args()
    if args.last_call:
        return run_calls(args, args.last_call)

    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    if args.sanitize:
        environment = sanitized_environment(environment)
    paths = [str(HERE), str(HERE.parent), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    # Built by a process without the sanitizers' libraries, which the compiler would inherit.
    build = "from ops import cuda_on_cpu\nfrom maskrcnn.ops import extension\nextension.build(cuda=False)\n"
    build += "cuda_on_cpu.build()" if args.cuda_source else ""
    subprocess.run([sys.executable, "-c", build], env=environment | {"MASKRCNN_OPS": "reference"}, check=True)

    with tempfile.TemporaryDirectory() as folder:
        last_call, said_path = Path(folder, "call"), Path(folder, "stderr")
        command = [sys.executable, __file__, *sys.argv[1:], "--last-call", str(last_call)]
        with said_path.open("w") as errors:
            child = preloading(environment) if args.sanitize else environment
            status = subprocess.run(command, env=child, stderr=errors).returncode
        if status != 0:
            # Memory that is not there is refused in order, but torch logs each time, with a trace.
            lines = said_path.read_text(errors="replace").splitlines()
            print(*[line for line in lines if not line.startswith("frame #")][-60:], sep="\n", file=sys.stderr)
            said = last_call.read_text() if last_call.exists() else "no call was made"
            print(f"failed (status {status}) at call {said}", file=sys.stderr)
            number = said.split(" ", 1)[0]
            if number.isdigit():
                words = ["--first", number, "--calls", "1", "--seed", str(args.seed)]
                words += ["--only", args.only] if args.only else []
                words += ["--sanitize"] if args.sanitize else []
                words += [] if args.cuda_source else ["--no-cuda-source"]
                print(f"again: python {sys.argv[0]} {shlex.join(words)}", file=sys.stderr)
    return 1 if status != 0 else 0


if __name__ == "__main__":
    sys.exit(main())
