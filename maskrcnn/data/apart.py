"""A function run in a process of its own, so that the memory it needs goes back to the system when it ends.

Not by `multiprocessing`: what it spawns runs the user's script anew, which not every script is written for, and a fork
of a process with threads may hang.
"""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHILD = "import sys; sys.path[:] = sys.argv[1:]; from maskrcnn.data.apart import child; child()"


class ProcessDied(RuntimeError):
    """The other process ended without a result, as when the system has no memory left."""


def call_apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)`, computed in another process; what it logs is logged here.

    Args:
        function: at the top level of a module; it, its arguments and its result are pickled.

    Raises:
        ProcessDied: the other process was ended from outside.
        Exception: whatever the function raises.
    """
    with tempfile.TemporaryDirectory(prefix="maskrcnn-") as folder:
        result = Path(folder) / "result"
        done = subprocess.run(
            [sys.executable, "-c", CHILD, *sys.path],
            input=pickle.dumps((str(result), function, arguments)),
        )
        if done.returncode or not result.is_file():
            raise ProcessDied(f"a process ended with code {done.returncode} and no result: was there enough memory?")
        with result.open("rb") as file:
            value, error, records = pickle.load(file)  # our own child's, from a folder that only we may write to
    for name, level, message in records:
        logging.getLogger(name).log(level, "%s", message)
    if error is not None:
        raise error
    return value


def child() -> None:
    """What the other process does: reads function and arguments from its input, writes what came of them."""
    path, function, arguments = pickle.load(sys.stdin.buffer)
    kept = _Kept()
    logging.getLogger().addHandler(kept)
    logging.getLogger().setLevel(logging.INFO)
    value, error = None, None
    try:
        value = function(*arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as raised:
        error = raised
    with open(path, "wb") as file:
        pickle.dump((value, error, kept.records), file, protocol=pickle.HIGHEST_PROTOCOL)


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append((record.name, record.levelno, record.getMessage()))
