import io
import json
import logging
import math
import os
import re
import resource
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tiny_model import write_config
from tqdm import tqdm

from maskrcnn.config import load_config
from maskrcnn.engine import checks, writers
from maskrcnn.engine.writers import Guarded, JSONLines, LogLines, ProgressBar, TensorBoard, Writer, bar
from maskrcnn.engine.writers.appended import AppendedFile
from maskrcnn.engine.writers.log_lines import training_line
from maskrcnn.engine.writers.writer import is_per_class
from maskrcnn.registry import WRITERS

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
    LogLines().write(39, {"bbox/AP": 12.5, "bbox/AP-person": 3.0, "segm/AP": -1.0})
    assert "iter: 19" in caplog.text
    assert caplog.messages[-1] == "evaluation after iter: 39  bbox/AP: 12.50  segm/AP: -1.00"


def test_which_metrics_are_one_classs():
    for name in ("segm/AP-person", "segm/AP-traffic light", "segm/AP-cup/mug", "my-set/segm/AP-person"):
        assert is_per_class(name), name
    for name in ("segm/AP", "segm/AP50", "my-set/segm/AP", "score/mean"):
        assert not is_per_class(name), name


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


def test_on_a_full_disk_too(tmp_path):
    path = tmp_path / "metrics.json"
    lines = [json.dumps({"iteration": i}) + "\n" for i in range(4)]
    lines.insert(1, "what is this?\n")
    path.write_text("".join(lines))
    with full_disk(0):
        JSONLines(path, start=3)
    assert path.read_text() == "".join(lines[:4])


def test_a_line_without_its_end_is_dropped(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 3}\n{"iteration": 4}')
    JSONLines(path, start=9).write(10, {"lr": 1.0})
    assert path.read_text() == '{"iteration": 3}\n{"iteration": 10, "lr": 1.0}\n'


def tensorboard(folder, start=0):
    return TensorBoard(folder=folder, start=start, config={"SEED": 7})


