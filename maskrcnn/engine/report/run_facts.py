"""What a run was: its config, its starts, its time, and the command that repeats it."""

from __future__ import annotations

import logging
import shlex
import statistics
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from maskrcnn.config import format_value, leaves
from maskrcnn.engine.folder import CONFIG_FILE, INFERENCE, config_file
from maskrcnn.engine.provenance import RUN_FILE, Record, Start, launcher, read_record, without_secrets
from maskrcnn.engine.report.history import Curves
from maskrcnn.engine.report.results import Evaluated

logger = logging.getLogger(__name__)

OF_EVALUATION = "the evaluation"  # the origin of a value that is not the training's

Row = list[str]


def describe_run(folder: Path, training: Curves, evaluations: Curves) -> dict[str, Any]:
    """The page's "run" and "config", from config.yaml, run.json and what metrics.json holds; each may be missing.

    Args:
        folder: of the run.
        training, evaluations: every line, not thinned.
    """
    tree = _read_config(config_file(folder))
    config, trained = dict(leaves(tree)), dict(leaves(_read_config(folder / CONFIG_FILE)))
    record = _read_record(folder / RUN_FILE)
    newest = record["starts"][-1] if record["starts"] else None
    if was_trained(folder) or not config:
        done = max([*training["iterations"][-1:], *evaluations["iterations"][-1:]], default=-1) + 1
        facts = _facts_of_training(tree, config, newest, done)
    else:
        facts = _facts_of_evaluation(tree, config, Evaluated.read(folder / INFERENCE))
    return {
        "run": {
            "repeat": repeat_command(folder, newest) if config else "",
            "facts": [[name, without_secrets(value)] for name, value in facts],
            "timing": list(_timing(training, evaluations, folder / INFERENCE)),
            "starts": [{**start, "command": without_secrets(start["command"])} for start in record["starts"]],
        },
        "config": [
            [
                key,
                without_secrets(format_value(value)),
                record["origins"].get(key, "") if trained.get(key) == value else OF_EVALUATION,
            ]
            for key, value in config.items()
        ],
    }


def repeat_command(folder: Path, start: Start | None) -> str:
    """The line for a shell that trains the same once more, or evaluates it if that was all, into a new folder beside.

    It is for the folder that the newest start was in, where relative paths of the config lead to the same files, and
    for as many processes.
    """
    folder = folder.absolute()
    processes, machines = (start["processes"], start["machines"]) if start else (1, 1)
    trained = was_trained(folder)
    how = ["--config", str(folder / CONFIG_FILE)] if trained else ["--eval-only", "--config", str(config_file(folder))]
    arguments = [*how, "OUTPUT_DIR", str(folder.with_name(f"{folder.name}-again"))]
    line = f"{launcher(machines=machines, per_machine=-(-processes // machines))} {shlex.join(arguments)}"
    return f"cd {shlex.quote(start['folder'])} && {line}" if start else line


def was_trained(folder: Path) -> bool:
    """Whether a run's folder is one of a training, and not of an evaluation alone."""
    return (folder / CONFIG_FILE).exists() or not (folder / INFERENCE / CONFIG_FILE).exists()


def duration(seconds: float) -> str:
    """Two units at most: `0.25 s`, `5 min 12 s`, `3 h 4 min`, `2 d 0 h`."""
    for (name, size), (finer, fine) in pairwise([("d", 86400), ("h", 3600), ("min", 60), ("s", 1)]):
        rounded = round(seconds / fine) * fine
        if rounded >= size:
            return f"{rounded // size} {name} {rounded % size // fine} {finer}"
    return f"{seconds:.3g} s"


