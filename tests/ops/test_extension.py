import hashlib
import os
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from maskrcnn.cli import build as build_command
from maskrcnn.ops import extension

ROOT = Path(extension.__file__).parents[2]
posix = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in compiler is a shell script")
needs_compiler = pytest.mark.skipif(extension.find_compiler() is None, reason="no C++ compiler here")

# Logs its arguments, and writes the -o file as a compiler would.
STAND_IN = """#!/bin/sh
echo "$@" >> "{log}"
{extra}
while [ "$1" != "-o" ]; do shift; done
echo compiled > "$2"
"""

# What a process says about its operators; they must work whichever they are.
REPORT = """
import torch
from maskrcnn.ops import extension, nms, roi_align
boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]])
assert nms(boxes, torch.tensor([0.1, 0.2, 0.3]), 0.5).tolist() == [2, 1]
pooled = roi_align(torch.ones(1, 2, 8, 8), torch.tensor([[0.0, 2, 2, 6, 6]]), scale=1.0, output_size=(2, 2))
assert pooled.eq(1).all()
print(extension.COMPILED, extension.LIBRARY)
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("MASKRCNN_CACHE", str(folder))
    monkeypatch.delenv("MASKRCNN_OPS", raising=False)
    return folder


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A function that makes the stand-in compiler the compiler; it gives the lines that were logged."""
    log = tmp_path / "log"
    program = tmp_path / "bin" / "fake-c++"
    program.parent.mkdir()

    def install(extra=""):
        program.write_text(STAND_IN.format(log=log, extra=extra))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("CXX", str(program))
        return lambda: log.read_text().splitlines() if log.exists() else []

    return install


