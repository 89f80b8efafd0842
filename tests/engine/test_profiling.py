import gzip
import json
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.profiler import record_function

from maskrcnn.engine.hooks import Profiling
from maskrcnn.engine.hooks.profiling import WARM_UP
from maskrcnn.engine.trainer import Step
from maskrcnn.modeling.recompute import recompute_in_backward

NAME_OF_ALL = "Sequential"


class Chain(nn.Sequential):
    """With a forward of its own, since torch 2.10 does not compile torch's."""

    def forward(self, x):
        for part in self:
            x = part(x)
        return x


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 4), Chain(nn.ReLU(), nn.Linear(4, 2)))


def step(iteration, loss, max_iter):
    return Step(
        iteration=iteration,
        max_iter=max_iter,
        total_loss=loss,
        losses={},
        finite=torch.tensor(True),
        gradient_norms=torch.zeros(4),
        learning_rate=0.1,
        time=1.0,
        data_time=0.0,
        samples=[],
    )


def run(model, hook, steps, *, max_iter=100, labels=True, evaluate_after=None, fail_at=None):
    """A trainer's loop, with or without its labels."""
    label = record_function if labels else lambda name: nullcontext()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    try:
        for i in range(steps):
            with label("data"):
                batch = torch.ones(3, 4)
            with label("forward"):
                if i == fail_at:
                    batch = torch.ones(3, 5)
                loss = model(batch).sum()
            with label("backward"):
                loss.backward()
            with label("optimizer"):
                optimizer.step()
            hook.after_step(step(i, loss.detach(), max_iter))
            if i == evaluate_after:
                model.eval()(torch.ones(3, 4))
                model.train()
                hook.after_evaluation(i, {})
    finally:
        hook.close()


def profiling(model, folder, iterations=2):
    return Profiling(model, folder / "profile", iterations=iterations, device=torch.device("cpu"))


def rows_of(folder):
    """The number of iterations, and rows by name."""
    lines = (folder / "profile" / "modules.txt").read_text().splitlines()
    return lines[0], {line.split()[0]: line.split()[1:] for line in lines[1:] if line}


def trace_of(folder):
    with gzip.open(folder / "profile" / "trace.json.gz") as file:
        return [event.get("name") for event in json.load(file)["traceEvents"]]


@pytest.mark.parametrize("labels", [True, False])
def test_so_many_iterations_after_the_first(model, tmp_path, labels):
    run(model, profiling(model, tmp_path), 10, labels=labels)
    heading, rows = rows_of(tmp_path)
    assert heading == "means of 2 iterations"
    assert all(rows[name][0] == "1" for name in (NAME_OF_ALL, "0", "1", "1.0", "1.1"))
    assert ({"data", "forward", "backward", "optimizer"} <= rows.keys()) == labels
    assert "all" in rows and rows["aten::addmm"][0] == "2"
    names = trace_of(tmp_path)
    assert names.count("1.1") == 2 and "aten::addmm" in names
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_compiled_parts_stay_as_they_are(model, tmp_path):
    compilations = []
    model[1].compile(backend=lambda graph, inputs: compilations.append(graph) or graph.forward)
    hook = Profiling(model, tmp_path / "profile", iterations=2, device=torch.device("cpu"), compiled=[model[1]])
    run(model, hook, 10)
    assert len(compilations) == 1
    rows = rows_of(tmp_path)[1]
    assert rows[NAME_OF_ALL][0] == rows["0"][0] == "1" and not {"1", "1.0", "1.1"} & rows.keys()


def test_what_the_backward_pass_computes_again_is_no_forward_pass(model, tmp_path):
    recompute_in_backward(model[1])
    runs = []
    model[1][1].register_forward_pre_hook(lambda *_: runs.append(1))
    run(model, profiling(model, tmp_path), 10)
    assert len(runs) == 20  # the second time each in the backward pass
    rows = rows_of(tmp_path)[1]
    assert all(rows[name][0] == "1" for name in (NAME_OF_ALL, "0", "1", "1.0", "1.1"))


def test_an_evaluation_in_between_makes_no_rows_and_is_told(model, tmp_path, caplog):
    run(model, profiling(model, tmp_path), 10, evaluate_after=WARM_UP)
    assert rows_of(tmp_path)[1]["1.1"][0] == "1"
    assert "the profile contains an evaluation" in caplog.text


def test_a_run_that_ends_earlier_leaves_what_it_has(model, tmp_path, caplog):
    steps = WARM_UP + 3
    run(model, profiling(model, tmp_path, iterations=50), steps, max_iter=steps, evaluate_after=steps - 1)
    assert rows_of(tmp_path)[0] == "means of 3 iterations"
    assert not caplog.text  # its evaluation came after


def test_a_run_that_fails_leaves_what_it_has(model, tmp_path):
    with pytest.raises(RuntimeError):
        run(model, profiling(model, tmp_path), 10, fail_at=WARM_UP + 1)
    assert rows_of(tmp_path)[0] == "means of 1 iterations"
    assert model(torch.ones(1, 4)).shape == (1, 2)


@pytest.mark.parametrize("steps", [1, WARM_UP])
def test_a_run_that_only_warms_up_is_told(model, tmp_path, caplog, steps):
    run(model, profiling(model, tmp_path), steps, max_iter=steps)
    assert f"no profile: the run ended after {steps} iterations" in caplog.text
    assert not list(tmp_path.iterdir())
