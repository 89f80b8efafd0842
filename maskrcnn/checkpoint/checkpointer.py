"""The checkpoints of one run: model_0004999.pth, model_final.pth, and last_checkpoint, which names the newest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskrcnn.checkpoint.files import CheckpointError, save_checkpoint, write_atomically
from maskrcnn.distributed import is_main_process

POINTER = "last_checkpoint"
FINAL = "model_final.pth"


class Checkpointer:
    """Writes a run's checkpoints.

    Args:
        folder: the run's output folder; it exists.
        facts: what every checkpoint of the run says about it: class_names, category_ids, config (YAML text).
    """

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder, self.facts = folder, facts

    def save(self, iteration: int, state: dict[str, Any], *, final: bool = False) -> Path:
        """Write the state after `iteration`, the last finished one, counted from 0; only the main process writes.

        Args:
            state: "model", and what resuming needs beside it.
            final: name the file model_final.pth.
        """
        path = self.folder / (FINAL if final else f"model_{iteration:07d}.pth")
        if is_main_process():
            save_checkpoint(path, {**state, "iteration": iteration, **self.facts})
            write_atomically(self.folder / POINTER, path.name.encode())
        return path


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
