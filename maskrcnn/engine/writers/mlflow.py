"""MLflow."""

from __future__ import annotations

import json
import logging
import posixpath
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.checkpoint import write_atomically
from maskrcnn.config import leaves
from maskrcnn.engine.writers.writer import Writer, by_purpose
from maskrcnn.registry import WRITERS

EXPERIMENT = "maskrcnn"
STORE = "mlruns"  # in the run's folder
ID_FILE = "mlflow_ids.json"
LOCAL = "local"  # the store in the run's folder, which may be moved
FINISH_TIMEOUT = 30  # seconds at the end for what was not sent yet; the library tries a server for minutes
LOCAL_TIMEOUT = 600  # of a slow disk, which nothing can be given up for
METRICS_AT_ONCE, PARAMETERS_AT_ONCE = 1000, 100  # MLflow's limits for one request

logger = logging.getLogger(__name__)


@WRITERS.register("mlflow")
class MLflow(Writer):
    """MLflow: losses under train/, metrics under their own names, pictures, the config as parameters.

    Everything goes to a store in the run's folder, or to the server that MLFLOW_TRACKING_URI or
    `mlflow.set_tracking_uri` name, from a thread of its own, so that no slow server slows the training. When the
    server fails, what it has not taken and all that follows goes to the store in the folder. What MLflow refuses for
    what it is, a value or a picture, is left out. A resumed run goes on in the same MLflow run. The experiment is that
    of MLFLOW_EXPERIMENT_NAME, else "maskrcnn".
    """

    @classmethod
    def check(cls) -> None:
        if missing := [module for module in ("mlflow", "sqlalchemy", "alembic") if not find_spec(module)]:
            raise ValueError(
                f'WRITERS names mlflow, but {", ".join(missing)} is not installed: pip install "maskrcnn[mlflow]"'
            )

    def __init__(self, folder: Path, start: int, config: Mapping[str, Any]) -> None:
        import mlflow

        self.folder, self.config, self.last = folder, config, start - 1
        self.uri = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else LOCAL
        self.run: Run | None = None
        self.unsent: deque[Callable[[Run], None]] = deque()
        self.error: Exception | None = None  # of the newest attempt to send
        self.more, self.closing, self.abandoned = threading.Event(), False, False
        self.thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self.thread.start()

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        now, named, self.last = time.time(), by_purpose(values), iteration
        self._put(lambda run: run.log_metrics(iteration, now, named))
        self._complain()

    def picture(self, iteration: int, name: str, image: np.ndarray) -> None:
        self._complain()  # while nothing can be sent, pictures would fill the memory
        now = time.time()
        self._put(lambda run: run.log_picture(iteration, now, name, image))

    def close(self) -> None:
        self.closing = True
        self.more.set()
        self.thread.join(FINISH_TIMEOUT)
        if self.uri == LOCAL:
            self.thread.join(LOCAL_TIMEOUT)
        if self.thread.is_alive():
            self._abandon_the_thread()
        else:
            self._complain()

    def _abandon_the_thread(self) -> None:
        self.abandoned = True
        unsent = list(self.unsent)
        if self.uri == LOCAL:
            raise OSError(f"MLflow: {local_uri(self.folder)}: not written in {LOCAL_TIMEOUT} s")
        self._leave_server(f"no answer in {FINISH_TIMEOUT} s")
        run = Run(LOCAL, self.folder, self.config)
        for send in unsent:
            run.take(send)
        run.end(complete=self._complete)

    @property
    def _complete(self) -> bool:
        return self.last + 1 >= self.config["SOLVER"]["MAX_ITER"]

    def _put(self, send: Callable[[Run], None]) -> None:
        self.unsent.append(send)
        self.more.set()

    def _complain(self) -> None:
        if self.error is not None:
            raise OSError(str(self.error)) from self.error

    def _leave_server(self, reason: object) -> None:
        logger.warning("MLflow: %s fails (%s); the numbers go to %s", self.uri, reason, local_uri(self.folder))

    def _work(self) -> None:
        """What the thread does."""
        while True:
            self.more.wait()
            self.more.clear()
            closing = self.closing  # read before sending: nothing is put after it is set
            try:
                self._send()
                if closing and self.run is not None:
                    self.run.end(complete=self._complete)
                self.error = None
            except Exception as error:  # MLflow's, its HTTP library's, or its database's
                self.error = error
            if closing:
                return

    def _send(self) -> None:
        while self.unsent:
            try:
                self.run = self.run or Run(self.uri, self.folder, self.config)
                self.run.take(self.unsent[0])
            except Exception as error:
                if self.uri == LOCAL or self.abandoned:
                    raise
                self._leave_server(error)
                self.uri, self.run = LOCAL, None
            else:
                self.unsent.popleft()


