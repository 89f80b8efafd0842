"""run.json: from what, where and by which command a run was started, each time."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypedDict

from yacs.config import CfgNode

from maskrcnn.checkpoint import write_atomically
from maskrcnn.config import leaves
from maskrcnn.distributed import local_world_size, world_size

RUN_FILE = "run.json"
FILLED_IN = "filled in at the start"  # the origin of a seed that was drawn, of the number of classes in the data
MOST_NAMES = 100  # of changed files: who forgot a .gitignore can have a data set of them
GIT_SECONDS = 5.0  # a repository on a busy file server is no reason to wait

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Invocation:
    """How somebody asked for a run.

    Args:
        command: a line for a shell; empty: by a call from Python.
        origins: where values of the config come from, by full key (`config.trace_config`).
        files: that the config was read from, the nearest first (`config.lineage`).
    """

    command: str = ""
    origins: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[Path] = ()


class GitState(TypedDict):
    """What a folder's git repository has checked out."""

    commit: str
    branch: str | None  # None: no branch, a detached head
    changed: list[str]  # names from the repository's root, also of files that it does not know; at most MOST_NAMES
    more: int  # how many further ones there are


class Start(TypedDict):
    """One start of a run, or one resumption."""

    when: str  # ISO 8601, local time with its offset to UTC
    iteration: int  # the first one to come
    command: str  # `without_secrets`; "": from Python
    folder: str  # the current one, which relative paths of command and config are from
    processes: int
    machines: int
    git: GitState | None  # of the current folder; None: no repository, no commit in it yet, no git
    environment: list[list[str]]  # pairs of name and value


class Record(TypedDict):
    """The content of run.json."""

    starts: list[Start]  # in the order of time
    origins: dict[str, str]  # by full key: where the newest start has the values of its config from, as far as known


def record_start(
    folder: Path,
    *,
    iteration: int,
    invocation: Invocation,
    asked: CfgNode,
    used: CfgNode,
    environment: Mapping[str, str],
) -> None:
    """Add one start to the folder's run.json. That it cannot be written is a warning, and costs no run.

    A run.json that is broken, or somebody else's, is kept as run.json.old.

    Args:
        iteration: the first one to come.
        asked, used: the config as it was given, and with what the start has filled in.
        environment: versions, devices.
    """
    path = folder / RUN_FILE
    machines = -(-world_size() // local_world_size())
    try:
        record = _kept_record(path)
        here = Path.cwd()
        start: Start = {
            "when": datetime.now().astimezone().isoformat(timespec="seconds"),
            "iteration": iteration,
            "command": without_secrets(invocation.command),
            "folder": str(here),
            "processes": world_size(),
            "machines": machines,
            "git": git_state(here),
            "environment": [[name, value] for name, value in environment.items()],
        }
        record["starts"].append(start)
        record["origins"] = _origins(invocation.origins, asked, used)
        write_atomically(path, json.dumps(record, indent=1).encode())
    except OSError as error:
        logger.warning("%s: this start cannot be recorded: %s", path, error)


def read_record(path: Path) -> Record:
    """What a run.json holds; nothing without the file.

    Raises:
        ValueError: it is broken, or somebody else's.
        OSError: it cannot be read.
    """
    if not path.exists():
        return {"starts": [], "origins": {}}
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not _is_record(content):
        raise ValueError(f"{path} is not what a run writes: no list of complete starts, or no origins")
    record: Record = content
    return record


def git_state(folder: Path) -> GitState | None:
    """The state of the repository that a folder is in; None without one, without a commit in it, without git."""
    words = "--no-optional-locks -c core.fsmonitor=false status --porcelain=v2 --branch -z --no-renames"
    command = ["git", *words.split(), "--untracked-files=normal"]  # no daemon is started that would outlive it
    try:
        found = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=GIT_SECONDS, check=True
        )
    except subprocess.TimeoutExpired:
        logger.warning("git takes more than %g s for the state of %s, which stays unknown", GIT_SECONDS, folder)
        return None
    except (OSError, subprocess.SubprocessError):
        return None
    entries = found.stdout.decode(errors="replace").split("\0")
    head = dict(entry.removeprefix("# branch.").split(" ", 1) for entry in entries if entry.startswith("# branch."))
    if head.get("oid", "(initial)") == "(initial)":
        return None
    fields = {"1": 8, "u": 10, "?": 1}  # changed, unmerged, unknown to git: how many there are before the name
    changed = [entry.split(" ", fields[entry[0]])[-1] for entry in entries if entry[:1] in fields]
    return {
        "commit": head["oid"],
        "branch": None if head["head"] == "(detached)" else head["head"],
        "changed": changed[:MOST_NAMES],
        "more": max(len(changed) - MOST_NAMES, 0),
    }


def without_secrets(text: str) -> str:
    """A text in whose URLs a name, a password and a query are stars: links to weights can hold a token."""
    text = re.sub(r"(?<=://)[^\s/?#'\"]+@", "***@", text)
    return re.sub(r"(://[^\s?#'\"]*\?)[^\s'\"]*[^\s'\",\]]", r"\1***", text)


def launcher(*, machines: int, per_machine: int | str) -> str:
    """What stands before the arguments of a training in so many processes; on several machines, on each of them.

    Args:
        per_machine: processes, or a word for their number.
    """
    if machines == per_machine == 1:
        return "maskrcnn train"
    meeting = f"--nnodes {machines} --rdzv-backend c10d --rdzv-endpoint FIRST_MACHINE:29500"
    return f"torchrun {'--standalone' if machines == 1 else meeting} --nproc-per-node {per_machine} -m maskrcnn train"


def _kept_record(path: Path) -> Record:
    """The record to go on with, once one that is not ours is out of the way."""
    try:
        return read_record(path)
    except ValueError as error:
        aside = path.with_name(f"{path.name}.old")
        logger.warning("%s; it is kept as %s, and a new one begins", error, aside.name)
        os.replace(path, aside)
        return {"starts": [], "origins": {}}


def _is_record(content: Any) -> bool:
    if not isinstance(content, dict):
        return False
    starts, origins = content.get("starts"), content.get("origins")
    complete = isinstance(starts, list) and all(
        isinstance(start, dict) and Start.__required_keys__ <= start.keys() for start in starts
    )
    return complete and isinstance(origins, dict)


def _origins(known: Mapping[str, str], asked: CfgNode, used: CfgNode) -> dict[str, str]:
    before = dict(leaves(asked, section=CfgNode))
    filled_in = {key: FILLED_IN for key, value in leaves(used, section=CfgNode) if value != before.get(key)}
    return {**known, **filled_in}
