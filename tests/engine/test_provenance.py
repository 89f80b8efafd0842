import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from processes import in_processes
from tiny_model import write_config

from maskrcnn import cli
from maskrcnn.cli.train import command_line
from maskrcnn.config import load_config
from maskrcnn.engine import provenance, run, writers
from maskrcnn.engine.provenance import Invocation, git_state, launcher, read_record, without_secrets

SHORT = {"MAX_ITER": 2, "STEPS": [], "CHECKPOINT_PERIOD": 0}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Encoding TensorBoard's pictures would be most of these tests' time."""
    monkeypatch.setattr(writers.TensorBoard, "picture", writers.Writer.picture)


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path, SOLVER=SHORT, TEST={"EVALUATORS": []}, MODEL={"NAME": "TinyModel"})


def git(folder, *words):
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=trunk"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "code"
    folder.mkdir()
    git(folder, "init")
    for name in ("a.py", "two words.py", "gone.py"):
        (folder / name).write_text(f"{name}\n" * 20)
    git(folder, "add", ".")
    git(folder, "commit", "-m", "first")
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://u:p@h.org/a.pth", "https://***@h.org/a.pth"),
        ("https://h.org:80/a@b.pth?x=1&y=2", "https://h.org:80/a@b.pth?***"),
        ("train 'MODEL.WEIGHTS=[https://h/a?t=1,2, s3://k@b/c]' --resume", None),
        ("https://h/a.pth", "https://h/a.pth"),
        ("maskrcnn train --config what?.yaml a@b C:/x?y", "maskrcnn train --config what?.yaml a@b C:/x?y"),
        ("", ""),
    ],
)
def test_what_is_secret_in_a_link(text, expected):
    expected = expected if expected is not None else "train 'MODEL.WEIGHTS=[https://h/a?***, s3://***@b/c]' --resume"
    assert without_secrets(text) == expected


def test_a_clean_repository(repository):
    commit = git(repository, "rev-parse", "HEAD")
    assert git_state(repository) == {"commit": commit, "branch": "trunk", "changed": [], "more": 0}


def test_what_is_changed_is_named_from_the_root(repository):
    (repository / "two words.py").write_text("changed")
    (repository / "gone.py").unlink()
    git(repository, "mv", "a.py", "moved.py")
    (repository / "sub").mkdir()
    (repository / "sub" / "nëw.py").write_text("new")
    git(repository, "config", "status.relativePaths", "true")
    assert sorted(git_state(repository / "sub")["changed"]) == ["a.py", "gone.py", "moved.py", "sub/", "two words.py"]
    git(repository, "add", "sub")
    assert "sub/nëw.py" in git_state(repository)["changed"]


def test_what_two_branches_changed(repository):
    git(repository, "checkout", "-b", "other")
    (repository / "two words.py").write_text("other")
    git(repository, "commit", "-am", "other")
    git(repository, "checkout", "trunk")
    (repository / "two words.py").write_text("trunk")
    git(repository, "commit", "-am", "trunk")
    with pytest.raises(subprocess.CalledProcessError):
        git(repository, "merge", "other")
    assert git_state(repository)["changed"] == ["two words.py"]


def test_many_changes_are_counted(repository):
    for i in range(103):
        (repository / f"{i:03}.png").touch()
    state = git_state(repository)
    assert state["changed"] == [f"{i:03}.png" for i in range(100)] and state["more"] == 3


def test_a_detached_head(repository):
    git(repository, "checkout", "--detach")
    state = git_state(repository)
    assert state["branch"] is None and len(state["commit"]) == 40


def test_without_a_repository_a_commit_or_git(tmp_path, repository, monkeypatch):
    assert git_state(tmp_path) is None
    git(tmp_path, "init")
    assert git_state(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(repository) is None


def test_git_that_takes_long(tmp_path, monkeypatch, caplog):
    (tmp_path / "git").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(provenance, "GIT_SECONDS", 0.2)
    assert git_state(tmp_path) is None
    assert "git takes more than 0.2 s" in caplog.text


def train(config, *arguments):
    return cli.main(["train", "--config", str(config), *map(str, arguments)])


def test_each_start_is_recorded(config, tmp_path, repository, monkeypatch):
    monkeypatch.chdir(repository)
    before = datetime.now(UTC) - timedelta(seconds=1)
    assert train(config, "SEED=-1", "WRITERS", "[]") == 0
    record = read_record(tmp_path / "run" / "run.json")
    (start,) = record["starts"]
    when = datetime.fromisoformat(start["when"])
    assert when.utcoffset() is not None and before <= when <= datetime.now(UTC)
    assert start["command"] == f"maskrcnn train --config {config} SEED=-1 WRITERS '[]'"
    assert (start["iteration"], start["processes"], start["machines"]) == (0, 1, 1)
    assert start["folder"] == str(repository) and start["git"] == git_state(repository)
    environment = dict(start["environment"])
    assert {"torch", "python", "CPU", "operators"} < environment.keys()
    assert environment["device"] == "cpu" and environment["precision"] == "float32 (as asked)"
    origins = record["origins"]
    assert origins["SEED"] == origins["MODEL.NUM_CLASSES"] == "filled in at the start"
    assert origins["WRITERS"] == "command line" and origins["SOLVER.GAMMA"] == "default"
    assert origins["SOLVER.MAX_ITER"] == str(config)

    assert train(config, "SOLVER.MAX_ITER=4", "--resume") == 0
    record = read_record(tmp_path / "run" / "run.json")
    assert [each["iteration"] for each in record["starts"]] == [0, 2] and record["starts"][0] == start
    assert record["origins"]["SOLVER.MAX_ITER"] == "command line"  # the newest start's


def test_a_start_from_python_has_no_command(config, tmp_path):
    run.train(load_config(config))
    record = read_record(tmp_path / "run" / "run.json")
    assert record["starts"][0]["command"] == ""
    assert record["origins"] == {"MODEL.NUM_CLASSES": "filled in at the start"}


def test_an_evaluation_is_no_start(config, tmp_path):
    assert train(config, "TEST.EVALUATORS=[mean_score]") == 0
    before = (tmp_path / "run" / "run.json").read_bytes()
    assert train(config, "--eval-only", "TEST.EVALUATORS=[mean_score]") == 0
    assert (tmp_path / "run" / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b'{"starts": {}}', b'{"starts": [], "origins": null}']
    + [b'{"starts": [{"when": "now"}], "origins": {}}', b'{"starts": [3], "origins": {}}'],
)
def test_a_file_of_somebody_else_is_kept_beside(config, tmp_path, content):
    path = tmp_path / "run" / "run.json"
    path.parent.mkdir()
    path.write_bytes(content)
    run.train(load_config(config))
    assert len(read_record(path)["starts"]) == 1
    assert (path.parent / "run.json.old").read_bytes() == content
    log = (path.parent / "log.txt").read_text()
    assert "WARNING" in log and "kept as run.json.old" in log


def test_what_cannot_be_written_stops_no_run(config, tmp_path):
    (tmp_path / "run" / "run.json").mkdir(parents=True)
    run.train(load_config(config))
    assert (tmp_path / "run" / "model_final.pth").exists()
    assert "this start cannot be recorded" in (tmp_path / "run" / "log.txt").read_text()


def trained(number, path):
    run.train(load_config(path), invocation=Invocation("by a test"))


def test_of_two_processes_the_main_one_records(config, tmp_path):
    assert in_processes(2, trained, config) == [None, None]
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [(start["processes"], start["machines"]) for start in content["starts"]] == [(2, 1)]
    assert content["starts"][0]["command"] == "by a test"


def test_the_command_under_torchrun(monkeypatch):
    arguments = ["--config", "my cells.yaml"]
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert command_line(arguments) == "maskrcnn train --config 'my cells.yaml'"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert command_line(arguments) == "torchrun --nproc-per-node 4 -m maskrcnn train --config 'my cells.yaml'"


def test_launchers():
    assert launcher(machines=1, per_machine=1) == "maskrcnn train"
    assert launcher(machines=1, per_machine=2) == "torchrun --standalone --nproc-per-node 2 -m maskrcnn train"
    assert launcher(machines=3, per_machine=1) == (
        "torchrun --nnodes 3 --rdzv-backend c10d --rdzv-endpoint FIRST_MACHINE:29500 --nproc-per-node 1 "
        "-m maskrcnn train"
    )


def test_no_file_is_an_empty_record(tmp_path):
    assert read_record(tmp_path / "run.json") == {"starts": [], "origins": {}}
    assert not list(Path(tmp_path).iterdir())
