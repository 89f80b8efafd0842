"""Where the time of an iteration goes."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.hooks import RemovableHandle

from maskrcnn.checkpoint import write_atomically
from maskrcnn.engine.profile_tables import profile_tables
from maskrcnn.engine.trainer import Hook, Step

logger = logging.getLogger(__name__)

WARM_UP = 3  # first iterations, which allocate memory and choose algorithms


class Profiling(Hook):
    """Profiles some iterations after the first few, and leaves trace.json.gz and modules.txt in a folder.

    The model's modules are labelled meanwhile. A run that ends before leaves what it has got.

    Args:
        model: whose modules make rows.
        folder: is made if it does not exist.
        iterations: how many.
        device: that the model is on.
        compiled: modules that `torch.compile` took: they and what is in them get no label, which would compile them
            anew, in the middle of the profile.
    """

    def __init__(
        self,
        model: nn.Module,
        folder: Path,
        *,
        iterations: int,
        device: torch.device,
        compiled: Sequence[nn.Module] = (),
    ) -> None:
        self.model, self.folder, self.iterations, self.device = model, folder, iterations, device
        self.compiled = {module for part in compiled for module in part.modules()}
        self.seen = 0
        self.is_done = False
        self.profiler: profile | None = None
        self.handles: list[RemovableHandle] = []
        self.started = 0.0

    def after_step(self, step: Step) -> None:
        if self.is_done:
            return
        self.seen += 1
        if self.seen == WARM_UP and not step.is_last:
            self.start()
        elif self.profiler and (step.is_last or self.seen == WARM_UP + self.iterations):
            self.finish()

    def after_evaluation(self, iteration: int, results: dict[str, float]) -> None:
        if self.profiler:
            logger.warning("the profile contains an evaluation; TEST.EVAL_PERIOD 0 would keep it out")

    def close(self) -> None:
        if self.profiler:
            self.finish()
        elif not self.is_done:
            logger.warning(
                "no profile: the run ended after %d iterations, and the first %d warm up", self.seen, WARM_UP
            )

    def start(self) -> None:
        for name, module in self.model.named_modules():
            if module not in self.compiled:
                self.handles += label_forward(module, label_of(name, self.model), self.model)
        on_gpu = self.device.type == "cuda"
        self.profiler = profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu])
        self.wait_for_device()
        self.profiler.start()
        self.started = time.perf_counter()

    def finish(self) -> None:
        """Stop, and write what there is."""
        profiler, self.profiler, self.is_done = self.profiler, None, True
        assert profiler is not None
        self.wait_for_device()
        seconds, iterations = time.perf_counter() - self.started, self.seen - WARM_UP
        profiler.stop()
        for handle in self.handles:
            handle.remove()
        if not iterations:
            return
        tables = profile_tables(
            profiler.events() or [],
            [label_of(name, self.model) for name, _ in self.model.named_modules()],
            iterations=iterations,
            seconds=seconds,
            gpu=self.device.type == "cuda",
        )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / "modules.txt", f"means of {iterations} iterations\n\n{tables}\n".encode())
            profiler.export_chrome_trace(str(self.folder / "trace.json.gz"))
            logger.info("the profile of %d iterations is in %s", iterations, self.folder)
        except OSError as error:  # a full disk, which is no reason to end a run
            logger.error("the profile cannot be written to %s (%s)", self.folder, error)

    def wait_for_device(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def label_of(name: str, model: nn.Module) -> str:
    """A module's label: its name; the model itself has none, and gets its class's."""
    return name or type(model).__name__


def label_forward(module: nn.Module, label: str, model: nn.Module) -> list[RemovableHandle]:
    """Let a module's forward pass be a range of the profile, while the model trains.

    Not in an evaluation, nor when a backward pass repeats it (gradient checkpointing), which it is a part of.
    """
    running: list[Any] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        is_backward = torch._C._current_graph_task_id() != -1
        if model.training and not is_backward:
            running.append(record_function(label))
            running[-1].__enter__()

    def leave(module: nn.Module, inputs: Any, outputs: Any) -> None:
        if running:
            running.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
