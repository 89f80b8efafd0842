"""Being asked to stop: by a scheduler that needs the machine, or by whoever runs the job."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Generic, Protocol, TypeVar

from maskrcnn.distributed import all_gather_object, any_rank, world_size
from maskrcnn.engine.trainer import Hook, Step

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Loader(Protocol[T_co]):
    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[T_co]: ...


class Preempted(Exception):
    """The run was asked to stop, its state is saved, and --resume goes on with it."""


class StopRequest:
    """Whether a signal has asked this process to stop: it is only noted, and looked for where stopping does no harm."""

    def __init__(self) -> None:
        self.name = ""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within the context SIGTERM and SIGUSR1 are noted. A thread that is not the main one cannot listen."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name


class Interruptible(Generic[T]):
    """A loader, as often as it is gone through, until somebody asks to stop.

    For a loop during which nothing is lost, since the state was saved before, and which every process goes through: all
    of them leave it alike.
    """

    def __init__(self, loader: Loader[T], request: StopRequest) -> None:
        self.loader, self.request = loader, request

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[T]:
        """Raises Preempted, in all processes after equally many items, when somebody asked one of them."""
        items, answer = iter(self.loader), any_rank(bool(self.request.name))
        for _ in range(max(all_gather_object(len(self.loader)))):  # who has fewer items goes on answering
            if answer():
                break
            answer = any_rank(bool(self.request.name))
            yield from itertools.islice(items, 1)
        if answer():
            name = self.request.name or "another process"
            raise Preempted(f"stopped by {name} during an evaluation; --resume goes on from the last checkpoint")


class Preemption(Hook):
    """Saves and stops after the step in which any process was asked to.

    The processes agree on it by an all-reduce that nobody waits for: its answer is read after the next step.

    Args:
        save: the state after an iteration; whether it was written.
    """

    def __init__(self, request: StopRequest, save: Callable[[int], bool]) -> None:
        self.request, self.save = request, save
        self.answer: Callable[[], bool] = lambda: False

    def after_step(self, step: Step) -> None:
        if step.is_last:
            self.answer()  # nothing may be left on its way; all that remains is the evaluation
            return
        asked, self.answer = self.answer(), any_rank(bool(self.request.name))
        if asked or (world_size() == 1 and self.answer()):
            saved = "which is saved" if self.save(step.iteration) else "which could not be saved"
            name = self.request.name or "another process"
            raise Preempted(f"stopped by {name} after iteration {step.iteration}, {saved}; --resume goes on")
