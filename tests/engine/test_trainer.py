import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from maskrcnn.engine.memory import OutOfMemory
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


def sample(i, value=0.0):
    return SimpleNamespace(image_id=i, image=torch.full((3, 4, 6), value), targets=None)


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
    batches = ([sample(i)] for i in itertools.count())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=momentum, fused=True)
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
    assert trainer(Line(), Record(), evaluate=lambda: {"AP": 1.0}).train(5, 5, known={"AP": 2.0}) == {"AP": 2.0}
    assert hook.evaluations == [(4, {"AP": 1.0})] and hook.steps == [] and hook.closed == 1


def test_each_hook_is_closed_whatever_the_others_raise():
    class Broken(Record):
        def close(self):
            raise OSError("no space left")

    first, last = Record(), Record()
    one = trainer(Line(), first)
    one.hooks = [first, Broken(), last]
    with pytest.raises(OSError, match="no space left"):
        one.train(0, 1)
    assert first.closed == last.closed == 1


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


class Mean(nn.Module):
    """The squared distance of w from the mean of each image; for image 13 a loss that is not finite."""

    def __init__(self, value=math.nan):
        super().__init__()
        self.w, self.value = nn.Parameter(torch.tensor([1.0, -2.0])), value

    def forward(self, batch):
        losses = torch.stack([(self.w - s.image.mean()).square().sum() for s in batch])
        bad = [s.image_id for s in batch if s.image_id == 13]
        return {"loss_mean": losses.mean(), "loss_b": 0 * self.w.sum() + self.value if bad else 0 * self.w.sum()}


def train_on(groups, model=None, **options):
    model, hook = model or Mean(), Record()
    one = trainer(model, hook, momentum=0.9, **options)
    one.batches = iter([[sample(i, value=float(i)) for i in group] for group in groups])
    one.train(0, len(groups) // one.accumulate)
    return model.w.detach(), hook


@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_passes_add_up_to_the_large_batch(clip):
    whole, _ = train_on([[0, 1, 2, 3], [4, 5, 6, 7]], clip_gradients=clip)
    passes, hook = train_on([[0, 1], [2, 3], [4, 5], [6, 7]], clip_gradients=clip, accumulate=2)
    torch.testing.assert_close(passes, whole, rtol=1e-6, atol=1e-6)
    assert [s.image_ids for s in hook.steps] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [s.iteration for s in hook.steps] == [0, 1]
    expected = np.mean([(1 - i) ** 2 + (-2 - i) ** 2 for i in range(4)])
    assert hook.steps[0].losses["loss_mean"].item() == pytest.approx(expected)  # the mean over the passes
    assert hook.steps[0].total_loss.item() == pytest.approx(expected)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_step_that_is_not_finite_leaves_the_weights_alone(value):
    """Infinity has a gradient of 0 here: looking at gradients alone would not find it."""
    weights, hook = train_on([[0], [1], [13]], model=Mean(value))
    assert [bool(step.finite) for step in hook.steps] == [True, True, False]
    torch.testing.assert_close(weights, train_on([[0], [1]])[0], rtol=0, atol=0)
    weights, hook = train_on([[0], [13], [1]], model=Mean(value))
    assert bool(hook.steps[2].finite) and torch.isfinite(weights).all()


def test_a_pass_that_is_not_finite_costs_its_whole_step():
    weights, hook = train_on([[0], [13], [1], [2]], accumulate=2)
    assert [bool(s.finite) for s in hook.steps] == [False, True]
    assert torch.isfinite(weights).all()
    assert hook.steps[1].gradient_norms.shape == (1,)


class TooLarge(nn.Module):
    def __init__(self, fail):
        super().__init__()
        self.w, self.fail = nn.Parameter(torch.ones(1)), fail

    def forward(self, batch):
        self.fail()
        return {"loss": self.w.sum()}


def gpu_is_full():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


@pytest.mark.parametrize("fail", [gpu_is_full, lambda: torch.empty(2**58)], ids=["GPU", "CPU"])
def test_memory_that_runs_out_names_the_images_and_what_to_lower(fail):
    with pytest.raises(OutOfMemory) as caught:
        trainer(TooLarge(fail), Record()).train(0, 1)
    for part in ("out of memory (", "0 (6x4 pixels)", "SOLVER.ACCUMULATE", "INPUT.MIN_SIZE_TRAIN", "SOLVER.AMP"):
        assert part in str(caught.value)


def test_another_error_keeps_its_name():
    def fail():
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        trainer(TooLarge(fail), Record()).train(0, 1)


class StopAt(Record):
    def __init__(self, count):
        super().__init__()
        self.count, self.ended = count, []

    @property
    def stop(self):
        return len(self.evaluations) >= self.count

    def after_training(self, iteration):
        self.ended.append(iteration)


def test_a_hook_ends_training_early():
    hook = StopAt(2)
    assert trainer(Line(), hook, evaluate=lambda: {"AP": 1.0}, eval_period=2).train(0, 100) == {"AP": 1.0}
    assert len(hook.steps) == 4 and hook.ended == [3]
    hook = StopAt(0)  # as in a run that goes on, and had ended
    trainer(Line(), hook, evaluate=dict).train(4, 100)
    assert hook.steps == [] and hook.ended == [3]


def test_an_evaluation_that_was_missed_is_made_up_for():
    hook = Record()
    trainer(Line(), hook, evaluate=dict, eval_period=2).train(2, 4)
    assert [i for i, _ in hook.evaluations] == [1, 3]
    hook = Record()
    trainer(Line(), hook, evaluate=dict, eval_period=2).train(2, 4, known={"AP": 1.0})
    assert [i for i, _ in hook.evaluations] == [3]


class Normed(nn.Module):
    """A batch norm sees the images before anybody knows that image 13 makes the loss NaN."""

    def __init__(self):
        super().__init__()
        self.norm, self.w = nn.BatchNorm2d(3), nn.Parameter(torch.ones(1))

    def forward(self, batch):
        x = torch.stack([s.image + torch.nan if s.image_id == 13 else s.image for s in batch])
        return {"loss_norm": (self.norm(x) * self.w).square().mean()}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_statistics_of_a_step_that_is_not_finite_are_taken_back(accumulate):
    groups = [[1, 2], [3, 4], [5, 13], [6, 7]] if accumulate == 1 else [[1], [2], [3], [4], [5], [13], [6], [7]]
    model = Normed()
    _, hook = train_on(groups, model=model, accumulate=accumulate)
    assert [bool(s.finite) for s in hook.steps] == [True, True, False, True]
    without = Normed()
    train_on([g for g in groups if not set(g) & {5, 13}], model=without, accumulate=accumulate)
    torch.testing.assert_close(model.norm.running_mean, without.norm.running_mean)
    torch.testing.assert_close(model.norm.running_var, without.norm.running_var)


def test_a_loss_scale_goes_down_after_an_overflow_and_up_in_time():
    """fp16's scaler, enabled on the CPU: steps that overflow are left out, the others are those without a scale."""
    model, plain = Line(), Line()
    one = trainer(model, Record(), clip_gradients=0.5)
    one.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=3)
    steps = [one.step(i, 99) for i in range(8)]
    overflowed = [s.iteration for s in steps if not s.finite]
    assert overflowed and overflowed[0] == 0 and all(torch.isfinite(s.total_loss) for s in steps)
    assert one.scaler.get_scale() < 2.0**127
    other = trainer(plain, Record(), clip_gradients=0.5)
    for i in range(8):
        if i not in overflowed:
            other.step(i, 99)
    torch.testing.assert_close(model.w, plain.w)
