import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from finished_step import step
from torch import nn

from maskrcnn.engine.diagnosis import first_non_finite
from maskrcnn.engine.hooks import FiniteGuard, NonFiniteLoss


def guard(diagnosis=("", ""), **options):
    return FiniteGuard(["trunk.weight", "neck.weight", "head.weight"], lambda samples: diagnosis, **options)


def bad(iteration, total=math.nan, **options):
    return step(iteration, total=total, finite=False, norms=[math.nan] * 3, **options)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_names_iteration_losses_images_and_cause(value):
    one = guard(("the output of neck (FPN)", ""))
    one.after_step(step(3, loss_cls=1.0))
    with pytest.raises(NonFiniteLoss) as caught:
        one.after_step(bad(4, total=value, loss_cls=0.25, loss_box=value))
    for part in (
        *("iteration 4", "learning rate 0.02", "loss_cls 0.25", f"loss_box {value}", "images [7, 9]"),
        *("first not finite: the output of neck (FPN)", "SOLVER.BASE_LR"),
    ):
        assert part in str(caught.value)


def test_a_known_cause_stands_in_for_the_usual_one():
    with pytest.raises(NonFiniteLoss, match=r"first not finite: boxes of image 7\. The data are at fault$"):
        guard(("boxes of image 7", "The data are at fault")).after_step(bad(0))


def test_a_gradient_that_is_not_finite_names_where_the_backward_pass_met_it_first():
    with pytest.raises(NonFiniteLoss, match=r"the loss is finite, but not the gradient, .* that of neck\.weight"):
        guard().after_step(step(0, finite=False, norms=[math.nan, math.inf, 1.0]))


def test_some_steps_may_be_left_out(caplog):
    one = guard(limit=2, skipped=0)
    one.after_step(bad(0))
    one.after_step(step(1))
    one.after_step(bad(2))
    assert one.skipped == 2
    assert "The step was left out (2 of at most 2)" in caplog.text
    with pytest.raises(NonFiniteLoss, match="Before it 2 such steps were left out"):
        one.after_step(bad(3))
    with pytest.raises(NonFiniteLoss):  # those of before a restart count
        guard(limit=2, skipped=2).after_step(bad(0))


def test_fp16_may_overflow_while_its_scale_is_looked_for():
    scale = [1024.0]
    one = guard(loss_scale=lambda: scale[0])
    one.after_step(bad(0, total=2.0))
    assert one.skipped == 0
    with pytest.raises(NonFiniteLoss):  # no scale makes a loss NaN
        one.after_step(bad(1))
    scale[0] = 0.5
    with pytest.raises(NonFiniteLoss, match="the loss is finite, but not the gradient"):
        one.after_step(bad(2, total=2.0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_guard_looks_one_step_late_but_misses_none():
    def on_gpu(made):
        return replace(made, finite=made.finite.cuda())

    one = guard()
    one.after_step(on_gpu(bad(0)))
    with pytest.raises(NonFiniteLoss, match="iteration 0"):
        one.after_step(on_gpu(step(1)))
    with pytest.raises(NonFiniteLoss, match="iteration 2"):
        one.after_step(on_gpu(bad(2, max_iter=3)))


class Divide(nn.Module):
    def forward(self, x):
        return x / x.abs().clamp(max=0)


class Parts(nn.Module):
    def __init__(self, *parts):
        super().__init__()
        self.trunk, self.norm, self.head = parts

    def losses(self, batch):
        x = torch.stack([sample.image for sample in batch])
        return {"loss_head": self.head(self.norm(self.trunk(x))).mean()}


def samples(value=1.0):
    targets = SimpleNamespace(boxes=torch.zeros(1, 4))
    return [SimpleNamespace(image_id=i, image=torch.full((3,), v), targets=targets) for i, v in ((4, 1.0), (5, value))]


def test_the_first_tensor_that_is_not_finite_is_found():
    fine = Parts(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).train()
    statistics = fine.norm.running_mean.clone()
    assert first_non_finite(fine, samples()) == ("", "")
    assert torch.equal(fine.norm.running_mean, statistics) and fine.norm.training
    assert not fine.norm._forward_hooks

    assert first_non_finite(fine, samples(math.nan)) == (
        "image of image 5",
        "The data are at fault: mend or leave out this image.",
    )
    broken = Parts(nn.Linear(3, 4), Divide(), nn.Linear(4, 2))
    assert first_non_finite(broken, samples()) == ("the output of norm (Divide)", "")
    with torch.no_grad():
        fine.head.bias[1] = math.inf
    assert first_non_finite(fine, samples())[0] == "head.bias in the weights"


def test_a_loss_alone_is_named():
    model = Parts(nn.Identity(), nn.Identity(), nn.Identity())
    model.losses = lambda batch: {"loss_a": torch.tensor(1.0), "loss_b": torch.tensor(math.inf)}
    assert first_non_finite(model, samples()) == ("loss_b, computed from finite outputs", "")
