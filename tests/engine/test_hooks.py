import math
from dataclasses import replace

import pytest
import torch
from finished_step import step

from maskrcnn.checkpoint import Checkpointer
from maskrcnn.engine.hooks import Checkpointing, FiniteGuard, NonFiniteLoss


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
