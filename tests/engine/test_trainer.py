import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from maskrcnn.engine.precision import Precision
from maskrcnn.engine.trainer import Hook, Trainer

FP32 = Precision("cpu", torch.float32, "test")


class Line(nn.Module):
    """loss_a = 3w, loss_b = w; `other` is logged only."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))

    def forward(self, batch):
        assert self.training
        return {"loss_a": 3 * self.w, "loss_b": self.w, "other": 100 * self.w}


class Record(Hook):
    def __init__(self):
        self.steps, self.evaluations, self.closed = [], [], 0

    def after_step(self, step):
        self.steps.append(step)

    def after_evaluation(self, iteration, results):
        self.evaluations.append((iteration, results))

    def close(self):
        self.closed += 1


def trainer(model, hook, *, momentum=0.0, **options):
    batches = ([SimpleNamespace(image_id=i)] for i in itertools.count())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=momentum)
    return Trainer(
        model, batches, optimizer, lambda i: 0.1 / (i + 1), [hook], precision=FP32, scaler=FP32.scaler(), **options
    )


def test_only_losses_are_minimised_with_the_rate_of_their_iteration():
    model, hook = Line(), Record()
    trainer(model, hook).train(0, 2)
    assert model.w.item() == pytest.approx(1 - 0.1 * 4 - 0.05 * 4)
    assert [s.iteration for s in hook.steps] == [0, 1]
    assert [s.is_last for s in hook.steps] == [False, True]
    assert [s.learning_rate for s in hook.steps] == [0.1, 0.05]
    assert [s.image_ids for s in hook.steps] == [[0], [1]]
    assert hook.steps[0].total_loss.item() == 4 and hook.steps[0].losses["other"].item() == 100
    assert not hook.steps[0].total_loss.requires_grad
    assert 0 <= hook.steps[0].data_time <= hook.steps[0].time
    assert hook.closed == 1


def test_a_groups_factor_multiplies_the_rate():
    model = Line()
    one = trainer(model, Record())
    one.optimizer.param_groups[0]["lr_factor"] = 3.0
    one.train(0, 1)
    assert model.w.item() == pytest.approx(1 - 3 * 0.1 * 4)


def test_gradients_are_clipped_by_their_total_norm():
    model = Line()
    trainer(model, Record(), clip_gradients=0.5).train(0, 1)
    assert model.w.item() == pytest.approx(1 - 0.1 * 0.5, abs=1e-5)


def test_evaluations_come_after_each_period_and_at_the_end():
    hook, calls = Record(), itertools.count()
    results = trainer(Line(), hook, evaluate=lambda: {"AP": next(calls)}, eval_period=2).train(0, 5)
    assert hook.evaluations == [(1, {"AP": 0}), (3, {"AP": 1}), (4, {"AP": 2})]
    assert results == {"AP": 2}


def test_an_evaluation_at_the_end_happens_once_and_without_a_period():
    hook = Record()
    trainer(Line(), hook, evaluate=dict, eval_period=2).train(0, 4)
    assert [i for i, _ in hook.evaluations] == [1, 3]
    hook = Record()
    trainer(Line(), hook, evaluate=dict).train(0, 3)
    assert [i for i, _ in hook.evaluations] == [2]
    hook = Record()
    assert trainer(Line(), hook).train(0, 3) == {}
    assert hook.evaluations == []


def test_a_finished_run_is_evaluated():
    hook = Record()
    assert trainer(Line(), hook, evaluate=lambda: {"AP": 1.0}).train(5, 5) == {"AP": 1.0}
    assert hook.evaluations == [(4, {"AP": 1.0})] and hook.steps == [] and hook.closed == 1


def test_hooks_are_closed_when_a_step_fails():
    hook = Record()
    failing = trainer(Line(), hook)
    failing.batches = iter([])
    with pytest.raises(StopIteration):
        failing.train(0, 2)
    assert hook.closed == 1


def test_a_later_start():
    hook = Record()
    trainer(Line(), hook).train(3, 5)
    assert [s.iteration for s in hook.steps] == [3, 4]