def start_process(cache, **environment):
    variables = {k: v for k, v in os.environ.items() if k not in ("CXX", "MASKRCNN_OPS", "CUDA_HOME", "CUDA_PATH")}
    variables |= {"MASKRCNN_CACHE": str(cache), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    variables |= {"CUDA_VISIBLE_DEVICES": ""} | environment  # or the first import would take minutes
    return subprocess.Popen(
        [sys.executable, "-c", REPORT],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


@needs_compiler
def test_the_first_import_builds_and_later_ones_load(tmp_path):
    """Two processes start at once: one builds, with one line; a third finds the library, even without a compiler."""
    cache, nothing = tmp_path / "cache", tmp_path / "empty"
    nothing.mkdir()
    results = [finish(process) for process in [start_process(cache), start_process(cache)]]
    lines = [line for _, err in results for line in err.splitlines()]
    assert lines == ["building the maskrcnn operators (once, half a minute)"]
    libraries = list(cache.glob(f"*{extension.LIBRARY_SUFFIX}"))
    assert [out for out, _ in results] == [f"True {libraries[0]}\n"] * 2
    assert {path.suffix for path in cache.iterdir()} == {extension.LIBRARY_SUFFIX, ".lock"}  # no leavings
    assert finish(start_process(cache, PATH=str(nothing))) == (f"True {libraries[0]}\n", "")


def test_without_a_compiler_the_references_serve(tmp_path):
    nothing = tmp_path / "empty"
    nothing.mkdir()
    out, err = finish(start_process(tmp_path / "cache", PATH=str(nothing)))
    assert out == "False None\n"
    assert err.count("the slower reference operators serve: no C++ compiler") == 1
    assert not (tmp_path / "cache").exists()


def test_the_references_can_be_chosen(tmp_path):
    assert finish(start_process(tmp_path / "cache", MASKRCNN_OPS="reference")) == ("False None\n", "")
    assert not (tmp_path / "cache").exists()


def test_an_unknown_choice_is_an_error(monkeypatch):
    monkeypatch.setenv("MASKRCNN_OPS", "fast")
    with pytest.raises(ValueError, match="MASKRCNN_OPS is 'fast'"):
        extension._load()


@posix
def test_builds_once_for_each_source_and_compiler(cache, stand_in, monkeypatch, tmp_path):
    log = stand_in()
    library = extension.build(cuda=False)
    assert library.parent == cache and library.read_text() == "compiled\n"
    num_sources = len(list(extension.source_folder().glob("*.cpp")))
    assert len(log()) == num_sources + 1  # and the link
    assert all("-march=native" not in line and "-ffast-math" not in line for line in log())
    assert extension.build(cuda=False) == library
    assert len(log()) == num_sources + 1

    stand_in("# a newer compiler")
    assert extension.build(cuda=False) != library

    sources = tmp_path / "csrc"
    sources.mkdir()
    (sources / "one.cpp").write_text("int one;")
    monkeypatch.setattr(extension, "source_folder", lambda: sources)
    first = extension.build(cuda=False)
    (sources / "one.cpp").write_text("int two;")
    assert extension.build(cuda=False) != first


@posix
def test_older_compilers_get_an_older_standard(cache, stand_in):
    log = stand_in('case "$*" in *c++20*) echo "no such standard" >&2; exit 1;; esac')
    assert extension.build(cuda=False).is_file()
    assert sum("-std=c++17" in line for line in log()) == len(list(extension.source_folder().glob("*.cpp")))


@posix
def test_a_compilers_error_is_shown_and_leaves_nothing(cache, stand_in):
    stand_in('echo "ops.cpp:1: error: it is broken" >&2; exit 1')
    with pytest.raises(extension.BuildError, match=r"(?s)fake-c\+\+.*error: it is broken"):
        extension.build(cuda=False)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    with pytest.warns(RuntimeWarning, match="reference operators serve: the compiler failed"):
        assert extension._load() is None


@posix
def test_one_builder_at_a_time(cache, stand_in):
    log = stand_in("sleep 0.2")
    with ThreadPoolExecutor(3) as pool:
        libraries = set(pool.map(lambda _: extension.build(cuda=False), range(3)))
    assert len(libraries) == 1
    assert len(log()) == len(list(extension.source_folder().glob("*.cpp"))) + 1


@posix
def test_the_lock_of_a_dead_process_holds_nobody(cache, stand_in):
    stand_in()
    lock = extension._library(extension.find_compiler(), None).with_suffix(".lock")
    lock.parent.mkdir()
    hold = "import sys, time\nfrom pathlib import Path\nfrom maskrcnn.ops import extension\n"
    hold += "with extension._lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(100)"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MASKRCNN_OPS": "reference"}
    process = subprocess.Popen(
        [sys.executable, "-c", hold, str(lock)], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with ThreadPoolExecutor(1) as pool:
        building = pool.submit(extension.build, cuda=False)
        time.sleep(0.3)
        assert not building.done()
        process.kill()
        process.wait()
        assert building.result(timeout=10).is_file()


@needs_compiler
@pytest.mark.skipif(not extension.COMPILED, reason="the operators are not compiled")
def test_a_damaged_library_is_built_again(cache, monkeypatch):
    library = extension._library(extension.find_compiler(), None)
    library.parent.mkdir()
    library.write_bytes(b"half a library")
    found_at_build = []

    def build(*arguments, **options):
        found_at_build.append(library.exists())
        return extension.LIBRARY  # a whole one, to save the seconds of a real build

    monkeypatch.setattr(extension, "_build", build)
    assert extension._load() == extension.LIBRARY
    assert found_at_build == [False]


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MASKRCNN_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("CXX", sys.executable)
    with pytest.raises(extension.BuildError, match="set MASKRCNN_CACHE"):
        extension.build(cuda=False)


def test_missing_compilers_are_named(cache, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    with pytest.raises(extension.BuildError, match="looked for no-such-compiler -O1"):
        extension.build()


@posix
def test_cuda_on_demand_says_what_is_missing(cache, stand_in, monkeypatch, tmp_path):
    stand_in()
    monkeypatch.setattr(extension, "find_nvcc", lambda: None)
    with pytest.raises(extension.BuildError, match="cannot build the CUDA kernels: "):
        extension.build(cuda=True)
    assert "-cpu-" in extension.build().name  # where it may, it goes without


@pytest.fixture
def cuda_sources(cache, tmp_path, monkeypatch):
    """A C++ and a CUDA source, a torch with CUDA, the stand-in compiler as nvcc, and no GPU."""
    sources = tmp_path / "csrc"
    sources.mkdir()
    (sources / "one.cpp").write_text("int one;")
    (sources / "one_cuda.cu").write_text("int two;")
    monkeypatch.setattr(extension, "source_folder", lambda: sources)
    monkeypatch.setattr(extension, "find_nvcc", extension.find_compiler)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(extension, "_load_library", lambda path: None)
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    see_gpus(monkeypatch)


def see_gpus(monkeypatch, *capabilities):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: capabilities[i])


def cuda_words(log):
    (line,) = [line for line in log() if "one_cuda.cu " in line]
    return line.split()


def codes(words):
    return [word for word in words if word.startswith("arch=")]


@posix
def test_a_cuda_library_is_built_where_it_can_be_and_preferred(stand_in, cuda_sources):
    log = stand_in()
    plain, cuda = extension.build(cuda=False), extension.build()
    assert "-cpu-" in plain.name and "-cuda-" in cuda.name
    assert "--fmad=false" in cuda_words(log)
    assert "-ltorch_cuda" in log()[-1]
    assert extension._cached_libraries(extension.find_compiler(), None) == [cuda, plain]
    assert extension._cached_libraries(None, None) == [cuda, plain]


@posix
@pytest.mark.parametrize(
    ("chosen", "gpus", "machine_code", "ptx"),
    [
        ("", [], ["75", "80", "86", "89", "90"], "90"),
        ("", [(9, 0), (8, 0), (9, 0)], ["80", "90"], "90"),
        ("8.0;8.6+PTX", [(9, 0)], ["80", "86"], "86"),
        ("8.0 9.0", [], ["80", "90"], None),
        ("9.0a, 10.0+PTX", [], ["90a", "100"], "100"),
    ],
)
def test_architectures(stand_in, cuda_sources, monkeypatch, chosen, gpus, machine_code, ptx):
    log = stand_in()
    see_gpus(monkeypatch, *gpus)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", chosen)
    extension.build()
    expected = [f"arch=compute_{number},code=sm_{number}" for number in machine_code]
    expected += [f"arch=compute_{ptx},code=compute_{ptx}"] if ptx else []
    assert codes(cuda_words(log)) == expected


@posix
@pytest.mark.parametrize("chosen", ["Ampere", "80", "8.0;Hopper+PTX", "sm_90", "8.0+SASS", "8"])
def test_names_of_architectures_are_refused(stand_in, cuda_sources, monkeypatch, chosen):
    stand_in()
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", chosen)
    with pytest.raises(extension.BuildError, match=r"TORCH_CUDA_ARCH_LIST names '[^']+'; expected numbers such as"):
        extension.build()
    see_gpus(monkeypatch, (8, 0))
    with pytest.warns(RuntimeWarning, match="go without CUDA kernels: TORCH_CUDA_ARCH_LIST"):
        assert "-cpu-" in extension._load().name


@posix
def test_the_first_import_builds_cuda_kernels_where_a_gpu_is_visible(stand_in, cuda_sources, monkeypatch, capfd):
    log = stand_in()
    assert "-cpu-" in extension._load().name  # nvcc alone is no reason to wait
    see_gpus(monkeypatch, (8, 0))
    library = extension._load()
    assert "-cuda-8.0+PTX-" in library.name
    assert "(with CUDA kernels; once, a minute or two)" in capfd.readouterr().err
    commands = len(log())
    assert extension._load() == library and len(log()) == commands


@posix
def test_a_failure_of_nvcc_is_met_once(stand_in, cuda_sources, monkeypatch):
    """The operators go without CUDA kernels, and later imports do not try again; `maskrcnn build` does."""
    log = stand_in('case "$*" in *fmad*) echo "no such GPU" >&2; exit 1;; esac')
    see_gpus(monkeypatch, (12, 0))
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match=r"(?s)go without CUDA kernels: the compiler failed.*no such GPU"):
            assert "-cpu-" in extension._load().name
    assert sum("-std=c++20" in line and "fmad" in line for line in log()) == 1
    with pytest.raises(extension.BuildError, match="no such GPU"):
        extension.build()
    assert sum("-std=c++20" in line and "fmad" in line for line in log()) == 2


@posix
@pytest.mark.parametrize(
    ("built_for", "gpu", "serves"),
    [
        ("8.0 8.6", (8, 6), True),
        ("8.0", (8, 9), True),  # machine code is good for later minor versions
        ("8.6", (8, 0), False),
        ("8.0", (9, 0), False),
        ("7.5 8.0+PTX", (9, 0), True),
        ("9.0+PTX", (8, 0), False),
        ("9.0a", (9, 0), True),
        ("10.0a", (10, 3), False),  # "a": for this very version
    ],
)
def test_a_shared_cache_gives_each_gpu_what_runs_on_it(stand_in, cuda_sources, monkeypatch, built_for, gpu, serves):
    stand_in()
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", built_for)
    library = extension.build()
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST")
    see_gpus(monkeypatch, gpu)
    for compiler in (None, extension.find_compiler()):
        assert (library in extension._cached_libraries(compiler, None)) == serves
    assert (extension._load() == library) == serves


NVCC = extension.find_nvcc()


@needs_compiler
@pytest.mark.skipif(NVCC is None, reason="no nvcc here")
@pytest.mark.skipif(torch.version.cuda is None, reason="this torch has no CUDA")
@pytest.mark.parametrize("name", [path.name for path in sorted(extension.source_folder().glob("*.cu"))])
def test_every_cuda_file_compiles(name, tmp_path):
    """For one architecture. What compiled once is not compiled again until it, a header or a compiler changes."""
    compiler, cuda = extension.find_compiler(), extension.Cuda(NVCC, ("8.0",))
    source = extension.source_folder() / name
    command = [*extension._nvcc_command(compiler, cuda, "c++20"), "-c", str(source)]
    content = [path.read_bytes() for path in [source, *sorted(source.parent.glob("*.h")), source.parent / "cuda.cuh"]]
    digest = hashlib.sha256(b"\0".join([NVCC.identity.encode(), " ".join(command).encode(), *content])).hexdigest()
    compiled = extension.cache_folder() / f"compiled-{digest[:16]}.ok"
    if not compiled.is_file():
        extension._run([*command, "-o", str(tmp_path / "object.o")], verbose=False)
        compiled.parent.mkdir(parents=True, exist_ok=True)
        compiled.touch()


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "home/.cache/maskrcnn"),
        ("linux", {"XDG_CACHE_HOME": "/var/c"}, "/var/c/maskrcnn"),
        ("darwin", {}, "home/Library/Caches/maskrcnn"),
        ("win32", {}, "home/AppData/Local/maskrcnn"),
        ("linux", {"MASKRCNN_CACHE": "~/ops"}, "home/ops"),
    ],
)
def test_the_cache_lies_where_the_platform_keeps_caches(tmp_path, monkeypatch, platform, variables, expected):
    for name in ("MASKRCNN_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (variables | {"HOME": str(tmp_path / "home"), "USERPROFILE": str(tmp_path / "home")}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert extension.cache_folder() == tmp_path / expected


@posix
def test_the_command_says_where_the_library_lies(cache, stand_in, capsys):
    log = stand_in()
    assert build_command.main(["--no-cuda", "--verbose"]) == 0
    out = capsys.readouterr().out
    assert f"operators: {extension.build(cuda=False)} (built in " in out
    assert str(log()[-1].split()[0]) in out  # the command lines
    stand_in("exit 1")
    assert build_command.main(["--no-cuda"]) == 1
    assert "maskrcnn build: the compiler failed" in capsys.readouterr().err


@pytest.mark.skipif(not extension.COMPILED, reason="the operators are not compiled")
def test_devices_are_those_with_a_kernel(monkeypatch):
    assert {"cpu", "meta"} <= extension.devices("roi_align")
    monkeypatch.setattr(extension, "COMPILED", False)
    assert extension.devices("roi_align") == set()
