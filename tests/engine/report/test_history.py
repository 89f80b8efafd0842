import json
import math

import pytest

from maskrcnn.engine.report.history import read_history, thinned


def write(path, *lines):
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_lines_of_training_and_of_evaluation_become_curves(tmp_path):
    path = write(
        tmp_path / "metrics.json",
        {"iteration": 19, "eta_seconds": 5.0, "total_loss": 2.0, "loss_mask": 1.5, "lr": 0.1},
        {"iteration": 19, "segm/AP": 3.0, "segm/AP-cell": None},
        {"iteration": 39, "eta_seconds": 0.0, "total_loss": 1.0, "loss_mask": 0.5, "lr": 0.2},
        {"iteration": 39, "segm/AP": 4.0, "segm/AP-cell": -1},
    )
    training, evaluations = read_history(path)
    assert training == {
        "iterations": [19, 39],
        "series": {"total_loss": [2.0, 1.0], "loss_mask": [1.5, 0.5], "lr": [0.1, 0.2]},
    }
    assert evaluations == {"iterations": [19, 39], "series": {"segm/AP": [3.0, 4.0], "segm/AP-cell": [None, -1]}}


def test_no_file_and_an_empty_one(tmp_path):
    nothing = {"iterations": [], "series": {}}
    assert read_history(tmp_path / "metrics.json") == (nothing, nothing)
    assert read_history(write(tmp_path / "metrics.json")) == (nothing, nothing)
    assert thinned(nothing) == nothing


def test_series_that_come_and_go(tmp_path):
    path = write(
        tmp_path / "metrics.json",
        {"iteration": 0, "total_loss": 1.0, "loss_old": 1.0},
        {"iteration": 1, "total_loss": 2.0, "loss_new": 3.0},
    )
    assert read_history(path)[0]["series"] == {
        "total_loss": [1.0, 2.0],
        "loss_old": [1.0, None],
        "loss_new": [None, 3.0],
    }


def test_a_file_that_a_resumed_run_did_not_cut(tmp_path):
    """The later line counts, and iterations ascend."""
    lines = [{"iteration": i, "total_loss": float(loss)} for i, loss in [(9, 1), (19, 2), (29, 3), (19, 4), (24, 5)]]
    training, _ = read_history(write(tmp_path / "metrics.json", *lines))
    assert training == {"iterations": [9, 19, 24, 29], "series": {"total_loss": [1.0, 4.0, 5.0, 3.0]}}


def test_what_is_no_line_of_ours_is_left_out(tmp_path):
    path = write(
        tmp_path / "metrics.json",
        *("what is this?\n", "[1]\n", "7\n", '{"total_loss": 1}\n', '{"iteration": "x", "total_loss": 1}\n'),
        '{"iteration": Infinity, "total_loss": 1}\n',
        '{"iteration": 3, "total_loss": NaN, "loss_a": Infinity, "loss_b": "high", "lr": 0.5}\n',
        '{"iteration": 4, "total_lo',
    )
    training, evaluations = read_history(path)
    assert training["iterations"] == [3] and evaluations["iterations"] == []
    assert training["series"] == {"total_loss": [None], "loss_a": [None], "loss_b": [None], "lr": [0.5]}


def test_few_points_stay_as_they_are():
    curves = {"iterations": [1, 2, 3], "series": {"a": [0.1, None, 0.3], "lr": [1.0, 2.0, 3.0]}}
    assert thinned(curves, most=3) == curves


def test_many_points_become_means_of_neighbours():
    curves = {
        "iterations": [10, 20, 30, 40, 50],
        "series": {"a": [1.0, 3.0, None, 5.0, 7.0], "b": [None, None, 1.0, 1.0, 1.0], "lr": [5.0, 4.0, 3.0, None, 1.0]},
    }
    assert thinned(curves, most=3) == {
        "iterations": [20, 40, 50],
        "series": {"a": [2.0, 5.0, 7.0], "b": [None, 1.0, 1.0], "lr": [4.0, 3.0, 1.0]},
    }


def test_the_more_curves_the_fewer_points():
    """Of 1,000 categories an evaluation each tenth of a training for 50 trainings would be 10 MB of text."""
    curves = {"iterations": list(range(500)), "series": {f"segm/AP-{k}": [0.5] * 500 for k in range(1000)}}
    found = thinned(curves)
    assert len(found["series"]) == 1000 and len(found["iterations"]) == 50 and found["iterations"][-1] == 499
    assert all(values == [0.5] * 50 for values in found["series"].values())


@pytest.mark.parametrize("count", [1999, 2000, 2001, 13500])
def test_a_long_run_keeps_its_ends_and_its_mean(count):
    values = [math.sin(i / 100) for i in range(count)]
    curves = thinned({"iterations": list(range(19, 19 + 20 * count, 20)), "series": {"total_loss": values}})
    iterations, losses = curves["iterations"], curves["series"]["total_loss"]
    assert 1000 <= len(iterations) == len(losses) <= 2000
    assert iterations[-1] == 20 * count - 1 and iterations == sorted(set(iterations))
    weights = [now - before for before, now in zip([-1, *iterations], iterations, strict=False)]
    mean = sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)
    assert mean == pytest.approx(sum(values) / count)
