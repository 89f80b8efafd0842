"""The compiled operators: found in the cache, else built, else replaced by `reference`.

Importing this module loads the library into `torch.ops.maskrcnn` and sets `COMPILED`. The library uses LibTorch's
stable ABI alone, so one build serves every torch from 2.10 on and every Python, and a file compiles in seconds. No
ninja and no `torch.utils.cpp_extension`: a handful of files need neither.

Environment:
    MASKRCNN_OPS: `reference` leaves the compiled operators out.
    MASKRCNN_CACHE: the cache folder, instead of `maskrcnn` in the user's cache folder.
    CXX: the C++ compiler, instead of the first of c++, g++, clang++ (Windows: cl) on the PATH.
    CUDA_HOME, CUDA_PATH: where nvcc is looked for before the PATH.
    TORCH_CUDA_ARCH_LIST: architectures to build for, such as `8.0;8.6+PTX`, instead of those of the visible GPUs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

TARGET_VERSION = "0x020a000000000000"  # torch 2.10: headers refuse at compile time what an older torch lacks
LIBRARY_SUFFIX = ".dll" if sys.platform == "win32" else ".so"
COMPILERS = ("cl",) if sys.platform == "win32" else ("c++", "g++", "clang++")
SOURCE_SUFFIXES = (".cpp", ".cu", ".cuh", ".h")
ARCHITECTURES = ("7.5", "8.0", "8.6", "8.9", "9.0+PTX")  # where neither the user nor a GPU says which
ARCHITECTURE = re.compile(r"(\d+)\.(\d)([af]?)(\+PTX)?")
build_seconds: float | None = None  # what building took in this process; None: nothing was built


class BuildError(RuntimeError):
    """The operators could not be built; the message says why and what to do."""


@dataclass(frozen=True)
class Compiler:
    """A command that compiles, and what tells one installation from another."""

    command: tuple[str, ...]
    identity: str

    @property
    def is_msvc(self) -> bool:
        return Path(self.command[0]).stem.lower() in ("cl", "clang-cl")


@dataclass(frozen=True)
class Cuda:
    """What builds the CUDA kernels, and for which GPUs, as in TORCH_CUDA_ARCH_LIST."""

    nvcc: Compiler
    architectures: tuple[str, ...]


def cache_folder() -> Path:
    """`MASKRCNN_CACHE`, or `maskrcnn` in the place where this platform keeps a user's caches."""
    if chosen := os.environ.get("MASKRCNN_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "maskrcnn"


def source_folder() -> Path:
    """`csrc`: package data of an installed package, beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "csrc"
    return inside if inside.is_dir() else package.parent / "csrc"


def find_compiler() -> Compiler | None:
    """The C++ compiler, or None.

    Its identity is path, size and time of the program, not what `--version` prints: an update changes them too, and
    they cost no process at each import.
    """
    for candidate in [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS:
        words = shlex.split(candidate, posix=sys.platform != "win32")
        if words and (compiler := _compiler(shutil.which(words[0]), words[1:])):
            return compiler
    return None


def find_nvcc() -> Compiler | None:
    """nvcc of CUDA_HOME or CUDA_PATH, else of the PATH, or None."""
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")):
        if home and (found := _compiler(shutil.which("nvcc", path=str(Path(home) / "bin")), [])):
            return found
    return _compiler(shutil.which("nvcc"), [])


def _compiler(program: str | None, arguments: Sequence[str]) -> Compiler | None:
    if program is None:
        return None
    real = Path(program).resolve()
    stat = real.stat()
    return Compiler((program, *arguments), f"{real} {' '.join(arguments)} {stat.st_size} {stat.st_mtime_ns}")


def build(cuda: bool | None = None, verbose: bool = False) -> Path:
    """Build the operators into the cache, unless they lie there already; gives the library's path.

    Args:
        cuda: with (True) or without (False) the CUDA kernels; None: where nvcc, a torch with CUDA and CUDA sources are.
        verbose: print the compilers' command lines.

    Raises:
        BuildError: no compiler, a compiler's error, an unknown architecture, or a cache that cannot be written.
    """
    compiler = find_compiler()
    if compiler is None:
        raise _no_compiler()
    nvcc = find_nvcc()
    missing = _missing_for_cuda(nvcc)
    if cuda and missing:
        raise BuildError(f"cannot build the CUDA kernels: {missing}")
    with_cuda = cuda is not False and not missing
    return _build(compiler, Cuda(nvcc, _architectures()) if with_cuda and nvcc else None, verbose, announce=False)


def _no_compiler() -> BuildError:
    return BuildError(
        f"no C++ compiler (looked for {os.environ.get('CXX') or ', '.join(COMPILERS)}); install one, for example "
        "`apt install g++`, or name it in the environment variable CXX"
    )


def _missing_for_cuda(nvcc: Compiler | None) -> str:
    if not any(source_folder().glob("*.cu")):
        return f"there are no CUDA sources in {source_folder()}"
    if nvcc is None:
        return "no nvcc on the PATH or in CUDA_HOME"
    return "" if torch.version.cuda else "this torch has no CUDA; install a CUDA build of torch"


def _source_key() -> str:
    """Names what the library does and where it can run, not what built it."""
    digest = hashlib.sha256(f"{TARGET_VERSION} {sys.platform} {platform.machine()}".encode())
    # This file too: it holds the flags.
    sources = [path for path in sorted(source_folder().glob("*")) if path.suffix in SOURCE_SUFFIXES]
    for path in [Path(__file__), *sources]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _compiler_key(*compilers: Compiler) -> str:
    return hashlib.sha256("\n".join(c.identity for c in compilers).encode()).hexdigest()[:8]


def _library(compiler: Compiler, cuda: Cuda | None) -> Path:
    if cuda is None:
        built_by = f"cpu-{_compiler_key(compiler)}"
    else:
        built_by = f"cuda-{'_'.join(cuda.architectures)}-{_compiler_key(compiler, cuda.nvcc)}"
    return cache_folder() / f"operators-{_source_key()}-{built_by}{LIBRARY_SUFFIX}"


def _cached_libraries(compiler: Compiler | None, cuda: Cuda | None) -> list[Path]:
    """The libraries to try, best first. `cuda`: only those with CUDA kernels that it has built, for these GPUs or more.

    Otherwise with CUDA kernels before without: nobody waits for the former here, and old ones are better than none.
    Where there is no compiler, a library that any compiler built from these sources will do: a container may be given
    the cache alone. Where there is one, its update is a reason to build again.
    """
    by_cuda = sorted(cache_folder().glob(f"operators-{_source_key()}-cuda-*{LIBRARY_SUFFIX}"))
    by_cpu = sorted(cache_folder().glob(f"operators-{_source_key()}-cpu-*{LIBRARY_SUFFIX}"))
    if by_cuda and (visible := _visible_gpus()):  # a cache may be shared between machines
        by_cuda = [path for path in by_cuda if all(_runs_on(gpu, path) for gpu in visible)]
    if cuda and compiler:
        mine = _library(compiler, cuda)
        key = _compiler_key(compiler, cuda.nvcc)
        return sorted((path for path in by_cuda if path.stem.endswith(key)), key=lambda path: path != mine)
    return by_cuda + [path for path in by_cpu if compiler is None or path == _library(compiler, None)]


def _runs_on(gpu: tuple[int, int], library: Path) -> bool:
    """Whether the library's name promises machine code for this GPU, or PTX that its driver can compile."""
    for name in library.name.split("-cuda-")[1].rsplit("-", 1)[0].split("_"):
        if not (match := ARCHITECTURE.fullmatch(name)):
            return False
        built, suffix, ptx = (int(match[1]), int(match[2])), match[3], match[4]
        if built == gpu or (suffix != "a" and built[0] == gpu[0] and built <= gpu) or (ptx and built <= gpu):
            return True
    return False


def _build(compiler: Compiler, cuda: Cuda | None, verbose: bool, announce: bool) -> Path:
    global build_seconds
    library = _library(compiler, cuda)
    if library.is_file():
        return library
    started = time.perf_counter()
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with _lock(library.with_suffix(".lock")):
            if library.is_file():  # another process built it while this one waited
                return library
            if announce:
                how_long = "with CUDA kernels; once, a minute or two" if cuda else "once, half a minute"
                print(f"building the maskrcnn operators ({how_long})", file=sys.stderr, flush=True)
            # In the cache folder, so that the rename at the end stays within one file system and is atomic.
            with tempfile.TemporaryDirectory(prefix="build-", dir=library.parent, ignore_cleanup_errors=True) as folder:
                os.replace(_compile(compiler, cuda, Path(folder), verbose), library)
    except OSError as error:
        raise BuildError(
            f"cannot write to the cache folder {library.parent}: {error}; set MASKRCNN_CACHE to a folder of yours"
        ) from error
    build_seconds = time.perf_counter() - started
    return library


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One process at a time. The system frees the lock of a process that dies, so no stale lock is left to guess at."""
    with path.open("ab") as file:
        if sys.platform == "win32":
            import msvcrt  # exists on Windows only

            while True:
                file.seek(0)
                try:
                    msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                    break
                except OSError:  # gives up after ten seconds; a build may take longer
                    time.sleep(0.1)
            try:
                yield
            finally:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
        else:
            import fcntl  # exists elsewhere only

            # Some network file systems have no locks: then two processes may build, and the rename decides.
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _compile(compiler: Compiler, cuda: Cuda | None, folder: Path, verbose: bool) -> Path:
    """Compile every source, two at a time, and link them; gives the library in `folder`."""
    # nvcc first: its files take longest. It needs no --threads with two of them at work.
    sources = (sorted(source_folder().glob("*.cu")) if cuda else []) + sorted(source_folder().glob("*.cpp"))
    if not sources:
        raise BuildError(f"no sources in {source_folder()}; is the package complete?")

    def compile_one(source: Path) -> Path:
        target = folder / (source.name + (".obj" if compiler.is_msvc else ".o"))

        def command(standard: str) -> list[str]:
            if source.suffix == ".cu":
                assert cuda is not None
                return [*_nvcc_command(compiler, cuda, standard), "-c", str(source), "-o", str(target)]
            return _compile_command(compiler, standard, source, target)

        try:
            _run(command("c++20"), verbose)
        except BuildError as error:
            # Compilers of before 2020 lack C++20, which these sources do not need. If that was not it, the first
            # error is the one to read.
            try:
                _run(command("c++17"), verbose)
            except BuildError:
                raise error from None
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    library = folder / f"operators{LIBRARY_SUFFIX}"
    _run(_link_command(compiler, cuda, objects, library), verbose)
    return library


def _include_folders() -> list[Path]:
    return [Path(torch.__file__).parent / "include", source_folder()]


def _compile_command(compiler: Compiler, standard: str, source: Path, target: Path) -> list[str]:
    define = f"DTORCH_TARGET_VERSION={TARGET_VERSION}"
    if compiler.is_msvc:
        flags = ["/nologo", "/O2", "/EHsc", "/MD", "/DNDEBUG", "/DNOMINMAX", f"/std:{standard}", f"/{define}"]
        flags += [f"/I{path}" for path in _include_folders()]
        return [*compiler.command, *flags, "/c", str(source), f"/Fo{target}"]
    # No -march=native: a cache folder may be shared between machines. No -ffast-math: NaN and infinity mean something.
    flags = ["-O3", "-fPIC", "-DNDEBUG", "-fvisibility=hidden", "-ffp-contract=off", f"-std={standard}", f"-{define}"]
    flags += [f"-I{path}" for path in _include_folders()]
    return [*compiler.command, *flags, "-c", str(source), "-o", str(target)]


def _nvcc_command(compiler: Compiler, cuda: Cuda, standard: str) -> list[str]:
    flags = ["-O3", f"-std={standard}", "-DNDEBUG", "-DUSE_CUDA", f"-DTORCH_TARGET_VERSION={TARGET_VERSION}"]
    # As for the CPU: a kept box or the first of two equal peaks must not depend on the device, and these kernels wait
    # for memory, not for arithmetic.
    flags.append("--fmad=false")
    if not compiler.is_msvc:
        flags += ["-Xcompiler", "-fPIC,-fvisibility=hidden,-ffp-contract=off", "-ccbin", compiler.command[0]]
    for path in _include_folders():
        flags += ["-I", str(path)]
    for name in cuda.architectures:
        number = name.removesuffix("+PTX").replace(".", "")
        flags += ["-gencode", f"arch=compute_{number},code=sm_{number}"]
        if name.endswith("+PTX"):
            flags += ["-gencode", f"arch=compute_{number},code=compute_{number}"]
    return [*cuda.nvcc.command, *flags]


def _architectures() -> tuple[str, ...]:
    """What to build for: TORCH_CUDA_ARCH_LIST, else the visible GPUs with PTX for newer ones, else `ARCHITECTURES`."""
    if chosen := os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").replace(",", " ").split():
        for name in chosen:
            if not ARCHITECTURE.fullmatch(name):
                raise BuildError(
                    f"TORCH_CUDA_ARCH_LIST names {name!r}; expected numbers such as '8.0;8.6+PTX' or '8.0 9.0'"
                )
        return tuple(dict.fromkeys(chosen))
    if visible := _visible_gpus():
        names = [f"{major}.{minor}" for major, minor in visible]
        return (*names[:-1], f"{names[-1]}+PTX")
    return ARCHITECTURES


def _visible_gpus() -> list[tuple[int, int]]:
    """The compute capabilities of the visible GPUs, ascending; none for a torch without CUDA."""
    if torch.version.cuda is None:
        return []
    return sorted({torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())})


def _link_command(compiler: Compiler, cuda: Cuda | None, objects: list[Path], library: Path) -> list[str]:
    folder = Path(torch.__file__).parent / "lib"
    names = ["torch_cpu", "torch", "c10"]
    # No run path anywhere: torch's libraries are in the process already, whichever installation they come from.
    if cuda:  # nvcc knows where its run-time library lies
        host = [] if compiler.is_msvc else ["-ccbin", compiler.command[0]]
        names += ["torch_cuda", "c10_cuda"]
        command = [*cuda.nvcc.command, *host, "-shared", "-cudart", "shared"]
    elif compiler.is_msvc:
        libraries = [f"{name}.lib" for name in names]
        command = [*compiler.command, "/nologo", "/LD", *map(str, objects), f"/Fe{library}"]
        return [*command, "/link", f"/LIBPATH:{folder}", *libraries]
    else:
        command = [*compiler.command, "-shared"]
    return [*command, *map(str, objects), "-o", str(library), f"-L{folder}", *(f"-l{name}" for name in names)]


def _run(command: list[str], verbose: bool) -> None:
    if verbose:
        print(shlex.join(command), flush=True)
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise BuildError(f"the compiler could not be started: {shlex.join(command)}\n{error}") from error
    if done.returncode != 0:
        output = (done.stdout + done.stderr).strip()
        raise BuildError(f"the compiler failed:\n{shlex.join(command)}\n{output[:8000]}")
    if verbose and done.stderr.strip():
        print(done.stderr.strip(), flush=True)


def _load() -> Path | None:
    """Load the operators, building them if need be; None where `reference` must serve."""
    if (wanted := os.environ.get("MASKRCNN_OPS", "")) not in ("", "reference"):
        raise ValueError(f"MASKRCNN_OPS is {wanted!r}; the one value it takes is 'reference'")
    if wanted == "reference":
        return None
    compiler = find_compiler()
    cuda = _cuda_for_import() if compiler else None
    for kernels in (cuda, None) if cuda else (None,):
        if library := _load_cached(compiler, kernels) or _build_and_load(compiler, kernels):
            return library
    return None


def _load_cached(compiler: Compiler | None, cuda: Cuda | None) -> Path | None:
    for library in _cached_libraries(compiler, cuda):
        # A CUDA library needs a torch with CUDA; a file may be damaged, or from a machine with a newer C library.
        with contextlib.suppress(OSError):
            _load_library(library)
            return library
        if compiler is not None and library == _library(compiler, cuda):
            with contextlib.suppress(OSError):
                library.unlink()  # useless here, and in the way of the new one
    return None


def _cuda_for_import() -> Cuda | None:
    """What builds the CUDA kernels at the first import: only where a GPU is visible, and not after a failure."""
    nvcc = find_nvcc()
    if nvcc is None or _missing_for_cuda(nvcc) or not _visible_gpus():
        return None
    try:
        return Cuda(nvcc, _architectures())
    except BuildError as error:
        _warn_that("the operators go without CUDA kernels", error)
        return None


def _build_and_load(compiler: Compiler | None, cuda: Cuda | None) -> Path | None:
    failed = _library(compiler, cuda).with_suffix(".failed") if compiler and cuda else None
    try:
        if compiler is None:
            raise _no_compiler()
        if failed and failed.is_file():  # nobody wants to wait for the same failure at each import
            raise BuildError(failed.read_text())
        library = _build(compiler, cuda, verbose=False, announce=True)
        _load_library(library)
        return library
    except (BuildError, OSError) as error:
        if failed:
            with contextlib.suppress(OSError):
                failed.write_text(str(error))
        _warn_that("the operators go without CUDA kernels" if cuda else "the slower reference operators serve", error)
        return None


def _warn_that(what: str, error: Exception) -> None:
    reason = str(error)
    if len(reason) > 1000:
        reason = f"{reason[:1000]} ... (`maskrcnn build --verbose` shows all)"
    warnings.warn(f"{what}: {reason}", RuntimeWarning, stacklevel=2)


def _load_library(path: Path) -> None:
    """Raises OSError where it cannot be loaded."""
    load: Callable[[Path], None] = torch.ops.load_library
    load(path)


def devices(operator: str) -> frozenset[str]:
    """The device types on which this operator is compiled; `meta` counts, for shapes alone. Empty without a library."""
    if not COMPILED:
        return frozenset()
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    found = {kind for kind in ("cpu", "cuda") if has_kernel(f"maskrcnn::{operator}", kind.upper())}
    return frozenset(found | {"meta"})


LIBRARY: Path | None = _load()
COMPILED: bool = LIBRARY is not None
