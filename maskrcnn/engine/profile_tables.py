"""What a profile tells, as text: the parts of an iteration, the forward passes by module, the costliest operators."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

from maskrcnn.evaluation.tables import aligned

PHASES = ("data", "forward", "backward", "optimizer")  # the trainer's labels
TOP_OPERATORS = 20


@dataclass(frozen=True)
class Clock:
    """A way to time events, in microseconds: a labelled range with all in it, an operator without those it calls."""

    name: str
    of_range: Callable[[FunctionEvent], float]
    of_operator: Callable[[FunctionEvent], float]


def profile_tables(
    events: Iterable[FunctionEvent], modules: Sequence[str], *, iterations: int, seconds: float, gpu: bool
) -> str:
    """Three tables of what ran on the host and, where `gpu`, on the GPU for it, in milliseconds of one iteration.

    Args:
        events: of a profile. Ranges that are labelled with the names of PHASES and `modules` make the first two tables.
        iterations: how many the profile holds.
        seconds: how long they took together.
    """
    host = [event for event in events if event.device_type == DeviceType.CPU and not event.is_async]
    ranges = [event for event in host if event.is_user_annotation]
    operators = [event for event in host if not event.is_user_annotation]
    clocks = [Clock("CPU", lambda event: event.cpu_time_total, lambda event: event.self_cpu_time_total)]
    if gpu:
        clocks.append(Clock("GPU", gpu_time_of(operators), kernel_time))
    whole = [seconds * 1e6, *(sum(map(clock.of_operator, operators)) for clock in clocks[1:])]
    tables = [
        phase_rows(ranges, clocks, whole, iterations),
        module_rows(ranges, clocks, modules, iterations),
        operator_rows(operators, clocks, iterations),
    ]
    return "\n\n".join(map(aligned, tables))


def phase_rows(
    ranges: list[FunctionEvent], clocks: list[Clock], whole: list[float], iterations: int
) -> list[list[str]]:
    rows = [["part of an iteration", *(f"{clock.name} ms" for clock in clocks)]]
    for phase in PHASES:
        if found := [event for event in ranges if event.name == phase]:
            rows.append([phase, *(milliseconds(sum(map(clock.of_range, found)), iterations) for clock in clocks)])
    return [*rows, ["all", *(milliseconds(total, iterations) for total in whole)]]


def module_rows(
    ranges: list[FunctionEvent], clocks: list[Clock], modules: Sequence[str], iterations: int
) -> list[list[str]]:
    calls = Counter(event.name for event in ranges)
    times = [times_by_name for clock in clocks for times_by_name in total_and_self(ranges, clock, set(modules))]
    rows = [
        ["module, forward", "calls", *(f"{clock.name} {what} ms" for clock in clocks for what in ("total", "self"))]
    ]
    for name in filter(calls.__getitem__, modules):
        rows.append([name, per_iteration(calls[name], iterations), *(milliseconds(t[name], iterations) for t in times)])
    return rows


def total_and_self(
    ranges: list[FunctionEvent], clock: Clock, modules: Collection[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """By module, its time and the part of it that is not in another module which it calls."""
    total, own = defaultdict[str, float](float), defaultdict[str, float](float)
    for event in ranges:
        if event.name in modules:
            time = clock.of_range(event)
            total[event.name] += time
            own[event.name] += time
            caller = event.cpu_parent
            while caller is not None and not (caller.is_user_annotation and caller.name in modules):
                caller = caller.cpu_parent
            if caller is not None:
                own[caller.name] -= time
    return total, own


def operator_rows(operators: list[FunctionEvent], clocks: list[Clock], iterations: int) -> list[list[str]]:
    """Those that take longest by the last clock: the GPU's, where there is one."""
    calls = Counter(event.name for event in operators)
    times = [defaultdict[str, float](float) for _ in clocks]
    for event in operators:
        for clock, by_name in zip(clocks, times, strict=True):
            by_name[event.name] += clock.of_operator(event)
    rows = [["operator", "calls", *(f"{clock.name} self ms" for clock in clocks)]]
    for name in sorted(times[-1], key=times[-1].__getitem__, reverse=True)[:TOP_OPERATORS]:
        rows.append([name, per_iteration(calls[name], iterations), *(milliseconds(t[name], iterations) for t in times)])
    return rows


def kernel_time(event: FunctionEvent) -> float:
    return sum(kernel.duration for kernel in event.kernels)


def gpu_time_of(operators: list[FunctionEvent]) -> Callable[[FunctionEvent], float]:
    """How long the kernels ran that were launched during a range, by whatever thread: autograd has its own."""
    launched = sorted((event.time_range.start, kernel_time(event)) for event in operators)
    starts = [start for start, _ in launched]
    sums = [0.0, *accumulate(time for _, time in launched)]

    def of_range(event: FunctionEvent) -> float:
        return sums[bisect_left(starts, event.time_range.end)] - sums[bisect_left(starts, event.time_range.start)]

    return of_range


def milliseconds(microseconds: float, iterations: int) -> str:
    return f"{microseconds / iterations / 1000:.3f}"


def per_iteration(count: int, iterations: int) -> str:
    return f"{count / iterations:g}"
