import math

import pytest

from maskrcnn.engine.hooks import KeepBest


def run(values, metric="segm/AP", failing=(), **options):
    kept = []
    hook = KeepBest(metric, lambda iteration: kept.append(iteration) or iteration not in failing, **options)
    for i, value in enumerate(values):
        hook.after_evaluation(10 * i, {metric: value, "other": 5.0})
    return hook, kept


def test_the_best_so_far_is_kept():
    assert run([3.0, 2.0, 3.0, 4.0, math.nan, -1.0])[1] == [0, 30]


def test_of_losses_less_is_better():
    assert run([3.0, 2.0, math.inf, 1.0, 1.5], metric="val/total_loss")[1] == [0, 10, 30]
    assert run([3.0, 2.0, 1.0], metric="coco/val/loss_mask")[1] == [0, 10, 20]


@pytest.mark.parametrize(("patience", "stop"), [(0, False), (1, True), (2, True), (3, False)])
def test_patience(patience, stop):
    assert run([1.0, 5.0, 4.0, 5.0], patience=patience)[0].stop is stop


def test_a_run_that_goes_on_remembers():
    history = [(10, 7.0), (20, 6.0)]
    hook, kept = run([6.5], patience=2, history=history)
    assert kept == [] and hook.stop and hook.best == (10, 7.0)
    assert run([7.5], patience=2, history=history)[1] == [0]
    assert run([6.5, 6.0], history=history, is_there=False)[1] == [0]  # the file of 7.0 could not be written


def test_one_that_could_not_be_kept_does_not_stand_in_the_way_of_the_next():
    hook, tried = run([1.0, 5.0, 4.0, 0.5, 4.5, 4.2], failing=(10,), patience=4)
    assert tried == [0, 10, 20, 40]
    assert hook.best == (10, 5.0) and hook.stop  # what counts for an end is what was reached
