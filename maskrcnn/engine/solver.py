"""The optimizer, and the learning rate as a function of the iteration."""

from __future__ import annotations

import fnmatch
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    weight_decay_norm: float,
    lr_factors: Sequence[tuple[str, float]] = (),
) -> list[dict[str, Any]]:
    """The trainable parameters, grouped by weight decay and "lr_factor", by which the trainer multiplies the rate.

    Norm layers (weight and bias) decay by their own rate. A frozen parameter is in no group; a parameter that two
    modules share is in one group, once.

    Args:
        lr_factors: patterns of parameter names (`roi_heads.mask_head.*`) and their factors; the last match counts.
            A factor of 0 freezes the parameter.

    Raises:
        ValueError: a pattern that matches no parameter.
    """
    norms = {id(p) for module in model.modules() if isinstance(module, NORMS) for p in module.parameters(recurse=False)}
    names = [name for name, _ in model.named_parameters()]
    for pattern, _ in lr_factors:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"SOLVER.LR_FACTORS: {pattern!r} matches no parameter, such as {names[-1]}")
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        factor = next((f for pattern, f in reversed(lr_factors) if fnmatch.fnmatchcase(name, pattern)), 1.0)
        if factor == 0:
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            decay = weight_decay_norm if id(parameter) in norms else weight_decay
            group = groups.setdefault((decay, factor), {"params": [], "weight_decay": decay, "lr_factor": factor})
            group["params"].append(parameter)
    return list(groups.values())


def build_optimizer(model: nn.Module, solver: Mapping[str, Any]) -> torch.optim.Optimizer:
    """SGD with momentum (Mask R-CNN §3.1), or AdamW (Loshchilov & Hutter), from the section SOLVER.

    Raises:
        ValueError: nothing to train, or a pattern of LR_FACTORS that matches nothing.
    """
    groups = parameter_groups(
        model,
        weight_decay=solver["WEIGHT_DECAY"],
        weight_decay_norm=solver["WEIGHT_DECAY_NORM"],
        lr_factors=solver["LR_FACTORS"],
    )
    if not groups:
        raise ValueError("every parameter of the model is frozen: there is nothing to train")
    # fused: one pass over each parameter, where the plain form makes ten; a tenth of a small model's step on a CPU
    if solver["OPTIMIZER"] == "AdamW":
        return torch.optim.AdamW(groups, lr=solver["BASE_LR"], betas=(solver["MOMENTUM"], 0.999), fused=True)
    sgd = torch.optim.SGD(
        groups, lr=solver["BASE_LR"], momentum=solver["MOMENTUM"], nesterov=solver["NESTEROV"], fused=True
    )
    if solver["MOMENTUM"]:
        for parameter in (p for group in groups for p in group["params"]):
            # else it is made in the first step and, where that one is left out, never filled
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def warmup(iteration: int, *, iterations: int, factor: float) -> float:
    """1 after `iterations`, before that on the straight line from `factor` at iteration 0."""
    if iteration >= iterations:
        return 1.0
    return factor + (1 - factor) * iteration / iterations


def multistep(iteration: int, *, steps: Sequence[int], gamma: float) -> float:
    """`gamma` to the power of the number of steps reached; iteration `steps[0]` is the first with the lower rate."""
    return gamma ** bisect_right(steps, iteration)


def poly(iteration: int, *, max_iter: int, power: float) -> float:
    """(1 - t)^power, t going from 0 to 1."""
    return (1 - iteration / max_iter) ** power


def cosine(iteration: int, *, max_iter: int) -> float:
    """Half a cosine wave from 1 down to 0."""
    return 0.5 * (1 + math.cos(math.pi * iteration / max_iter))


def build_schedule(solver: Mapping[str, Any]) -> Callable[[int], float]:
    """The learning rate of each iteration, counted from 0, from the section SOLVER: the schedule times the warm-up.

    A pure function, so that resuming at an iteration needs nothing but its number. With LR_FOR_BATCH the rate is
    scaled linearly to the batch (Goyal et al., 2017).

    Raises:
        ValueError: values that make no schedule.
    """
    max_iter, steps = solver["MAX_ITER"], solver["STEPS"]
    if solver["LR_SCHEDULE"] == "multistep" and list(steps) != sorted(set(steps)):
        raise ValueError(f"SOLVER.STEPS is {list(steps)}; expected increasing iterations, each once")
    if not 0 <= solver["WARMUP_FACTOR"] <= 1:
        raise ValueError(f"SOLVER.WARMUP_FACTOR is {solver['WARMUP_FACTOR']}; expected 0 to 1")
    shapes: dict[str, Callable[[int], float]] = {
        "multistep": lambda i: multistep(i, steps=steps, gamma=solver["GAMMA"]),
        "poly": lambda i: poly(i, max_iter=max_iter, power=solver["POLY_POWER"]),
        "cosine": lambda i: cosine(i, max_iter=max_iter),
    }
    shape = shapes[solver["LR_SCHEDULE"]]
    base = solver["BASE_LR"] * (solver["IMS_PER_BATCH"] / solver["LR_FOR_BATCH"] if solver["LR_FOR_BATCH"] else 1)

    def learning_rate(iteration: int) -> float:
        factor = warmup(iteration, iterations=solver["WARMUP_ITERS"], factor=solver["WARMUP_FACTOR"])
        return base * factor * shape(iteration)

    return learning_rate
