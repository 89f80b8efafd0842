import io
import json
import logging
import math
import re

import numpy as np
import pytest
from tqdm import tqdm

from maskrcnn.engine.writers import JSONLines, LogLines, ProgressBar, TensorBoard, bar
from maskrcnn.engine.writers.log_lines import training_line

VALUES = {
    "eta_seconds": 3725.9,
    "total_loss": 2.30612,
    "loss_cls": 1.5,
    "num_objects": 7.0,
    "time": 0.50123,
    "data_time": 0.0031,
    "imgs_per_s": 3.98,
    "lr": 0.00042,
    "max_mem": 812,
}


def test_the_line_that_people_grep():
    assert training_line(19, VALUES) == (
        "eta: 1:02:05  iter: 19  total_loss: 2.306  loss_cls: 1.5  num_objects: 7  time: 0.5012  data_time: 0.0031  "
        "imgs_per_s: 3.98  lr: 0.00042  max_mem: 812M"
    )
    assert "max_mem" not in training_line(19, {k: v for k, v in VALUES.items() if k != "max_mem"})


def test_lines_go_to_the_log(caplog):
    caplog.set_level(logging.INFO, logger="maskrcnn")
    LogLines().write(19, VALUES)
    LogLines().write(39, {"bbox/AP": 12.5, "segm/AP": -1.0})
    assert "iter: 19" in caplog.text
    assert "evaluation after iter: 39  bbox/AP: 12.50  segm/AP: -1.00" in caplog.text


def test_metrics_json_holds_one_object_a_line(tmp_path):
    path = tmp_path / "metrics.json"
    writer = JSONLines(path)
    writer.write(19, VALUES)
    writer.write(19, {"bbox/AP": 12.5, "bbox/APs": math.nan})
    first, second = map(json.loads, path.read_text().splitlines())  # written at once, before any close
    assert first == {"iteration": 19, **VALUES}
    assert second == {"iteration": 19, "bbox/AP": 12.5, "bbox/APs": None}
    writer.close()


def test_a_resumed_run_drops_the_lines_that_it_will_write_again(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 3, "lr": 1}\n{"iteration": 7, "lr": 2}\n{"iteration": 9, "lr"')
    writer = JSONLines(path, start=4)
    writer.write(7, {"lr": 3})
    writer.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"iteration": 3, "lr": 1},
        {"iteration": 7, "lr": 3},
    ]


def test_tensorboard_events(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    writer = TensorBoard(tmp_path)
    writer.write(19, VALUES)
    writer.write(19, {"bbox/AP": 12.5})
    writer.picture(19, "predictions/7", np.full((6, 8, 3), 200, np.uint8))
    writer.close()
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert {"train/total_loss", "train/lr", "bbox/AP"} <= set(events.Tags()["scalars"])
    assert events.Scalars("bbox/AP")[0].value == 12.5 and events.Scalars("bbox/AP")[0].step == 19
    (picture,) = events.Images("predictions/7")
    assert (picture.height, picture.width) == (6, 8)


def test_the_bar_shows_what_one_waits_for(monkeypatch):
    terminal = io.StringIO()
    shown = {"file": terminal, "mininterval": 0, "ncols": 200, "dynamic_ncols": False}
    monkeypatch.setattr(bar, "tqdm", lambda **options: tqdm(**{**options, **shown}))
    progress = ProgressBar(start=10, max_iter=100)
    progress.write(19, VALUES)
    progress.advance()
    progress.close()
    text = terminal.getvalue()
    assert "11/100" in text
    assert "loss 2.31  3.98 img/s  lr 0.00042  data 3 ms  812M  cls 1.5" in text
    assert re.search(r"\[\d\d:\d\d<", text)  # elapsed and ETA
