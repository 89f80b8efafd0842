import pytest
import torch
from torch import nn

from maskrcnn.engine.solver import build_optimizer, build_schedule, parameter_groups

SOLVER = {
    "OPTIMIZER": "SGD",
    "BASE_LR": 0.02,
    "IMS_PER_BATCH": 16,
    "LR_FOR_BATCH": 0,
    "LR_SCHEDULE": "multistep",
    "POLY_POWER": 0.9,
    "STEPS": (60, 80),
    "GAMMA": 0.1,
    "MAX_ITER": 100,
    "WARMUP_ITERS": 4,
    "WARMUP_FACTOR": 0.1,
    "LR_FACTORS": (),
    "MOMENTUM": 0.9,
    "NESTEROV": False,
    "WEIGHT_DECAY": 0.5,
    "WEIGHT_DECAY_NORM": 0.25,
}
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {},
            {0: 0.002, 1: 0.0065, 2: 0.011, 3: 0.0155, 4: 0.02, 59: 0.02, 60: 0.002, 79: 0.002, 80: 0.0002, 99: 0.0002},
        ),
        ({"LR_SCHEDULE": "poly"}, {0: 0.002, 50: 0.02 * 0.535886731, 99: 0.02 * 0.015848932}),
        ({"LR_SCHEDULE": "cosine"}, {0: 0.002, 25: 0.02 * 0.853553391, 50: 0.01, 75: 0.02 * 0.146446609}),
        ({"WARMUP_ITERS": 0, "STEPS": ()}, {0: 0.02, 99: 0.02}),
        ({"WARMUP_ITERS": 0, "STEPS": (), "IMS_PER_BATCH": 4, "LR_FOR_BATCH": 16}, {0: 0.005, 99: 0.005}),
    ],
    ids=["multistep", "poly", "cosine", "constant", "scaled"],
)
def test_schedules_by_hand(options, expected):
    rate = build_schedule({**SOLVER, **options})
    assert {i: rate(i) for i in expected} == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("steps", [(80, 60), (60, 60)])
def test_steps_out_of_order(steps):
    with pytest.raises(ValueError, match=r"SOLVER\.STEPS is \[.*expected increasing"):
        build_schedule({**SOLVER, "STEPS": steps})


def test_a_warmup_factor_above_one():
    with pytest.raises(ValueError, match=r"SOLVER\.WARMUP_FACTOR is 2"):
        build_schedule({**SOLVER, "WARMUP_FACTOR": 2})


def test_norms_decay_by_their_own_rate_and_frozen_parameters_not_at_all():
    shared = nn.Linear(2, 2)
    model = nn.ModuleDict(
        {
            "conv": nn.Conv2d(3, 4, 1),
            "bn": nn.BatchNorm2d(4),
            "gn": nn.GroupNorm(2, 4),
            "frozen": nn.Conv2d(4, 4, 1).requires_grad_(False),
            "a": shared,
            "b": shared,
        }
    )
    ordinary, norms = parameter_groups(model, weight_decay=0.5, weight_decay_norm=0.25)
    assert ordinary["weight_decay"] == 0.5 and norms["weight_decay"] == 0.25
    ids = {id(p): name for name, p in model.named_parameters()}
    assert sorted(ids[id(p)] for p in norms["params"]) == ["bn.bias", "bn.weight", "gn.bias", "gn.weight"]
    assert sorted(ids[id(p)] for p in ordinary["params"]) == ["a.bias", "a.weight", "conv.bias", "conv.weight"]


def test_learning_rate_factors_by_name_the_last_match_counting():
    model = nn.ModuleDict(
        {"trunk": nn.Linear(2, 2), "head": nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.BatchNorm1d(2)})}
    )
    factors = (("head.*", 4.0), ("head.a.bias", 0.0))
    groups = parameter_groups(model, weight_decay=0.5, weight_decay_norm=0.25, lr_factors=factors)
    ids = {id(p): name for name, p in model.named_parameters()}
    found = {ids[id(p)]: (g["lr_factor"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert found == {
        "trunk.weight": (1.0, 0.5),
        "trunk.bias": (1.0, 0.5),
        "head.a.weight": (4.0, 0.5),
        "head.b.weight": (4.0, 0.25),
        "head.b.bias": (4.0, 0.25),
    }
    assert not model["head"]["a"].bias.requires_grad  # a factor of 0 freezes


def test_a_pattern_without_a_parameter_is_named():
    with pytest.raises(ValueError, match=r"LR_FACTORS: 'heads\.\*' matches no parameter"):
        parameter_groups(nn.Linear(1, 1), weight_decay=0, weight_decay_norm=0, lr_factors=(("heads.*", 2.0),))


def test_two_steps_of_sgd_by_hand():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    optimizer = build_optimizer(model, {**SOLVER, "BASE_LR": 0.1})
    for _ in range(2):  # gradient 2 throughout
        optimizer.zero_grad()
        (2 * model.weight).sum().backward()
        optimizer.step()
    # v1 = 2 + 0.5 * 1 = 2.5, w1 = 0.75; v2 = 0.9 * 2.5 + 2 + 0.5 * 0.75 = 4.625, w2 = 0.75 - 0.4625
    assert model.weight.item() == pytest.approx(0.2875)


def test_the_first_step_of_adamw_by_hand():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    optimizer = build_optimizer(model, {**SOLVER, "OPTIMIZER": "AdamW", "BASE_LR": 0.1})
    (2 * model.weight).sum().backward()
    optimizer.step()
    # Decay first, 1 - 0.1 * 0.5; then m / sqrt(v), which is 1 in the first step whatever the gradient.
    assert model.weight.item() == pytest.approx(1 * 0.95 - 0.1)


def test_nothing_to_train():
    with pytest.raises(ValueError, match="nothing to train"):
        build_optimizer(nn.Linear(1, 1).requires_grad_(False), SOLVER)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_a_first_step_that_is_left_out_leaves_nothing_behind(kind, momentum):
    """The device decides, by `found_inf`, whether the weights move; the steps that follow are as if it had not been."""
    weights = []
    for left_out in (True, False):
        layer = nn.Linear(3, 2)
        nn.init.ones_(layer.weight), nn.init.zeros_(layer.bias)
        optimizer = build_optimizer(layer, {**SOLVER, "OPTIMIZER": kind, "MOMENTUM": momentum})
        if left_out:
            for p in layer.parameters():
                p.grad = torch.full_like(p, float("nan"))
            optimizer.found_inf = torch.tensor(1.0)
            optimizer.step()
        optimizer.found_inf = torch.tensor(0.0)
        for _ in range(2):
            for p in layer.parameters():
                p.grad = torch.arange(p.numel()).view_as(p) + 1.0
            optimizer.step()
        weights.append([p.detach() for p in layer.parameters()])
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
