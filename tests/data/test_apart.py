import logging
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from maskrcnn.data import DatasetError
from maskrcnn.data.apart import ProcessDied, call_apart

sys.path.append(str(Path(__file__).parent))  # where the other process finds this module, by its path


def work(what):
    logging.getLogger("maskrcnn.work").warning("%s in %d", what, os.getpid())
    if what == "fail":
        raise DatasetError("a.json: broken")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid(), np.arange(1000)


@pytest.fixture
def function():
    import test_apart  # as an importable module: pytest's own copy of this file has no name of that kind

    return test_apart.work


def test_result_and_log_come_from_another_process(function, caplog):
    process, values = call_apart(function, "count")
    assert process != os.getpid() and values.tolist() == list(range(1000))
    assert f"count in {process}" in caplog.messages


def test_an_error_is_raised_here(function):
    with pytest.raises(DatasetError, match=r"^a\.json: broken$"):
        call_apart(function, "fail")


@pytest.mark.skipif(sys.platform == "win32", reason="no signals there")
def test_a_process_that_dies(function):
    with pytest.raises(ProcessDied, match="code -9"):
        call_apart(function, "die")
