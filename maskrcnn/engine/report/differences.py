"""Several runs side by side: short names, and what was different between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Values = list[str | None]  # one of each run; None: unknown, or there is no such thing

FACTS = ("iterations", "precision", "device")  # the others are keys of the config


def short_names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names; where two are the same, as much of the paths as tells them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts))):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder.resolve()) for folder in folders]


def side_by_side(columns: Sequence[Mapping[str, str]]) -> list[tuple[str, Values]]:
    """Names, in the order in which they come, with the value of each run."""
    names = dict.fromkeys(name for column in columns for name in column)
    return [(name, [column.get(name) for column in columns]) for name in names]


def config_differences(configs: Sequence[Iterable[Sequence[str]]]) -> list[tuple[str, Values]]:
    """Keys whose values differ, or that some config has not; where the output goes does not count.

    Args:
        configs: of each run, rows of key, value and origin.
    """
    rows = side_by_side([{key: value for key, value, _ in config} for config in configs])
    return [(key, values) for key, values in rows if key != "OUTPUT_DIR" and len(set(values)) > 1]


def start_differences(described: Sequence[Mapping[str, Any]]) -> list[tuple[str, Values]]:
    """What differs between the newest starts: code, versions, machine, seed.

    Of a run that has not recorded its starts most is unknown, which is no difference.

    Args:
        described: "run" of each, as `describe_run` gives it.
    """
    columns = [_start(run) for run in described]
    recorded = [bool(run["starts"]) for run in described]
    differing = []
    for name, values in side_by_side(columns):
        known = {value for value, complete in zip(values, recorded, strict=True) if complete or value is not None}
        if len(known) > 1:
            differing.append((name, values))
    return differing


def _start(run: Mapping[str, Any]) -> dict[str, str]:
    facts = dict(run["facts"])
    found = {name: facts[name] for name in FACTS if name in facts}
    if not run["starts"]:
        return found
    newest = run["starts"][-1]
    git = newest["git"]
    if git:
        changed = len(git["changed"]) + git.get("more", 0)
        found["git commit"] = f"{git['commit'][:12]}{f' and {changed} changed files' if changed else ''}"
    return {
        **found,
        "starts": str(len(run["starts"])),
        "processes": str(newest["processes"]),
        **dict(newest["environment"]),
    }
