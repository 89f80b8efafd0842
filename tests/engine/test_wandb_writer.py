"""Weights & Biases, by the library itself: what it kept in the run's folder is read back by its own command."""

import importlib.util
import json
import logging
import subprocess
import sys
import threading

import numpy as np
import pytest

from maskrcnn.engine.writers import WandB
from maskrcnn.engine.writers import wandb as writer_module

if not importlib.util.find_spec("wandb"):
    pytest.skip("wandb is not installed", allow_module_level=True)

CONFIG = {"SEED": 7, "SOLVER": {"MAX_ITER": 40, "BASE_LR": 0.02}}
TRAINING = {"total_loss": 2.5, "loss_cls": 1.5, "time": 0.5}


def tear_down():
    """The library waits for its service without end, which now and then does not come."""
    import wandb

    thread = threading.Thread(target=wandb.teardown, daemon=True)
    thread.start()
    thread.join(10)


@pytest.fixture(autouse=True)
def nobody_at_home(tmp_path, monkeypatch):
    """No login, no settings, and no server under any name."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_NAME", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "HOME": str(tmp_path / "home"),
        "NETRC": str(tmp_path / "home" / "netrc"),
        "WANDB_CONFIG_DIR": str(tmp_path / "home"),
        "WANDB_CACHE_DIR": str(tmp_path / "home"),
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_CONSOLE": "off",
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "home").mkdir()
    tear_down()  # it reads its variables once
    yield
    tear_down()


def open_run(folder, start=0):
    folder.mkdir(exist_ok=True)
    return WandB(folder=folder, start=start, config=CONFIG)


def records(folder):
    """The records of all the parts of a W&B run, oldest part first."""
    lines = []
    for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
        lines += subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    return [json.loads(line) for line in lines]


def said(caplog):
    return [record.message for record in caplog.records if record.name.startswith("maskrcnn")]


def of_kind(found, kind):
    return [record[kind] for record in found if record["type"] == kind]


def exit_codes(found):
    return [record["exit_code"] for record in of_kind(found, "exit")]


def test_without_a_login_everything_stays_in_the_runs_folder(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="maskrcnn")
    folder = tmp_path / "first try"
    writer = open_run(folder)
    writer.write(19, TRAINING)
    writer.write(39, {"segm/AP": 12.5, "segm/AP-mug (blue)": float("nan")})
    writer.picture(39, "predictions/7", np.full((6, 8, 3), 200, np.uint8))
    writer.close()
    (part,) = (folder / "wandb").glob("offline-run-*")
    assert said(caplog) == [
        "not logged in to W&B (wandb login, or WANDB_API_KEY)",
        f"W&B is offline; to upload this run later: wandb sync '{part}'",
    ]
    found = records(folder)
    (run,) = of_kind(found, "run")
    assert run["project"] == "maskrcnn" and run["display_name"] == "first try"
    assert run["run_id"] == (folder / "wandb_id").read_text()
    assert run["config"]["update"].items() >= CONFIG.items()
    training, metrics, picture = (history["item"] for history in of_kind(found, "history"))
    assert training["iteration"] == 19 and training["train/total_loss"] == 2.5 and training["train/loss_cls"] == 1.5
    assert metrics["iteration"] == 39 and metrics["segm/AP"] == 12.5 and metrics["segm/AP-mug (blue)"] == "NaN"
    assert picture["predictions/7.width"] == 8 and (part / "files" / picture["predictions/7.path"]).is_file()
    (axis,) = of_kind(found, "metric")
    assert (axis["glob_name"], axis["step_metric"]) == ("*", "iteration")
    assert exit_codes(found) == [0]


def test_a_resumed_run_goes_on_in_the_same_wandb_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for start in (0, 20):
        writer = open_run(tmp_path / "run", start)
        writer.write(start + 9, TRAINING)
        writer.close()
    found = records(tmp_path / "run")
    first, second = of_kind(found, "run")
    assert first["run_id"] == second["run_id"] and second["resume"]
    assert [history["item"]["iteration"] for history in of_kind(found, "history")] == [9, 29]
    assert exit_codes(found) == [1, 1]  # neither reached the last iteration


@pytest.mark.parametrize("login", ["fails", "passes"])
def test_a_server_that_is_not_there_stops_no_run(tmp_path, monkeypatch, caplog, login):
    monkeypatch.setenv("WANDB_API_KEY", 40 * "0")
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "1")
    if login == "passes":  # and the network goes away behind it
        monkeypatch.setattr("wandb.login", lambda prompt: True)
        monkeypatch.setattr(writer_module, "START_TIMEOUT", 1)
    writer = open_run(tmp_path / "run")
    writer.write(39, TRAINING)
    writer.close()
    (warning,) = said(caplog)
    assert warning.startswith("W&B cannot be used online: ") and "127.0.0.1:9" in warning
    found = records(tmp_path / "run")
    assert [history["item"]["iteration"] for history in of_kind(found, "history")] == [39]


def test_a_service_that_never_ends_stops_no_run(tmp_path, monkeypatch, caplog):
    import wandb

    held, asked = threading.Event(), []

    def init(**options):
        asked.append(options.get("mode"))
        if len(asked) == 1:
            raise RuntimeError("no network")
        return wandb.Run

    monkeypatch.setenv("WANDB_API_KEY", 40 * "0")
    monkeypatch.setattr("wandb.login", lambda prompt: True)
    monkeypatch.setattr("wandb.init", init)
    monkeypatch.setattr("wandb.teardown", held.wait)
    monkeypatch.setattr(writer_module, "LEAVE_TIMEOUT", 0.1)
    try:
        assert writer_module._open(tmp_path, CONFIG) is wandb.Run
    finally:
        held.set()
    assert asked == [None, "offline"] and said(caplog) == ["W&B cannot be used online: no network"]


def test_disabled_is_disabled(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    writer = open_run(tmp_path / "run")
    writer.write(39, TRAINING)
    writer.close()
    assert not list((tmp_path / "run").glob("wandb/*run-*"))
