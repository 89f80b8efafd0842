"""A finished iteration, as hooks see it."""

from types import SimpleNamespace

import torch

from maskrcnn.engine.trainer import Step


def step(iteration, total=1.0, max_iter=100, seconds=0.5, waited=0.1, norms=(1.0,), finite=True, **losses):
    return Step(
        iteration=iteration,
        max_iter=max_iter,
        total_loss=torch.tensor(total),
        losses={name: torch.tensor(value) for name, value in losses.items()},
        finite=torch.tensor(finite),
        gradient_norms=torch.tensor(norms),
        learning_rate=0.02,
        time=seconds,
        data_time=waited,
        samples=[SimpleNamespace(image_id=7), SimpleNamespace(image_id=9)],
    )