def _read_config(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        logger.warning("%s cannot be read: %s", path, error)
        return {}
    return tree if isinstance(tree, dict) else {}


def _read_record(path: Path) -> Record:
    try:
        return read_record(path)
    except (OSError, ValueError) as error:
        logger.warning("%s", error)
        return {"starts": [], "origins": {}}


def _facts_of_training(
    tree: Mapping[str, Any], config: Mapping[str, Any], newest: Start | None, done: int
) -> Iterator[Row]:
    """What a reader wants to know first. A config of another version may lack a key: its row is left out.

    Args:
        done: iterations.
    """
    yield from _model(tree, config)
    if "MODEL.WEIGHTS" in config:
        yield ["starts from", ", ".join(_listed(config["MODEL.WEIGHTS"])) or "random weights"]
    yield from _data(config, ("training data", "DATASETS.TRAIN"), ("test data", "DATASETS.TEST"))
    if "SOLVER.MAX_ITER" in config:
        yield ["iterations", f"{done} of {config['SOLVER.MAX_ITER']}"]
    if "SOLVER.IMS_PER_BATCH" in config:
        by = f", by {newest['processes']} processes" if newest and newest["processes"] > 1 else ""
        yield ["images per step", f"{config['SOLVER.IMS_PER_BATCH']}{by}"]
    if {"SOLVER.OPTIMIZER", "SOLVER.BASE_LR", "SOLVER.LR_SCHEDULE"} <= config.keys():
        rate = format_value(config["SOLVER.BASE_LR"])
        yield ["optimizer", f"{config['SOLVER.OPTIMIZER']}, learning rate {rate}, {config['SOLVER.LR_SCHEDULE']}"]
    environment = dict(newest["environment"]) if newest else {}
    if precision := environment.get("precision") or config.get("SOLVER.AMP"):
        yield ["precision", precision]
    if device := environment.get("device") or config.get("MODEL.DEVICE"):
        number = device.removeprefix("cuda").removeprefix(":") or "0"
        model = environment.get(f"GPU {number}" if device.startswith("cuda") else "CPU")
        yield ["device", f"{device}: {model}" if model else device]
    if "SEED" in config:
        yield ["seed", f"{config['SEED']}{', deterministic' if config.get('DETERMINISTIC') else ''}"]


def _facts_of_evaluation(
    tree: Mapping[str, Any], config: Mapping[str, Any], evaluated: Evaluated | None
) -> Iterator[Row]:
    """Of a folder in which nothing was trained; what its config says on training was not used."""
    yield from _model(tree, config)
    weights = evaluated.what if evaluated else ", ".join(_listed(config.get("MODEL.WEIGHTS")))
    yield ["evaluation of", weights or "unknown weights"]
    yield from _data(config, ("test data", "DATASETS.TEST"))
    for name, key in (("precision", "TEST.AMP"), ("device", "MODEL.DEVICE")):
        if key in config:
            yield [name, str(config[key])]


def _model(tree: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[Row]:
    if "MODEL.NAME" in config:
        sections = [section for section in tree["MODEL"].values() if isinstance(section, dict)]
        parts = ", ".join(section["NAME"] for section in sections if "NAME" in section)
        yield ["model", f"{config['MODEL.NAME']}: {parts}" if parts else config["MODEL.NAME"]]


def _data(config: Mapping[str, Any], *keys: tuple[str, str]) -> Iterator[Row]:
    for name, key in keys:
        if key in config:
            sets = [entry["JSON"] if isinstance(entry, dict) else entry for entry in _listed(config[key])]
            yield [name, ", ".join(sets) or "none"]
    if "MODEL.NUM_CLASSES" in config:
        yield ["classes", str(config["MODEL.NUM_CLASSES"])]


def _timing(training: Curves, evaluations: Curves, inference: Path) -> Iterator[Row]:
    """Times of the iterations that count: what a run did again after it was resumed is in no line of metrics.json."""
    iterations, series = training["iterations"], training["series"]
    nothing: list[float | None] = [None] * len(iterations)
    steps = [now - before for before, now in zip([-1, *iterations], iterations, strict=False)]
    columns = zip(steps, series.get("time", nothing), series.get("data_time", nothing), strict=True)
    timed = [(count, time, 0.0 if data is None else data) for count, time, data in columns if time is not None]
    total = sum(count * time for count, time, _ in timed)
    if total > 0:
        yield ["training", duration(total)]
        yield ["one step, median", duration(statistics.median(time for _, time, _ in timed))]
        yield ["waiting for data", f"{100 * sum(count * data for count, _, data in timed) / total:.1f} %"]
    newest = Evaluated.read(inference)
    if not evaluations["iterations"] and newest:
        yield ["evaluation", duration(newest.seconds)]
    if evaluations["iterations"]:
        last = f", the last one took {duration(newest.seconds)}" if newest else ""
        yield ["evaluations", f"{len(evaluations['iterations'])}{last}"]
    if memory := [value for value in series.get("max_mem", nothing) if value is not None]:
        yield ["peak memory", f"{max(memory):.0f} MiB"]


def _listed(value: Any) -> list[Any]:
    """Several, where one may stand alone."""
    return list(value) if isinstance(value, (list, tuple)) else [value] if value else []
