"""Weights & Biases."""

from __future__ import annotations

import logging
import secrets
import shlex
import threading
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.checkpoint import write_atomically
from maskrcnn.engine.writers.writer import Writer, by_purpose
from maskrcnn.registry import WRITERS

PROJECT = "maskrcnn"
ID_FILE = "wandb_id"
START_TIMEOUT = 15  # seconds until the server counts as not there; the library waits for twice that
FINISH_TIMEOUT = 120  # seconds at the end for what was not uploaded yet; the library's own default has no end
LEAVE_TIMEOUT = 10  # seconds for the library's service to end

logger = logging.getLogger(__name__)


@WRITERS.register("wandb")
class WandB(Writer):
    """Weights & Biases: losses under train/, metrics under their own names, pictures, over `iteration`.

    The library writes everything into the run's folder first, and uploads from there beside the training. Without a
    login or a server, and with WANDB_MODE=offline, it stays there, until `wandb sync`. A resumed run goes on in the
    same W&B run. Project and name are those of WANDB_PROJECT and WANDB_NAME, else "maskrcnn" and the folder's name.
    """

    @classmethod
    def check(cls) -> None:
        if not find_spec("wandb"):
            raise ValueError('WRITERS names wandb, which is not installed: pip install "maskrcnn[wandb]"')

    def __init__(self, folder: Path, start: int, config: Mapping[str, Any]) -> None:
        import wandb

        self.image = wandb.Image
        self.last, self.wanted = start - 1, config["SOLVER"]["MAX_ITER"]
        self.run = _open(folder, config)
        # An axis of our own: the library's has to grow, but a resumed run does some iterations again.
        self.run.define_metric("*", step_metric="iteration")
        if self.run.offline:
            part = shlex.quote(str(Path(self.run.dir).parent))
            logger.info("W&B is offline; to upload this run later: wandb sync %s", part)

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        self.last = iteration
        self.run.log({**by_purpose(values), "iteration": iteration})

    def picture(self, iteration: int, name: str, image: np.ndarray) -> None:
        self.run.log({name: self.image(image), "iteration": iteration})

    def close(self) -> None:
        self.run.finish(exit_code=0 if self.last + 1 >= self.wanted else 1)


def _open(folder: Path, config: Mapping[str, Any]) -> Any:
    """The W&B run of this folder, made or gone on with; offline if there is no other way."""
    import wandb

    known = folder / ID_FILE
    given = wandb.setup().settings
    options: dict[str, Any] = {
        "dir": folder,
        "id": known.read_text().strip() if known.exists() else given.run_id or secrets.token_hex(4),
        "resume": "allow",
        "project": given.project or PROJECT,
        "name": given.run_name or folder.resolve().name,
        "config": dict(config),
        "settings": wandb.Settings(init_timeout=START_TIMEOUT, finish_timeout=FINISH_TIMEOUT),
    }
    write_atomically(known, options["id"].encode())
    if given.mode == "online" and not _logged_in():
        options["mode"] = "offline"
    try:
        return wandb.init(**options)
    except Exception as error:  # whatever it is, it is no reason not to train
        logger.warning("W&B cannot be used online: %s", error)
        _leave_service()
        return wandb.init(**{**options, "mode": "offline"})


def _logged_in() -> bool:
    import wandb

    try:
        if wandb.login(prompt=False):  # without a prompt, or it would wait for an answer
            return True
        logger.info("not logged in to W&B (wandb login, or WANDB_API_KEY)")
    except Exception as error:  # there is no server to ask, for one
        logger.warning("W&B cannot be used online: %s", error)
    return False


def _leave_service() -> None:
    """End the service that holds the run's id as being in use. Now and then it never ends: then it is left alone."""
    import wandb

    thread = threading.Thread(target=wandb.teardown, name="wandb teardown", daemon=True)
    thread.start()
    thread.join(LEAVE_TIMEOUT)
