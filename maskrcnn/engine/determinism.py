"""The same bits from the same run."""

from __future__ import annotations

import os

import torch


def make_deterministic() -> None:
    """Have torch and our operators compute the same bits each time, or refuse; before anything runs on a GPU.

    Slower on a GPU. For the whole process; what it does not cover is in docs/training.md.
    """
    # cuBLAS sums in an order of its own unless its workspace has a fixed size; it reads this when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
