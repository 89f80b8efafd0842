import contextlib
import io
import logging
import sys

import pytest

from maskrcnn.engine import logs
from maskrcnn.engine.logs import METRICS_LOGGER, logging_to


def test_lines_reach_terminal_and_file_at_once(tmp_path, capsys):
    with logging_to(tmp_path):
        logging.getLogger("maskrcnn.engine.run").info("hello %d", 3)
        assert "INFO maskrcnn.engine.run: hello 3" in (tmp_path / "log.txt").read_text()
    assert capsys.readouterr().out.endswith("] hello 3\n")
    logging.getLogger("maskrcnn").info("afterwards")
    assert "afterwards" not in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of luck")])
def test_what_stopped_the_run_stands_in_the_file(tmp_path, capsys, error):
    with pytest.raises(type(error)), logging_to(tmp_path):
        raise error
    text = (tmp_path / "log.txt").read_text()
    assert f"stopped by {type(error).__name__}" in text and "Traceback" in text
    assert "Traceback" not in capsys.readouterr().out


def test_another_process_than_the_main_one_leaves_its_failure(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "3")
    with logging_to(tmp_path):
        logging.getLogger("maskrcnn").info("nobody needs this twice")
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError), logging_to(tmp_path):
        raise RuntimeError("out of luck")
    (file,) = tmp_path.iterdir()
    assert file.name == "log_rank3.txt" and "out of luck" in file.read_text() and "Traceback" in file.read_text()
    assert capsys.readouterr().out == ""


def test_a_second_run_appends(tmp_path):
    for word in ("one", "two"):
        with logging_to(tmp_path):
            logging.getLogger("maskrcnn").info(word)
    text = (tmp_path / "log.txt").read_text()
    assert "one" in text and "two" in text


def test_beside_a_bar_the_metric_lines_go_to_the_file_only(tmp_path, monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(logs, "on_terminal", lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal)
    with logging_to(tmp_path):
        logging.getLogger(METRICS_LOGGER).info("iter: 19")
        logging.getLogger("maskrcnn").info("other")
    assert "iter: 19" in (tmp_path / "log.txt").read_text()
    assert "iter: 19" not in terminal.getvalue() and "other" in terminal.getvalue()


def test_an_output_without_such_letters_stops_no_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with logging_to(tmp_path):
        logging.getLogger("maskrcnn").info("segm/AP-кружка: 3.0")
    assert "segm/AP-кружка: 3.0" in (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "UnicodeEncodeError" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_closed_output_stops_no_run(tmp_path, monkeypatch, name):
    monkeypatch.setattr(sys, name, None)
    assert not logs.on_terminal()
    with logging_to(tmp_path):
        logging.getLogger("maskrcnn").info("one")
    assert "one" in (tmp_path / "log.txt").read_text()


def test_a_full_disk_stops_no_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "log.txt").symlink_to("/dev/full")  # each write says that the disk is full
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with logging_to(tmp_path):
            logging.getLogger("maskrcnn").info("one")
            logging.getLogger("maskrcnn").info("two")
        with pytest.raises(RuntimeError, match="out of luck"), logging_to(tmp_path):
            raise RuntimeError("out of luck")  # not the disk's error in its place
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()
    assert "No space left on device" in capsys.readouterr().err
