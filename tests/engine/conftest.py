import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))  # for tiny_model, which the configs of these tests import by its path


@pytest.fixture
def restored(monkeypatch):
    """The whole process's settings as they were, afterwards."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
