import random

import numpy as np
import pytest
import torch
from torch import nn

from maskrcnn.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from maskrcnn.engine.ema import WeightAverage
from maskrcnn.engine.state import (
    TrainingState,
    agree_on_seed,
    check_resumable,
    rng_state,
    seed_everything,
    seed_of_rank,
    set_rng_state,
    untouched_rng,
)


def draws():
    return random.random(), np.random.rand(), torch.rand(1).item(), random.gauss(0, 1), np.random.randn()


def test_seeds_repeat_and_negative_ones_do_not():
    seed_everything(3)
    first = draws()
    seed_everything(3)
    assert draws() == first
    assert agree_on_seed(3) == 3
    assert 0 <= agree_on_seed(-1) != agree_on_seed(-1)


def test_each_process_draws_its_own_numbers(monkeypatch):
    seeds = set()
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        seeds |= {seed_of_rank(7), seed_of_rank(7, 100), seed_of_rank(8)}
    assert len(seeds) == 9


def test_generators_go_on_after_a_trip_through_a_file(tmp_path):
    seed_everything(0)
    draws()
    save_checkpoint(tmp_path / "c.pth", rng_state())
    expected = draws()
    seed_everything(5)
    set_rng_state(load_checkpoint(tmp_path / "c.pth"))
    assert draws() == expected


def test_untouched():
    seed_everything(1)
    expected = draws()
    seed_everything(1)
    with untouched_rng():
        draws()
    assert draws() == expected


def parts(lr=0.1, momentum=0.9, size=2, ema=False):
    model = nn.Linear(size, size)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=0.1)
    average = WeightAverage(model, 0.5) if ema else None
    return TrainingState(model, optimizer, torch.amp.GradScaler("cpu", enabled=False), average)


def stepped(**options):
    state = parts(**options)
    state.model(torch.ones(1, 2)).sum().backward()
    state.optimizer.step()
    if state.ema:
        state.ema.update()
    return state


FACTS = {"iteration": 0, "seed": 3}


def momenta(state):
    return [state.optimizer.state[p]["momentum_buffer"] for p in state.optimizer.param_groups[0]["params"]]


def test_everything_comes_back_and_changed_options_stay(tmp_path):
    old, new = stepped(ema=True), parts(momentum=0.5, ema=True)
    save_checkpoint(tmp_path / "c.pth", {**old.save(), **FACTS})
    new.restore(load_checkpoint(tmp_path / "c.pth"), "c.pth")
    torch.testing.assert_close(dict(new.model.state_dict()), dict(old.model.state_dict()), rtol=0, atol=0)
    torch.testing.assert_close(momenta(new), momenta(old), rtol=0, atol=0)
    torch.testing.assert_close(new.ema.state_dict(), old.ema.state_dict(), rtol=0, atol=0)
    assert new.ema.updates == 1
    assert new.optimizer.param_groups[0]["momentum"] == 0.5


def test_an_average_that_the_run_did_not_have_starts_from_its_weights():
    old, new = stepped(), parts(ema=True)
    new.restore({**old.save(), **FACTS}, "c.pth")
    torch.testing.assert_close(new.ema.state_dict(), dict(old.model.state_dict()), rtol=0, atol=0)


def test_a_process_that_the_run_did_not_have_draws_its_own_numbers(monkeypatch):
    content = {**stepped().save(), **FACTS}
    restored = []
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        parts().restore(content, "c.pth")
        restored.append(draws())
    assert restored[0] != restored[1]


def test_weights_alone_cannot_be_resumed():
    with pytest.raises(CheckpointError, match=r"w\.pth has no .*iteration, optimizer, rng, .*: it holds weights"):
        check_resumable({"model": {}}, "w.pth")


def test_another_model_cannot_be_resumed():
    with pytest.raises(CheckpointError, match=r"weight: \(2, 2\) in the weights, \(3, 3\) in the model"):
        parts(size=3).restore({**stepped().save(), **FACTS}, "c.pth")


def test_other_frozen_layers_cannot_be_resumed():
    other = parts()
    fewer = TrainingState(other.model, torch.optim.SGD([other.model.weight], lr=0.1), other.scaler)
    with pytest.raises(CheckpointError, match=r"c\.pth: its optimizer trained other parameters"):
        fewer.restore({**stepped().save(), **FACTS}, "c.pth")
