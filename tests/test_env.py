import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from maskrcnn import env
from maskrcnn.env import machine


def test_auto_is_the_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert env.pick_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert env.pick_device("auto") == torch.device("cuda")


def test_each_of_several_processes_has_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert env.pick_device("auto", 1) == env.pick_device("cpu", 1) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert env.pick_device("auto", 1) == env.pick_device("cuda", 1) == torch.device("cuda:1")
    with pytest.raises(ValueError, match="process 2 of this machine has no GPU, since there are 2"):
        env.pick_device("auto", 2)
    with pytest.raises(ValueError, match=r"MODEL\.DEVICE is 'cuda:0' for every process"):
        env.pick_device("cuda:0", 1)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x"])
def test_no_such_device(name):
    with pytest.raises(ValueError, match=r"MODEL\.DEVICE is .*use auto, cpu, cuda or cuda:N"):
        env.pick_device(name)


def test_a_device_that_this_machine_lacks(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert env.pick_device("cuda").type == "cuda"
    with pytest.raises(ValueError, match="sees 1 CUDA devices"):
        env.pick_device("cuda:1")


def test_the_summary_holds_what_a_bug_report_needs():
    text = env.summary()
    for part in (torch.__version__, "python:", "numpy:", "operators:", "instruction sets:", "memory:"):
        assert part in text


@pytest.mark.parametrize("command", [["maskrcnn.env"], ["maskrcnn", "env"]])
def test_python_runs_it_as_a_module(command):
    """Without a warning on the error output, which a bug report would begin with."""
    variables = {**os.environ, "PYTHONPATH": str(Path(env.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-m", *command], env=variables, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("maskrcnn:")


@pytest.mark.parametrize(
    ("compiled", "devices", "expected"),
    [(True, {"cpu", "meta"}, "compiled for CPU"), (True, {"cpu", "cuda", "meta"}, "compiled for CPU and CUDA")]
    + [(False, set(), "reference (plain PyTorch, slower)")],
)
def test_the_summary_says_what_the_operators_are_compiled_for(monkeypatch, compiled, devices, expected):
    monkeypatch.setattr(machine.extension, "COMPILED", compiled)
    monkeypatch.setattr(machine.extension, "devices", lambda operator: frozenset(devices))
    line = next(line for line in env.summary().splitlines() if line.startswith("operators:"))
    assert line.split(":", 1)[1].strip() == expected


def test_the_peak_of_memory_is_more_than_a_tensor():
    kept = torch.ones(8 << 20)  # 32 MiB, written to
    peak = env.peak_memory(torch.device("cpu"))
    assert peak is None or peak > 4 * kept.numel()
