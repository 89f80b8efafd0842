"""MLflow, by the library itself: what is in the store is read back by its own client."""

import importlib.util
import json
import math
import shutil
import socket
import time

import numpy as np
import pytest

from maskrcnn.engine.writers import MLflow
from maskrcnn.engine.writers.mlflow import Run

if not all(map(importlib.util.find_spec, ("mlflow", "sqlalchemy", "alembic"))):
    pytest.skip("mlflow is not installed", allow_module_level=True)

CONFIG = {"SEED": 7, "SOLVER": {"MAX_ITER": 40, "STEPS": [30]}}
TRAINING = {"total_loss": 2.5, "loss_cls": 1.5, "time": 0.5}


@pytest.fixture(autouse=True)
def nobody_at_home(tmp_path, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A database with MLflow's tables, which take it seconds to make: copies of it save them in most tests."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def folder(tmp_path, empty_store):
    """Of a run, where the store has its tables already."""
    (tmp_path / "run" / "mlruns").mkdir(parents=True)
    shutil.copy(empty_store, tmp_path / "run" / "mlruns")
    return tmp_path / "run"


def open_run(folder, start=0):
    folder.mkdir(exist_ok=True)
    return MLflow(folder=folder, start=start, config=CONFIG)


def the_run(uri):
    """The client and the one run of a store."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return client, run


def local(folder):
    return f"sqlite:///{folder}/mlruns/mlflow.db"


def points(client, run, name):
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]


def test_everything_is_in_the_runs_folder(tmp_path):
    folder = tmp_path / "first"
    writer = open_run(folder)
    writer.write(19, TRAINING)
    classes = {f"segm/AP-{i}": float(i) for i in range(1500)}  # more than MLflow takes at once
    writer.write(39, {"segm/AP": 12.5, "segm/AP-mug (blue)": 3.0, "segm/AP-none": math.nan, **classes})
    writer.picture(39, "predictions/7", np.full((6, 8, 3), 200, np.uint8))
    writer.close()
    client, run = the_run(local(folder))
    assert run.info.run_name == "first" and run.info.status == "FINISHED"
    assert run.data.params == {"SEED": "7", "SOLVER.MAX_ITER": "40", "SOLVER.STEPS": "[30]"}
    assert client.get_experiment(run.info.experiment_id).name == "maskrcnn"
    assert points(client, run, "train/total_loss") == [(19, 2.5)] and points(client, run, "segm/AP") == [(39, 12.5)]
    assert points(client, run, "segm/AP-mug _blue_") == [(39, 3.0)]
    assert math.isnan(points(client, run, "segm/AP-none")[0][1])
    assert points(client, run, "segm/AP-1499") == [(39, 1499.0)]
    assert [path.suffix for path in (folder / "mlruns" / "artifacts").rglob("*.png")] == [".png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first"]  # nothing in the current folder


def test_a_resumed_run_goes_on_in_the_same_mlflow_run_of_the_named_experiment(folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "cells")
    for start in (0, 20):
        writer = open_run(folder, start)
        writer.write(start + 9, TRAINING)
        writer.close()
    client, run = the_run(local(folder))
    assert points(client, run, "train/loss_cls") == [(9, 1.5), (29, 1.5)]
    assert run.info.status == "KILLED"  # before the last iteration
    assert client.get_experiment(run.info.experiment_id).name == "cells"


def test_a_tracking_uri_of_ones_own_is_used(tmp_path, monkeypatch, empty_store):
    shutil.copy(empty_store, tmp_path / "shared.db")
    uri = f"sqlite:///{tmp_path}/shared.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    writer = open_run(tmp_path / "run")
    writer.write(39, TRAINING)
    writer.close()
    assert points(*the_run(uri), "train/total_loss") == [(39, 2.5)]
    assert not (tmp_path / "run" / "mlruns").exists()


def test_a_server_that_is_not_there_neither_stops_nor_slows_a_run(folder, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    writer = open_run(folder)
    writer.write(19, TRAINING)
    writer.write(39, {"segm/AP": 12.5})
    writer.close()
    (warning,) = [record.message for record in caplog.records if record.name.startswith("maskrcnn")]
    assert warning.startswith("MLflow: http://127.0.0.1:9 fails (") and local(folder) in warning
    client, run = the_run(local(folder))
    assert points(client, run, "train/total_loss") == [(19, 2.5)] and points(client, run, "segm/AP") == [(39, 12.5)]
    assert run.info.status == "FINISHED"


def test_a_server_that_never_answers_is_left_at_the_end(folder, monkeypatch, caplog):
    """It takes the connection, and is silent: a request waits for it for two minutes."""
    monkeypatch.setattr("maskrcnn.engine.writers.mlflow.FINISH_TIMEOUT", 0.2)
    # The thread that was given up ends with the connection: trying again, it would draw from Python's generator for
    # minutes, in the midst of other tests.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        writer = open_run(folder)
        writer.write(19, TRAINING)
        writer.write(39, {"segm/AP": 12.5})
        assert writer.thread.is_alive()
        writer.close()
        assert "no answer in 0.2 s" in caplog.text
        client, run = the_run(local(folder))
        assert points(client, run, "train/total_loss") == [(19, 2.5)] and points(client, run, "segm/AP") == [(39, 12.5)]


def test_what_mlflow_refuses_is_left_out(folder, caplog):
    writer = open_run(folder)
    writer.write(9, {"segm/AP": "high"})
    writer.picture(9, "features", np.zeros((4, 4, 7), np.uint8))
    writer.write(19, TRAINING)
    writer.close()
    assert points(*the_run(local(folder)), "train/loss_cls") == [(19, 1.5)]
    (warning,) = [record.message for record in caplog.records if record.name.startswith("maskrcnn")]
    assert warning.startswith("MLflow refuses something, which is left out: ") and "high" in warning


def test_a_server_is_not_left_for_what_it_refuses(tmp_path, monkeypatch, empty_store):
    shutil.copy(empty_store, tmp_path / "shared.db")
    uri = f"sqlite:///{tmp_path}/shared.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    writer = open_run(tmp_path / "run")
    writer.write(9, {"segm/AP": "high"})
    writer.write(39, TRAINING)
    writer.close()
    assert points(*the_run(uri), "train/total_loss") == [(39, 2.5)]


def test_names_that_become_the_same_get_a_number(folder):
    writer = open_run(folder)
    writer.write(9, {"AP-mug (a)": 1.0, "AP-mug [a]": 2.0, "AP-mug {a}": 3.0, 300 * "x": 4.0, 301 * "x": 5.0})
    writer.close()
    client, run = the_run(local(folder))
    assert [points(client, run, f"AP-mug _a_{end}") for end in ("", "_2", "_3")] == [[(9, 1.0)], [(9, 2.0)], [(9, 3.0)]]
    assert [points(client, run, name) for name in (250 * "x", 240 * "x" + "_2")] == [[(9, 4.0)], [(9, 5.0)]]


def test_parameters_that_could_not_be_written_are_written_later(folder, monkeypatch):
    def full(*_, **__):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("maskrcnn.engine.writers.mlflow.Run.log_parameters", full)
        writer = open_run(folder)
        writer.write(9, TRAINING)
        wait_for_error(writer)
    writer.close()
    id_ = json.loads((folder / "mlflow_ids.json").read_text())["local"]
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=local(folder))
    assert client.get_run(id_).data.params["SEED"] == "7"
    assert [point.step for point in client.get_metric_history(id_, "train/loss_cls")] == [9]


def test_a_slow_disk_gets_its_time(folder, monkeypatch):
    log_metrics = Run.log_metrics

    def slowly(*arguments):
        time.sleep(0.3)
        log_metrics(*arguments)

    monkeypatch.setattr("maskrcnn.engine.writers.mlflow.FINISH_TIMEOUT", 0.01)
    monkeypatch.setattr(Run, "log_metrics", slowly)
    writer = open_run(folder)
    writer.write(19, TRAINING)
    writer.close()
    assert points(*the_run(local(folder)), "train/loss_cls") == [(19, 1.5)]


def wait_for_error(writer):
    """Until the thread's first attempt has failed."""
    for _ in range(2000):
        if writer.error:
            return
        time.sleep(0.01)
    raise AssertionError("nothing failed")


def test_what_the_store_does_not_take_waits(folder, monkeypatch):
    writer = open_run(folder)

    def full(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("maskrcnn.engine.writers.mlflow.Run.log_metrics", full)
        writer.write(9, TRAINING)
        wait_for_error(writer)
        with pytest.raises(OSError, match="disk full"):
            writer.write(19, TRAINING)
        with pytest.raises(OSError, match="disk full"):
            writer.picture(19, "x", np.zeros((2, 2, 3), np.uint8))
    writer.close()
    assert points(*the_run(local(folder)), "train/loss_cls") == [(9, 1.5), (19, 1.5)]
