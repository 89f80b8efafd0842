import pickle
import sys

import pytest

from maskrcnn import cli
from maskrcnn.cli.slurm import Training

submitit = pytest.importorskip("submitit")

# A training that stops once, in one way or another, and writes down how it was started when it goes on.
FAKE = """
import os, signal, sys
folder, how = sys.argv[1:]
def note(name, text=""):
    with open(os.path.join(folder, name), "a") as file:
        file.write(text)
def stop(number, frame):
    note("saved", "once ")
    sys.exit(75)
signal.signal(signal.SIGUSR1, stop)
note("starts", "start ")
if os.path.exists(os.path.join(folder, "saved")):
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    note("environment", " ".join(os.environ[name] for name in names))
    sys.exit(0)
if how == "fails":
    sys.exit(3)
if how == "by itself":
    stop(0, None)
os.kill(os.getppid(), {"preempted": signal.SIGUSR2, "cancelled": signal.SIGTERM}[how])  # as Slurm does
signal.pause()
"""


def run(tmp_path, how):
    executor = submitit.LocalExecutor(tmp_path / "jobs")
    executor.update_parameters(timeout_min=1)
    return executor.submit(Training([sys.executable, "-c", FAKE, str(tmp_path), how]))


@pytest.mark.parametrize("how", ["preempted", "by itself"])
def test_a_stopped_training_goes_on(tmp_path, how):
    assert run(tmp_path, how).result() is None
    assert (tmp_path / "starts").read_text() == "start start "
    assert (tmp_path / "saved").read_text() == "once "
    rank, local_rank, world_size, host, port = (tmp_path / "environment").read_text().split()
    assert (rank, local_rank, world_size) == ("0", "0", "1") and host and int(port) > 1024


def test_a_cancelled_training_saves_and_ends(tmp_path):
    with pytest.raises(submitit.core.utils.FailedJobError, match="75"):
        run(tmp_path, "cancelled").result()
    assert (tmp_path / "starts").read_text() == "start " and (tmp_path / "saved").read_text() == "once "


def test_a_failed_training_is_not_started_again(tmp_path):
    with pytest.raises(submitit.core.utils.FailedJobError, match="exit status 3"):
        run(tmp_path, "fails").result()
    assert (tmp_path / "starts").read_text() == "start "


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """Commands of Slurm's names: the file holds the script that was submitted."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("sbatch", f'cp "$1" {tmp_path}/script; echo Submitted batch job 1234'), ("srun", "")):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return tmp_path / "script"


def test_what_is_submitted(tmp_path, sbatch, capsys):
    output = tmp_path / "a run"
    words = ["--config", "demo/shapes", "OUTPUT_DIR", str(output), "SOLVER.MAX_ITER=7", "SOLVER.IMS_PER_BATCH=8"]
    options = ["--nodes", "2", "--gpus-per-node", "4", "--time", "90", "--partition", "gpu", "--comment", "a b"]
    assert cli.main(["slurm", *options, "--", *words]) == 0
    assert "job 1234" in capsys.readouterr().out
    script = sbatch.read_text()
    for line in (
        "nodes=2",
        "ntasks-per-node=4",
        "gpus-per-node=4",
        "cpus-per-task=4",
        "time=90",
        "partition=gpu",
        "comment='a b'",
        "signal=USR2@300",
    ):
        assert f"#SBATCH --{line}\n" in script
    assert "qos" not in script
    with open(output / "slurm" / "1234_submitted.pkl", "rb") as file:
        training = pickle.load(file).function
    assert training.command == [sys.executable, "-m", "maskrcnn", "train", *words, "--resume"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--", "--config", "demo/shapes", "SOLVER.MAX_ITERS", "7"], "SOLVER.MAX_ITERS"),
        (["--", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--", "--config", "demo/shapes", "SOLVER.MAX_ITER=0"], "SOLVER.MAX_ITER is 0"),
        (["--", "--config", "demo/shapes", "WRITERS=[tensorbord]"], "tensorbord"),
        (
            ["--nodes", "2", "--gpus-per-node", "4", "--", "--config", "demo/shapes"],
            "SOLVER.IMS_PER_BATCH is 2",
        ),
    ],
)
def test_a_wrong_config_is_found_before_the_queue(words, part, sbatch, capsys):
    assert cli.main(["slurm", *words]) == 2
    assert part in capsys.readouterr().err and not sbatch.exists()


def test_another_run_is_gone_on_with_only_when_that_is_asked_for(tmp_path, sbatch, capsys):
    (tmp_path / "model_0000004.pth").write_text("")
    words = ["slurm", "--", "--config", "demo/shapes", f"OUTPUT_DIR={tmp_path}", "--profile"]
    assert cli.main(words) == 2
    assert "holds another run (model_0000004.pth)" in capsys.readouterr().err and not sbatch.exists()
    assert cli.main([*words, "--resume"]) == 0
    with open(tmp_path / "slurm" / "1234_submitted.pkl", "rb") as file:
        assert pickle.load(file).function.command[3:] == ["train", *words[2:], "--resume"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--nodes", "0", "--", "--config", "demo/shapes"], "--nodes is 0"),
        (["--", "--config", "demo/shapes", "--eval-only"], "--eval-only"),
        ([], "--config"),
    ],
)
def test_wrong_arguments(words, part, sbatch, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["slurm", *words])
    assert end.value.code == 2 and part in capsys.readouterr().err and not sbatch.exists()


def test_without_submitit(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert cli.main(["slurm", "--", "--config", "demo/shapes"]) == 2
    assert "pip install 'maskrcnn[slurm]'" in capsys.readouterr().err


def test_without_slurm(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["slurm", "--", "--config", "demo/shapes", f"OUTPUT_DIR={tmp_path}"]) == 2
    assert "sbatch" in capsys.readouterr().err
