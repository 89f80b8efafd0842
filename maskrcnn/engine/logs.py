"""A run's log: lines on the terminal and, with times, in log.txt."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from maskrcnn.distributed import is_main_process, rank

METRICS_LOGGER = "maskrcnn.metrics"  # the lines that a progress bar stands for

logger = logging.getLogger("maskrcnn")


class ConsoleHandler(logging.Handler):
    """Lines on the standard output, if there is one, above any progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stdout is None:  # closed by whoever started this process
            return
        try:
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()
        except Exception:  # a full disk, a pipe that nobody reads, a class name that its encoding does not have
            self.handleError(record)


def on_terminal() -> bool:
    """Whether somebody is watching: a bar then replaces the metric lines."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdout, sys.stderr))


@contextmanager
def logging_to(folder: Path) -> Iterator[None]:
    """Within the context, what the package logs goes to the terminal and to the folder's log.txt, line by line.

    An exception that leaves the context is written into the file with its traceback; so is an interruption. Of several
    processes the main one logs; another one's failure is in a log_rank3.txt.
    """
    if is_main_process():
        console: logging.Handler = ConsoleHandler()
        console.setFormatter(logging.Formatter("[%(asctime)s] %(message)s", datefmt="%H:%M:%S"))
        if on_terminal():
            console.addFilter(lambda record: record.name != METRICS_LOGGER)
        file = logging.FileHandler(folder / "log.txt", encoding="utf-8")
        handlers: tuple[logging.Handler, ...] = (console, file)
    else:
        file = logging.FileHandler(folder / f"log_rank{rank()}.txt", encoding="utf-8", delay=True)
        file.setLevel(logging.ERROR)
        handlers = (file,)
    file.setFormatter(logging.Formatter("[%(asctime)s] %(levelname)s %(name)s: %(message)s"))
    level, propagate = logger.level, logger.propagate
    for handler in handlers:
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    except BaseException as error:
        if is_main_process():
            logger.removeHandler(console)  # whoever catches the error shows it there
        logger.error("stopped by %s", type(error).__name__, exc_info=error)
        raise
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            with suppress(OSError):  # a full disk, which each line told of on the standard error
                handler.close()
        logger.setLevel(level)
        logger.propagate = propagate
