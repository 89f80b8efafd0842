"""The report of a run, after each evaluation."""

from __future__ import annotations

from collections.abc import Callable

from maskrcnn.engine.trainer import Hook


class Reporting(Hook):
    """Has a report made after each evaluation.

    Args:
        report: is given what was evaluated.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self.report = report

    def after_evaluation(self, iteration: int, results: dict[str, float]) -> None:
        self.report(f"iteration {iteration}")
