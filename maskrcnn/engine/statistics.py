"""The running statistics of batch norms: of finite steps alone, and the same in all processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from maskrcnn.distributed import world_size


class RunningStatistics:
    """They move in the forward pass, before anybody knows whether the step's loss and gradient are finite.

    `keep` them before a step and `settle` them after it: those of a step that was not finite go back to what they
    were, and each process gets the main one's, since BN moves them by its own images. A model without such norms has
    nothing here, and costs nothing.
    """

    def __init__(self, model: nn.Module) -> None:
        norms = [module for module in model.modules() if isinstance(module, _NormBase) and module.track_running_stats]
        self.now = [t for norm in norms for t in (norm.running_mean, norm.running_var) if t is not None]
        self.before = torch.empty(0)

    @torch.no_grad()
    def keep(self) -> None:
        if self.now:
            self.before = torch.cat(self.now)

    @torch.no_grad()
    def settle(self, finite: torch.Tensor) -> None:
        """
        Args:
            finite: bool scalar, on the device, the same in all processes.
        """
        if not self.now:
            return
        settled = torch.where(finite, torch.cat(self.now), self.before)
        if world_size() > 1:
            dist.broadcast(settled, src=0)
        torch._foreach_copy_(self.now, settled.split([len(statistic) for statistic in self.now]))
