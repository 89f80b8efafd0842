"""The exponential moving average of a model's weights, which evaluates better than the weights of the last step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """After each step: average <- decay * average + (1 - decay) * weights, of all that a checkpoint of the model holds.

    In the first steps the decay is (1 + n) / (10 + n) after n updates where that is less, so that the random start
    does not weigh for thousands of steps. Integers (a batch norm's counter) are copied.

    Args:
        decay: 0..1, such as 0.9998: an average over some 5000 steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.updates = model, decay, 0
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's weights of now."""
        self.updates += 1
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        state = self.model.state_dict()
        floats = [name for name, value in state.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.average[name] for name in floats], [state[name] for name in floats], weight)
        for name in state.keys() - set(floats):
            self.average[name].copy_(state[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the context the model has the averaged weights."""
        own = {name: value.clone() for name, value in self.model.state_dict().items()}
        self._give(self.average)
        try:
            yield
        finally:
            self._give(own)

    @torch.no_grad()
    def _give(self, weights: Mapping[str, Tensor]) -> None:
        for name, value in self.model.state_dict().items():
            value.copy_(weights[name])

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.average)

    def load_state_dict(self, state: Mapping[str, Tensor], *, updates: int) -> None:
        """Inverse of `state_dict`, after so many updates."""
        self.updates = updates
        for name, value in self.average.items():
            value.copy_(state[name])
