"""Checkpoints: written atomically, read safely, fitted to a model with a report of every mismatch."""

from maskrcnn.checkpoint.checkpointer import Checkpointer, newest_checkpoint, trace_of_run
from maskrcnn.checkpoint.classes import ClassRows
from maskrcnn.checkpoint.download import check_hash
from maskrcnn.checkpoint.files import CheckpointError, load_checkpoint, save_checkpoint, write_atomically
from maskrcnn.checkpoint.importers import Weights
from maskrcnn.checkpoint.weights import Fit, fit, merge, read_weights

__all__ = [
    "CheckpointError",
    "Checkpointer",
    "ClassRows",
    "Fit",
    "Weights",
    "check_hash",
    "fit",
    "load_checkpoint",
    "merge",
    "newest_checkpoint",
    "read_weights",
    "save_checkpoint",
    "trace_of_run",
    "write_atomically",
]
