import random

import numpy as np
import pytest
import torch
from torch import nn

from maskrcnn.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from maskrcnn.engine.state import (
    check_resumable,
    restore,
    rng_state,
    seed_everything,
    set_rng_state,
    training_state,
    untouched_rng,
)


def draws():
    return random.random(), np.random.rand(), torch.rand(1).item(), random.gauss(0, 1), np.random.randn()


def test_seeds_repeat_and_negative_ones_do_not():
    assert seed_everything(3) == 3
    first = draws()
    seed_everything(3)
    assert draws() == first
    chosen = seed_everything(-1)
    assert chosen >= 0
    first = draws()
    seed_everything(chosen)
    assert draws() == first


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


def parts(lr=0.1, momentum=0.9, size=2):
    model = nn.Linear(size, size)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=0.1)
    return model, optimizer, torch.amp.GradScaler("cpu", enabled=False)


def stepped():
    model, optimizer, scaler = parts()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return model, optimizer, scaler


def test_momentum_comes_back_and_changed_options_stay(tmp_path):
    model, optimizer, scaler = stepped()
    save_checkpoint(tmp_path / "c.pth", {**training_state(model, optimizer, scaler), "iteration": 0})
    new_model, new_optimizer, _ = parts(momentum=0.5)
    restore(load_checkpoint(tmp_path / "c.pth"), "c.pth", new_model, new_optimizer, scaler)
    torch.testing.assert_close(dict(new_model.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    buffers = [[o.state[p]["momentum_buffer"] for p in o.param_groups[0]["params"]] for o in (optimizer, new_optimizer)]
    torch.testing.assert_close(buffers[0], buffers[1], rtol=0, atol=0)
    assert new_optimizer.param_groups[0]["momentum"] == 0.5


def test_weights_alone_cannot_be_resumed():
    with pytest.raises(CheckpointError, match=r"w\.pth has no .*iteration, optimizer, rng, .*: it holds weights"):
        check_resumable({"model": {}}, "w.pth")


def test_another_model_cannot_be_resumed():
    model, optimizer, scaler = stepped()
    state = {**training_state(model, optimizer, scaler), "iteration": 0}
    with pytest.raises(CheckpointError, match=r"weight: \(2, 2\) in the weights, \(3, 3\) in the model"):
        restore(state, "c.pth", *parts(size=3))


def test_other_frozen_layers_cannot_be_resumed():
    model, optimizer, scaler = stepped()
    state = {**training_state(model, optimizer, scaler), "iteration": 0}
    other = nn.Linear(2, 2)
    fewer = torch.optim.SGD([other.weight], lr=0.1)
    with pytest.raises(CheckpointError, match=r"c\.pth: its optimizer trained other parameters"):
        restore(state, "c.pth", other, fewer, scaler)
