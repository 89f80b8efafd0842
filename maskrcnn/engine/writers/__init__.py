"""Where a run's numbers go: the terminal, the log, metrics.json, and the trackers that WRITERS names."""

from maskrcnn.engine.writers.bar import ProgressBar
from maskrcnn.engine.writers.build import build_writers, check_writers
from maskrcnn.engine.writers.guarded import Guarded
from maskrcnn.engine.writers.json_lines import JSONLines
from maskrcnn.engine.writers.log_lines import LogLines
from maskrcnn.engine.writers.mlflow import MLflow
from maskrcnn.engine.writers.tensorboard import TensorBoard
from maskrcnn.engine.writers.wandb import WandB
from maskrcnn.engine.writers.writer import Writer

__all__ = [
    "Guarded",
    "JSONLines",
    "LogLines",
    "MLflow",
    "ProgressBar",
    "TensorBoard",
    "WandB",
    "Writer",
    "build_writers",
    "check_writers",
]
