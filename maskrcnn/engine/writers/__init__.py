"""Where a run's numbers go: the terminal, the log, metrics.json, TensorBoard."""

from maskrcnn.engine.writers.bar import ProgressBar
from maskrcnn.engine.writers.json_lines import JSONLines
from maskrcnn.engine.writers.log_lines import LogLines
from maskrcnn.engine.writers.tensorboard import TensorBoard
from maskrcnn.engine.writers.writer import Writer

__all__ = ["JSONLines", "LogLines", "ProgressBar", "TensorBoard", "Writer"]
