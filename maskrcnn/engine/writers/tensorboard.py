"""TensorBoard."""

from __future__ import annotations

import io
import os
import socket
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

from maskrcnn.engine.writers.appended import AppendedFile
from maskrcnn.engine.writers.writer import Writer, by_purpose
from maskrcnn.registry import WRITERS


@WRITERS.register("tensorboard")
class TensorBoard(Writer):
    """TensorBoard events: losses under train/, metrics under their own names, pictures, the config as text.

    Numbers are not lost while the file cannot be written, see `AppendedFile`; torch's own SummaryWriter writes in a
    thread that ends for good at the first error. Pictures of that time are: they would fill the memory.
    """

    def __init__(self, folder: Path, start: int, config: Mapping[str, Any]) -> None:
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self.file = AppendedFile(folder / name)
        # With this version, a SessionLog at a step makes TensorBoard forget what earlier files have from there on.
        self.waiting = [Event(file_version="brain.Event:2")]
        if start:
            self.waiting.append(Event(step=start, session_log=SessionLog(status=SessionLog.START)))
        text = textwrap.indent(yaml.safe_dump(dict(config), sort_keys=False), "    ")  # Markdown's form of code
        self.waiting.append(Event(step=start, summary=summary.text("config", text)))

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        for name, value in by_purpose(values).items():
            self.waiting.append(Event(step=iteration, summary=summary.scalar(name, value)))
        self.flush()

    def picture(self, iteration: int, name: str, image: np.ndarray) -> None:
        self.flush()
        self.waiting.append(Event(step=iteration, summary=summary.image(name, image, dataformats="HWC")))
        self.flush()

    def close(self) -> None:
        self.flush()

    def flush(self) -> None:
        records = io.BytesIO()
        writer = RecordWriter(records)
        for event in self.waiting:
            event.wall_time = event.wall_time or time.time()
            writer.write(event.SerializeToString())
        self.waiting.clear()
        self.file.append(records.getvalue())
