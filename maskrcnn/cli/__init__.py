"""The console command `maskrcnn COMMAND`, which the scripts in tools/ call too."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

# Commands by name: each is a module of this package with a `main(argv) -> exit code`, imported when it is called.
COMMANDS = {
    "train": "train a model, or evaluate one, from a config",
    "train_steps": "train a detector in four steps, RPN and heads in turn, until they share a trunk",
    "slurm": "train on a Slurm cluster, and go on by itself after a preemption",
    "predict": "find objects in images and videos, draw them, write them as JSON",
    "prepare_data": "link known data sets into the data root, convert others to the COCO format",
    "check_data": "find what is wrong with a data set before training on it",
    "show_data": "draw a data set's annotations as the model sees them",
    "show_predictions": "draw ground truth beside a trained model's predictions",
    "report": "write the page about a run: its errors, curves, examples, config",
    "compare": "write one page about several runs: figures, curves, images side by side, what differs",
    "summary": "count a model's parameters, multiply-adds and activations",
    "export": "write a trained model's weights for other libraries, or as safetensors",
    "build": "compile the operators ahead of their first use",
    "env": "print what a bug report needs: versions, devices, compiled operators",
}
USAGE_ERROR, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. What a user got wrong is one message on the error output, and code 2."""
    open_outputs()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else USAGE_ERROR
    command, *rest = arguments
    if command not in COMMANDS:
        print(f"maskrcnn: no command {command!r}; commands are {', '.join(COMMANDS)}", file=sys.stderr)
        return USAGE_ERROR
    try:
        code: int = importlib.import_module(f"maskrcnn.cli.{command}").main(rest)
        return code
    except ValueError as error:
        if command in ("train", "train_steps") and type(error) is ValueError:
            raise  # the engine gives the user's errors a name; this one is a programmer's and wants its traceback
        print(f"maskrcnn {command}: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print(f"maskrcnn {command}: interrupted", file=sys.stderr)
        return INTERRUPTED


def open_outputs() -> None:
    """Let an output that whoever started this process has closed (`2>&-`) lead nowhere: progress bars need one."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - as long as the process


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(["usage: maskrcnn COMMAND ...", "", *lines, "", "maskrcnn COMMAND --help tells more."])
