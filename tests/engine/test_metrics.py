import logging
import math

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from finished_step import step
from processes import in_processes

from maskrcnn.engine.hooks import Logging, Pictures, metrics
from maskrcnn.engine.hooks.metrics import period_means, waiting_hint
from maskrcnn.engine.writers import Writer


class Kept(Writer):
    def __init__(self):
        self.written, self.advanced, self.closed, self.pictures = [], 0, 0, []

    def advance(self):
        self.advanced += 1

    def write(self, iteration, values):
        self.written.append((iteration, dict(values)))

    def picture(self, iteration, name, image):
        self.pictures.append((iteration, name, image.shape))

    def close(self):
        self.closed += 1


def logging_hook(*writers, period=2):
    return Logging(writers, batch_size=4, num_workers=1, device=torch.device("cpu"), period=period)


def test_means_over_the_period_reach_the_writers():
    kept = Kept()
    hook = logging_hook(kept)
    for i, total in enumerate([1.0, 3.0, 5.0]):
        hook.after_step(step(i, total=total, max_iter=3, loss_cls=total / 2))
    assert [i for i, _ in kept.written] == [1, 2]
    assert kept.advanced == 3
    first, last = (values for _, values in kept.written)
    assert first["total_loss"] == 2 and first["loss_cls"] == 1 and last["total_loss"] == 5
    assert first["eta_seconds"] == 0.5 and last["eta_seconds"] == 0
    assert first["imgs_per_s"] == 8 and first["lr"] == 0.02 and first["time"] == 0.5 and first["data_time"] == 0.1
    hook.after_evaluation(2, {"bbox/AP": 12.5})
    assert kept.written[-1] == (2, {"bbox/AP": 12.5})
    hook.close()
    assert kept.closed == 1


def test_what_is_left_when_training_stops_is_written():
    kept = Kept()
    hook = logging_hook(kept, period=20)
    for i, total in enumerate([1.0, 3.0, 8.0]):
        hook.after_step(step(i, total=total, loss_cls=total / 2))
    hook.close()
    ((iteration, values),) = kept.written
    assert iteration == 2 and values["total_loss"] == 4 and values["loss_cls"] == 2
    assert values["imgs_per_s"] == 8 and values["eta_seconds"] == 0.5 * 97
    assert kept.closed == 1


def test_a_device_that_has_failed_loses_the_rest_and_no_more(monkeypatch, caplog):
    def fail(steps):
        raise RuntimeError("device lost")

    kept = Kept()
    hook = logging_hook(kept)
    hook.after_step(step(0))
    monkeypatch.setattr(metrics, "own_means", fail)
    hook.close()
    assert kept.written == [] and kept.closed == 1
    assert caplog.messages == ["the means of the last 1 iterations are lost: device lost"]


def test_metrics_are_plain_numbers():
    kept = Kept()
    logging_hook(kept).after_evaluation(2, {"a": np.float32(0.5), "b": torch.tensor(2), "c": None, "d": torch.ones(2)})
    ((_, values),) = kept.written
    assert [type(value) for value in values.values()] == [float] * 4
    assert values["a"] == 0.5 and values["b"] == 2 and math.isnan(values["c"]) and math.isnan(values["d"])


def test_a_loss_that_some_steps_lack_is_the_mean_of_the_others():
    means = period_means([step(0, total=1.0, loss_a=1.0), step(1, total=2.0, loss_a=3.0, loss_b=5.0)])
    assert means == {"total_loss": 1.5, "loss_a": 2.0, "loss_b": 5.0, "time": 0.5, "data_time": 0.1}


def log_in_process(number):
    kept = Kept()
    hook = logging_hook(*([kept] if number == 0 else []), period=1)
    hook.after_step(step(0, total=1.0 + number, seconds=0.5 + number, waited=0.25 + number, loss_cls=3.0 * number))
    hook.period = 2
    hook.after_step(step(2, total=5.0 + number))
    if number == 0:
        hook.close()  # the other one may be gone: nothing is asked of it
    return kept.written


@pytest.mark.skipif("fork" not in mp.get_all_start_methods(), reason="processes cannot be forked here")
def test_of_several_processes_the_first_writes_the_means_of_all():
    written = in_processes(2, log_in_process)
    assert written[1] == []
    (iteration, values), (rest, own) = written[0]
    assert iteration == 0 and values["total_loss"] == 1.5 and values["loss_cls"] == 1.5
    assert values["time"] == 1.0 and values["data_time"] == 0.75
    assert values["imgs_per_s"] == 4  # the batch is that of both together
    assert rest == 2 and own["total_loss"] == 5.0


def hints(caplog, waits):
    """The hints of a run whose periods, of two steps of half a second, waited this long in each step."""
    caplog.clear()
    hook = logging_hook()
    for i, waited in enumerate(waits):
        hook.after_step(step(2 * i, waited=waited))
        hook.after_step(step(2 * i + 1, waited=waited))
    return [record.message for record in caplog.records]


def test_a_loader_that_is_too_slow_is_said_once(caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="maskrcnn")
    monkeypatch.setattr(metrics, "available_cores", lambda: 8)
    assert hints(caplog, [0.4, 0.01, 0.01, 0.01]) == []  # workers start
    assert hints(caplog, [0.4, 0.4, 0.01, 0.4, 0.01]) == []  # stalls
    (hint,) = hints(caplog, [0.01, 0.2, 0.25, 0.25, 0.25])
    assert hint.startswith("45% of each step waits for its batch; DATALOADER.NUM_WORKERS is 1, ")
    assert "8 cores" in hint and hint.endswith("try DATALOADER.NUM_WORKERS 2")


def test_the_hint_asks_for_no_more_workers_than_cores():
    assert waiting_hint(0.3, 0, 16).endswith("NUM_WORKERS 2")
    assert waiting_hint(0.3, 6, 8).endswith("NUM_WORKERS 8")
    assert "hardly help" in waiting_hint(0.3, 8, 8) and "hardly help" in waiting_hint(0.3, 1, 1)


def test_pictures_follow_an_evaluation():
    kept = Kept()
    Pictures([kept], lambda: [("one", np.zeros((4, 5, 3), np.uint8))]).after_evaluation(9, {})
    assert kept.pictures == [(9, "one", (4, 5, 3))]


def test_nothing_is_drawn_for_nobody():
    def draw():
        raise AssertionError("drawn")

    Pictures([], draw).after_evaluation(9, {})
