"""What happens beside the training steps. A hook has one job and sees what it is given."""

from maskrcnn.engine.hooks.averaging import Averaging
from maskrcnn.engine.hooks.best import KeepBest
from maskrcnn.engine.hooks.checkpointing import Checkpointing
from maskrcnn.engine.hooks.finite import FiniteGuard, NonFiniteLoss
from maskrcnn.engine.hooks.metrics import Logging
from maskrcnn.engine.hooks.pictures import Pictures
from maskrcnn.engine.hooks.preemption import Preempted, Preemption, StopRequest
from maskrcnn.engine.hooks.profiling import Profiling
from maskrcnn.engine.hooks.reporting import Reporting

__all__ = [
    "Averaging",
    "Checkpointing",
    "FiniteGuard",
    "KeepBest",
    "Logging",
    "NonFiniteLoss",
    "Pictures",
    "Preempted",
    "Preemption",
    "Profiling",
    "Reporting",
    "StopRequest",
]
