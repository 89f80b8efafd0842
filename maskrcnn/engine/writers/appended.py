"""Files that grow by whole records, whatever the disk does."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


class AppendedFile:
    """A file that grows by whole records. What cannot be written waits in memory, and is written with the next record.

    Each write opens the file anew: after a network file system was away, an old handle may be of no use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waiting = b""
        self.whole = 0  # bytes of whole records in the file, as the last attempt found it
        self.torn = False  # there may be a part of a record behind them

    def append(self, record: bytes) -> None:
        """Raises OSError: it could not be written and waits."""
        self.waiting += record
        self.flush()

    def flush(self) -> None:
        """Write what waits.

        Raises:
            OSError: it goes on waiting. The file ends with a whole record, unless it could not even be cut.
        """
        if not self.waiting:
            return
        try:
            with self.path.open("ab", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                if self.torn:
                    end = file.truncate(min(self.whole, end))
                self.whole, self.torn = end, True
                try:
                    rest = self.waiting
                    while rest:  # a disk that is nearly full takes a part
                        rest = rest[file.write(rest) :]
                except OSError:
                    with suppress(OSError):
                        file.truncate(self.whole)
                    raise
        except OSError as error:
            error.filename = error.filename or str(self.path)
            raise
        self.waiting, self.torn = b"", False