class Run:
    """One run in one store of MLflow, made or gone on with.

    Args:
        uri: of the store; `LOCAL` is the one in the run's folder.
    """

    def __init__(self, uri: str, folder: Path, config: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param
        from mlflow.environment_variables import MLFLOW_EXPERIMENT_NAME

        self.uri = uri
        if uri == LOCAL:
            (folder / STORE).mkdir(exist_ok=True)
        self.client = MlflowClient(tracking_uri=local_uri(folder) if uri == LOCAL else uri)
        self.has_refused = False
        ids = json.loads((folder / ID_FILE).read_text()) if (folder / ID_FILE).exists() else {}
        if uri in ids:
            self.id: str = ids[uri]
            self.client.update_run(self.id, status="RUNNING")
            return
        name = MLFLOW_EXPERIMENT_NAME.get() or EXPERIMENT
        found = self.client.get_experiment_by_name(name)
        place = (folder / STORE / "artifacts").resolve().as_uri() if uri == LOCAL else None
        experiment = found.experiment_id if found else self.client.create_experiment(name, artifact_location=place)
        self.id = self.client.create_run(experiment, run_name=folder.resolve().name).info.run_id
        parameters = [Param(allowed(key), str(value)) for key, value in leaves(config)]
        for some in pieces(parameters, PARAMETERS_AT_ONCE):
            self.take(partial(Run.log_parameters, parameters=some))
        try:  # last: a run without its parameters would not get them when it is gone on with
            write_atomically(folder / ID_FILE, json.dumps({**ids, uri: self.id}).encode())
        except OSError as error:  # nothing that the server is to blame for
            logger.warning("MLflow: the run's id %s is not kept, a resumed run would be another: %s", self.id, error)

    def take(self, send: Callable[[Run], None]) -> None:
        """Let it send something. What MLflow refuses would hold up all that follows: it is left out, said once."""
        try:
            send(self)
        except Exception as error:
            if not is_refusal(error, self.uri):
                raise
            if not self.has_refused:
                logger.warning("MLflow refuses something, which is left out: %s", error)
            self.has_refused = True

    def log_parameters(self, parameters: Sequence[Any]) -> None:
        self.client.log_batch(self.id, params=parameters)

    def log_metrics(self, iteration: int, seconds: float, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        named = zip(different(values), values.values(), strict=True)
        metrics = [Metric(name, value, int(1000 * seconds), iteration) for name, value in named]
        for some in pieces(metrics, METRICS_AT_ONCE):
            self.client.log_batch(self.id, metrics=some)

    def log_picture(self, iteration: int, seconds: float, name: str, image: np.ndarray) -> None:
        self.client.log_image(self.id, image, key=allowed(name), timestamp=int(1000 * seconds), step=iteration)

    def end(self, *, complete: bool) -> None:
        self.client.set_terminated(self.id, "FINISHED" if complete else "KILLED")


def is_refusal(error: Exception, uri: str) -> bool:
    """Whether it is the values' fault, and would come again with them; else a disk's, a network's or a server's.

    A server says "bad request" of its database's troubles as well, and what it does not take the local store gets.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError

    if isinstance(error, MlflowException):
        return error.error_code == "INVALID_PARAMETER_VALUE" or (error.error_code == "BAD_REQUEST" and uri == LOCAL)
    return not isinstance(error, (OSError, OperationalError))


def local_uri(folder: Path) -> str:
    """A database, as MLflow no longer takes plain files."""
    return f"sqlite:///{(folder / STORE).resolve()}/mlflow.db"


def allowed(name: str) -> str:
    """The name with what MLflow does not take in one replaced: `segm/AP-mug (blue)` -> `segm/AP-mug _blue_`."""
    return posixpath.normpath(re.sub(r"[^\w\-. /]", "_", name)).strip("/.")[:250] or "_"


def different(names: Iterable[str]) -> list[str]:
    """Each name as MLflow takes it, and with a number if that is the same as an earlier one's."""
    taken: dict[str, None] = {}
    for name in names:
        new = plain = allowed(name)
        number = 1
        while new in taken:
            number += 1
            new = f"{plain[:240]}_{number}"
        taken[new] = None
    return list(taken)


def pieces(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[i : i + size] for i in range(0, len(items), size))
