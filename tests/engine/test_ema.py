import copy

import pytest
import torch
from torch import nn

from maskrcnn.engine.ema import WeightAverage


def test_the_average_by_hand():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = WeightAverage(model, 0.4)
    expected = {name: value.double() for name, value in model.state_dict().items()}
    for n in range(1, 6):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += n
        model(torch.randn(4, 2))  # moves the norm's statistics
        average.update()
        decay = min(0.4, (1 + n) / (10 + n))
        state = model.state_dict()
        for name in expected:
            expected[name] = decay * expected[name] + (1 - decay) * state[name].double()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-6, atol=1e-6)
    assert int(average.state_dict()["1.num_batches_tracked"]) == 5


def test_the_model_has_it_for_a_while():
    model = nn.Linear(2, 2)
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        model.weight += 1
    own, averaged = copy.deepcopy(model.state_dict()), copy.deepcopy(average.state_dict())
    pointer = model.weight.data_ptr()
    with pytest.raises(KeyError), average.in_place():  # also when an evaluation fails
        torch.testing.assert_close(dict(model.state_dict()), averaged, rtol=0, atol=0)
        raise KeyError
    torch.testing.assert_close(dict(model.state_dict()), dict(own), rtol=0, atol=0)
    torch.testing.assert_close(average.state_dict(), averaged, rtol=0, atol=0)
    assert model.weight.data_ptr() == pointer


def test_a_weight_that_two_modules_share_comes_back():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        model[0].weight += 1
    own, before = model[0].weight.clone(), average.state_dict()["1.weight"].clone()
    with average.in_place():
        assert torch.equal(model[0].weight, before)
    assert torch.equal(model[0].weight, own) and model[1].weight is model[0].weight
