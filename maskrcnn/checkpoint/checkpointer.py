"""The checkpoints of one run: model_0004999.pth, ..., model_final.pth, and last_checkpoint, which names the newest."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

from maskrcnn.atomic import WholeFile
from maskrcnn.checkpoint.files import CheckpointError, save_checkpoint, write_atomically

POINTER = "last_checkpoint"
NUMBERED = re.compile(r"model_(\d{7,})\.pth")


class Checkpointer:
    """Writes a run's checkpoints.

    Args:
        folder: the run's output folder; it exists.
        facts: what every checkpoint of the run says about it: class_names, category_ids, config (YAML text).
        keep: the newest so many numbered ones stay, older ones are removed; 0 keeps all.
    """

    FINAL, LATEST, BEST = "model_final.pth", "model_latest.pth", "model_best.pth"

    def __init__(self, folder: Path, facts: dict[str, Any], *, keep: int = 0) -> None:
        self.folder, self.facts, self.keep = folder, facts, keep

    def save(self, iteration: int, state: dict[str, Any], name: str) -> Path:
        """Write the state after `iteration`, the last finished one, counted from 0, and name it as the newest.

        Older files go only after that, so that at every moment the named one is there and whole.

        Args:
            state: "model", and what resuming needs beside it.

        Raises:
            OSError: it could not be written; the checkpoints before it are untouched.
        """
        path = self.folder / name
        save_checkpoint(path, {**state, "iteration": iteration, **self.facts})
        write_atomically(self.folder / POINTER, name.encode())
        for other in self._superseded(iteration, name):
            other.unlink(missing_ok=True)
        return path

    def _superseded(self, iteration: int, newest: str) -> list[Path]:
        """What the newest checkpoint makes superfluous. Files of later iterations are of a run that was taken back."""
        numbers = {p: int(found[1]) for p in self.folder.glob("model_*.pth") if (found := NUMBERED.fullmatch(p.name))}
        known = sorted((p for p, number in numbers.items() if number <= iteration), key=lambda p: numbers[p])
        old = known[: -self.keep] if self.keep else []
        return [*old, *([self.folder / self.LATEST] if newest != self.LATEST else [])]

    def keep_best(self) -> None:
        """The newest checkpoint is the best one, too: model_best.pth, which costs no space where links are possible.

        Raises:
            OSError: it could not be written.
        """
        newest = newest_checkpoint(self.folder)
        assert newest is not None
        with WholeFile(self.folder / self.BEST) as part:
            try:
                os.link(newest, part)
            except OSError:
                shutil.copyfile(newest, part)


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that a run's folder names as its newest; None if it names none.

    Raises:
        CheckpointError: it names a file that is not there.
    """
    pointer = folder / POINTER
    if not pointer.is_file():
        return None
    path = folder / pointer.read_text().strip()
    if not path.is_file():
        raise CheckpointError(f"{pointer} names {path.name}, which is not there; write another file's name into it")
    return path


def trace_of_run(folder: Path) -> Path | None:
    """A file in the folder that a training run has written there; None in an unused folder."""
    known = [folder / name for name in (POINTER, "metrics.json", "config.yaml")]
    return next((path for path in [*known, *folder.glob("model_*.pth")] if path.exists()), None)
