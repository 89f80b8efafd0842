"""What a check found, for people and for programs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from maskrcnn.data.checking.problems import KINDS, Policy, Problem
from maskrcnn.data.records import Change

EXAMPLES = 3  # of each kind in a report
LISTED = 8  # problems in an error message


@dataclass(frozen=True)
class Report:
    """What was found in an annotation file, and what a policy made of it.

    Args:
        content: of the file, without what was dropped and with what was mended; with the policy "error", without the
            entries that have one; None if the file could not be gone through.
        num_images, num_annotations: in the file.
    """

    file: str
    policy: Policy
    problems: tuple[Problem, ...] = ()
    changes: tuple[Change, ...] = ()
    content: dict[str, Any] | None = None
    num_images: int = 0
    num_annotations: int = 0

    @property
    def clean(self) -> bool:
        """Whether there is nothing but notes."""
        return all(problem.severity == "note" for problem in self.problems)

    @property
    def refused(self) -> bool:
        """Whether this cannot be trained on: something is fatal, or the policy is not to go on after an error."""
        severities = {problem.severity for problem in self.problems}
        return "fatal" in severities or (self.policy == "error" and "error" in severities)

    @property
    def errors(self) -> list[Problem]:
        """Fatal ones first."""
        found = [problem for problem in self.problems if problem.severity in ("fatal", "error")]
        return sorted(found, key=lambda problem: problem.severity != "fatal")


def text_of(report: Report) -> str:
    """The report to read: the problems by kind, each with a count, a few examples and the remedy."""
    size = f"{counted(report.num_images, 'image')} with {counted(report.num_annotations, 'annotation')}"
    lines = [f"{report.file}: {tally(report.problems)} in {size}"]
    for kind, problems in by_kind(report.problems).items():
        severity, title = KINDS[kind].severity, KINDS[kind].title
        lines.append(f"  {severity}: {title} ({kind}): {len(problems)}")
        lines += [f"    {p.where}: {p.message}" if p.where else f"    {p.message}" for p in problems[:EXAMPLES]]
        if len(problems) > EXAMPLES:
            lines.append(f"    ... and {len(problems) - EXAMPLES} more")
        if KINDS[kind].remedy:
            lines.append(f"    remedy: {KINDS[kind].remedy}")
        if KINDS[kind].repair and report.policy == "error":
            lines.append(f"    repair: {KINDS[kind].repair}")
    if report.changes and not report.refused:
        lines.append(f"  {report.policy}: {changes_tally(report.changes)}")
    return "\n".join(lines)


def json_of(report: Report) -> dict[str, Any]:
    """Every problem and every change, as plain values."""
    return {
        "file": report.file,
        "policy": report.policy,
        "images": report.num_images,
        "annotations": report.num_annotations,
        "problems": [{"severity": p.severity, **asdict(p), "remedy": KINDS[p.kind].remedy} for p in report.problems],
        "changes": [asdict(change) for change in report.changes],
    }


def error_message(report: Report, command: str) -> str:
    """The errors as the message of an exception: a single one as one line, else the first few on a line each.

    Args:
        command: that shows all of them.
    """
    errors = list(dict.fromkeys(problem.line for problem in report.errors))  # of two entries with one id: once
    if len(errors) == 1:
        return errors[0]
    lines = [f"{report.file}: {tally(report.problems)}"]
    lines += [f"  {line.removeprefix(f'{report.file}: ')}" for line in errors[:LISTED]]
    if len(errors) > LISTED:
        lines.append(f"  ... and {len(errors) - LISTED} more")
    lines.append(f"`{command}` lists all; with --policy repair --write FILE it writes a file without them, and")
    lines.append("DATASETS.PROBLEMS drop, or repair, trains without what is wrong")
    return "\n".join(lines)


def warnings_of(report: Report) -> list[str]:
    """One line for each kind of warning, for a log."""
    lines = []
    for kind, problems in by_kind(report.problems).items():
        if KINDS[kind].severity == "warning":
            first = f"{problems[0].where}: {problems[0].message}"
            lines.append(f"{report.file}: {len(problems)} {KINDS[kind].title} ({kind}), the first being {first}")
    return lines


def by_kind(problems: Sequence[Problem]) -> dict[str, list[Problem]]:
    """In the order of gravity, and within it the commonest first."""
    groups: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        groups[problem.kind].append(problem)
    severities = ("fatal", "error", "warning", "note")
    order = sorted(groups, key=lambda kind: (severities.index(KINDS[kind].severity), -len(groups[kind])))
    return {kind: groups[kind] for kind in order}


def tally(problems: Sequence[Problem]) -> str:
    """`2 errors, 1 warning`, or `no problems`; notes are none."""
    counts = Counter("error" if p.severity == "fatal" else p.severity for p in problems)
    parts = [counted(counts[word], word) for word in ("error", "warning") if counts[word]]
    notes = [counted(counts["note"], "note")] if counts["note"] else []
    return ", ".join((parts or ["no problems"]) + notes)


def changes_tally(changes: Sequence[Change]) -> str:
    """`2 annotations dropped, 1 changed`."""
    counts = Counter((change.action, change.where.split()[0]) for change in changes)
    return ", ".join(f"{counted(number, what)} {action}" for (action, what), number in sorted(counts.items()))


def counted(number: int, word: str) -> str:
    plural = "categories" if word == "category" else f"{word}s"
    return f"{number} {word if number == 1 else plural}"
