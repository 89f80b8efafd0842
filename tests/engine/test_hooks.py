import numpy as np
import torch
from steps import step

from maskrcnn.engine.hooks import Logging, Pictures
from maskrcnn.engine.hooks.metrics import mean_losses
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
