import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from maskrcnn.checkpoint import Checkpointer
from maskrcnn.engine.hooks import Checkpointing, FiniteGuard, Logging, NonFiniteLoss, Pictures
from maskrcnn.engine.hooks.metrics import mean_losses
from maskrcnn.engine.trainer import Step
from maskrcnn.engine.writers import Writer


def step(iteration, total=1.0, max_iter=100, seconds=0.5, **losses):
    return Step(
        iteration=iteration,
        max_iter=max_iter,
        total_loss=torch.tensor(total),
        losses={name: torch.tensor(value) for name, value in losses.items()},
        learning_rate=0.02,
        time=seconds,
        data_time=0.1,
        image_ids=[7, 9],
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_names_iteration_losses_and_images(value):
    guard = FiniteGuard()
    guard.after_step(step(3, loss_cls=1.0))
    with pytest.raises(NonFiniteLoss) as caught:
        guard.after_step(step(4, total=value, loss_cls=0.25, loss_box=value))
    for part in ("iteration 4", "loss_cls 0.25", f"loss_box {value}", "images [7, 9]", "SOLVER.BASE_LR"):
        assert part in str(caught.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_guard_looks_one_step_late_but_misses_none():
    def on_gpu(iteration, total, **options):
        return replace(step(iteration, **options), total_loss=total.cuda())

    guard = FiniteGuard()
    guard.after_step(on_gpu(0, torch.tensor(math.nan)))
    with pytest.raises(NonFiniteLoss, match="iteration 0"):
        guard.after_step(on_gpu(1, torch.tensor(1.0)))
    with pytest.raises(NonFiniteLoss, match="iteration 2"):
        guard.after_step(on_gpu(2, torch.tensor(math.nan), max_iter=3))


def test_checkpoints_each_period_and_the_final_one(tmp_path):
    checks = []
    hook = Checkpointing(Checkpointer(tmp_path, {}), lambda: {"model": {}}, period=2, check=lambda: checks.append(1))
    for i in range(5):
        hook.after_step(step(i, max_iter=5))
    names = {"model_0000001.pth", "model_0000003.pth", "model_final.pth", "last_checkpoint"}
    assert {p.name for p in tmp_path.iterdir()} == names
    assert len(checks) == 3


def test_no_checkpoint_of_a_diverged_model(tmp_path):
    guard = FiniteGuard()
    hook = Checkpointing(Checkpointer(tmp_path, {}), lambda: {"model": {}}, period=1, check=guard.check)
    guard.pending = (step(0, total=math.nan), torch.tensor(False), None)
    with pytest.raises(NonFiniteLoss):
        hook.after_step(step(0))
    assert not list(tmp_path.iterdir())


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


def test_means_over_the_period_reach_the_writers():
    kept = Kept()
    hook = Logging([kept], batch_size=4, device=torch.device("cpu"), period=2)
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


def test_a_loss_that_some_steps_lack_is_the_mean_of_the_others():
    means = mean_losses([step(0, total=1.0, loss_a=1.0), step(1, total=2.0, loss_a=3.0, loss_b=5.0)])
    assert means == {"total_loss": 1.5, "loss_a": 2.0, "loss_b": 5.0}


def test_pictures_follow_an_evaluation():
    kept = Kept()
    Pictures([kept], lambda: [("one", np.zeros((4, 5, 3), np.uint8))]).after_evaluation(9, {})
    assert kept.pictures == [(9, "one", (4, 5, 3))]