def events_of(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return events


def points(events, name):
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_events(tmp_path):
    writer = tensorboard(tmp_path)
    writer.write(19, VALUES)
    writer.write(19, {"bbox/AP": 12.5, "bbox/AP-person": 3.0})
    writer.picture(19, "predictions/7", np.full((6, 8, 3), 200, np.uint8))
    events = events_of(tmp_path)  # written at once, before any close
    writer.close()
    assert {"train/total_loss", "train/lr", "bbox/AP", "bbox/AP-person"} <= set(events.Tags()["scalars"])
    assert points(events, "bbox/AP") == [(19, 12.5)]
    (picture,) = events.Images("predictions/7")
    assert (picture.height, picture.width) == (6, 8)
    (text,) = events.Tensors("config/text_summary")
    assert text.tensor_proto.string_val == [b"    SEED: 7\n"]


def test_tensorboard_forgets_what_a_resumed_run_does_again(tmp_path):
    for start, iterations in ((0, (19, 39, 59)), (40, (59, 79))):
        writer = tensorboard(tmp_path, start)
        writer.file.path = writer.file.path.with_name(f"{writer.file.path.name}.{start}")  # both in one second
        for iteration in iterations:
            writer.write(iteration, {"bbox/AP": float(start + iteration)})
        writer.close()
    assert points(events_of(tmp_path), "bbox/AP") == [(19, 19.0), (39, 39.0), (59, 99.0), (79, 119.0)]


@contextmanager
def full_disk(size):
    """Within the context no file can grow beyond `size` bytes: a write takes what fits, the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_costs_neither_a_line_nor_the_run(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="maskrcnn")
    path = tmp_path / "metrics.json"
    writer = Guarded(JSONLines(path))
    writer.write(0, VALUES)
    one = path.stat().st_size
    with full_disk(one + one // 2):
        for iteration in (1, 2):
            writer.write(iteration, VALUES)
            writer.picture(iteration, "predictions/7", np.zeros((6, 8, 3), np.uint8))  # does nothing, and thus works
            assert path.stat().st_size == one  # half a line did fit
    (warning,) = caplog.messages
    assert warning == f"JSONLines fails, the run goes on: [Errno 27] File too large: '{path}'"
    writer.write(3, VALUES)
    assert caplog.messages[1:] == ["JSONLines works again"]
    with full_disk(path.stat().st_size):
        writer.write(4, VALUES)
    writer.close()  # the last line waited for it
    assert [json.loads(line)["iteration"] for line in path.read_text().splitlines()] == [0, 1, 2, 3, 4]


def test_tensorboard_goes_on_after_a_full_disk(tmp_path, caplog):
    writer = Guarded(tensorboard(tmp_path))
    writer.write(0, {"bbox/AP": 0.0})
    (path,) = tmp_path.iterdir()
    with full_disk(path.stat().st_size + 10):
        for iteration in (1, 2):
            writer.write(iteration, {"bbox/AP": float(iteration)})
        writer.picture(2, "predictions/7", np.zeros((6, 8, 3), np.uint8))
        assert points(events_of(tmp_path), "bbox/AP") == [(0, 0.0)]
    assert len(caplog.messages) == 1
    writer.write(3, {"bbox/AP": 3.0})
    writer.close()
    assert points(events_of(tmp_path), "bbox/AP") == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0)]


def test_a_folder_that_was_away(tmp_path):
    path = tmp_path / "run" / "metrics.json"
    writer = Guarded(JSONLines(path))
    writer.write(0, VALUES)
    path.parent.mkdir()
    writer.write(1, VALUES)
    assert len(path.read_text().splitlines()) == 2


def test_half_a_line_that_could_not_be_cut_is_cut_later(tmp_path, monkeypatch):
    file = AppendedFile(tmp_path / "lines")
    file.append(b"first\n")

    class Broken(io.FileIO):
        """Takes three bytes, then nothing, not even back."""

        written = False

        def write(self, data):
            if self.written:
                raise OSError(5, os.strerror(5))
            self.written = True
            return super().write(bytes(data[:3]))

        def truncate(self, size=None):
            raise OSError(5, os.strerror(5))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, mode, buffering: Broken(path, mode))
        with pytest.raises(OSError, match="Input/output error.*lines"):
            file.append(b"second\n")
    assert (tmp_path / "lines").read_bytes() == b"first\nsec"
    file.append(b"third\n")
    assert (tmp_path / "lines").read_bytes() == b"first\nsecond\nthird\n"


class Faulty(Writer):
    """Raises what it is told to, everywhere."""

    def __init__(self, error):
        self.error = error

    def write(self, iteration, values):
        raise self.error

    def picture(self, iteration, name, image):
        raise self.error

    advance = close = lambda self: self.write(0, {})


def test_a_writers_errors_go_no_further(caplog):
    writer = Guarded(Faulty(RuntimeError("no such project")))
    for _ in range(3):
        writer.advance()
        writer.write(0, VALUES)
        writer.picture(0, "x", np.zeros((2, 2, 3), np.uint8))
    (record,) = caplog.records
    assert record.message == "Faulty fails, the run goes on: no such project"
    assert record.exc_info  # where: it may be one's own
    writer.close()
    assert len(caplog.records) == 2
    with pytest.raises(KeyboardInterrupt):
        Guarded(Faulty(KeyboardInterrupt())).write(0, VALUES)


def test_writers_are_checked_before_a_run(tmp_path, monkeypatch):
    def error_of(name):
        cfg = load_config(write_config(tmp_path), [f"WRITERS=[{name}]"])
        checks.check_values(cfg, training=False)  # evaluating takes none
        with pytest.raises(checks.RunError) as caught, checks.at_the_door():
            checks.check_values(cfg, training=True)
        return str(caught.value)

    assert error_of("tensorbord").startswith("no writer 'tensorbord' (did you mean tensorboard?); known: ")
    for name in ("wandb", "mlflow"):
        monkeypatch.setattr(f"maskrcnn.engine.writers.{name}.find_spec", lambda module: None)
        assert f'pip install "maskrcnn[{name}]"' in error_of(name)


def test_a_run_has_the_writers_that_it_names(tmp_path):
    def kinds(override, bar):
        cfg = load_config(write_config(tmp_path), [override])
        built = writers.build_writers(cfg, tmp_path, 0, bar=bar)
        assert all(isinstance(writer, Guarded) for writer in built)
        return [type(writer.writer) for writer in built]

    assert kinds("WRITERS=[]", bar=False) == [LogLines, JSONLines]
    assert kinds("WRITERS=[tensorboard]", bar=True) == [LogLines, JSONLines, TensorBoard, ProgressBar]


def test_a_writer_that_cannot_be_made_is_left_out(tmp_path, monkeypatch, caplog):
    def make(folder, start, config):
        raise OSError("no such table")

    monkeypatch.setattr(WRITERS, "get", lambda name: make if name == "table" else TensorBoard)
    cfg = checks.changed(load_config(write_config(tmp_path)), "", WRITERS=("table", "tensorboard"))
    built = writers.build_writers(cfg, tmp_path, 0, bar=False)
    assert [type(writer.writer) for writer in built] == [LogLines, JSONLines, TensorBoard]
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.message == "table cannot be written to, the run goes on without it: no such table"


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
