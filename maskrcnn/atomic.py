"""Files that are whole or not there: a reader, a crash or a full disk never meets half of one."""

from __future__ import annotations

import os
import re
from pathlib import Path


class WholeFile:
    """A file that is written under another name, `part`, beside its own, and gets that when it is whole.

    `with WholeFile(path) as part` keeps what was written to `part`, and discards it after an error. `part` has the
    suffix of `path`, by which some writers pick the format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")

    def keep(self) -> None:
        """Put it in the place of what was there before."""
        os.replace(self.part, self.path)

    def discard(self) -> None:
        self.part.unlink(missing_ok=True)

    @staticmethod
    def remove_parts(folder: Path) -> None:
        """Remove what processes that were killed have left in a folder, in which nobody else is writing now."""
        for part in folder.glob(".*.part*"):
            if re.fullmatch(r"\..+\.\d+\.part(\.\w+)?", part.name):
                part.unlink(missing_ok=True)

    def __enter__(self) -> Path:
        return self.part

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.keep()
        finally:
            self.discard()
