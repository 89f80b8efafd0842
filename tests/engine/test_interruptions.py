"""Real runs, killed, signalled and starved, against one that nothing happened to."""

import json
import multiprocessing as mp
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from equality import identical
from processes import in_processes
from tiny_model import TinyModel, write_config

from maskrcnn import cli
from maskrcnn.checkpoint import Checkpointer, load_checkpoint, newest_checkpoint
from maskrcnn.config import load_config
from maskrcnn.engine import run
from maskrcnn.engine.checks import RunError
from maskrcnn.engine.hooks import checkpointing
from maskrcnn.engine.hooks.preemption import EXIT_CODE, Preempted
from maskrcnn.engine.provenance import read_record
from maskrcnn.engine.trainer import Trainer
from maskrcnn.engine.writers import json_lines

pytestmark = pytest.mark.skipif("fork" not in mp.get_all_start_methods(), reason="processes cannot be forked here")

SOLVER = {"MAX_ITER": 40, "CHECKPOINT_PERIOD": 6, "CHECKPOINTS_KEPT": 2, "EMA": 0.9, "STEPS": [25]}
TEST = {"EVAL_PERIOD": 9, "BEST_METRIC": "score/mean"}


def start(folder, *arguments):
    """`maskrcnn train` in a process group of its own. It is forked, since a new process would import torch anew."""

    def child():
        os.setsid()
        torch.set_num_threads(1)
        sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - as long as the process
        os._exit(cli.main(["train", "--config", str(folder / "config.yaml"), *arguments]))

    process = mp.get_context("fork").Process(target=child)
    process.start()
    wait_for(lambda: os.getpgid(process.pid) == process.pid, process)
    return process


def wait_for(condition, process, seconds=60):
    """Until the condition holds; False if the process ended before."""
    deadline = time.monotonic() + seconds
    while not condition():
        if not process.is_alive():
            return False
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.0005)
    return True


def evaluations(folder):
    found = json_lines.evaluations(folder / "metrics.json", before=10**6)
    return {iteration: metrics["score/mean"] for iteration, metrics in found.items()}


def assert_equal_runs(a, b):
    first, second = (load_checkpoint(folder / "model_final.pth") for folder in (a, b))
    for key in ("model", "ema", "optimizer", "rng", "iteration", "skipped"):
        assert identical(first[key], second[key]), key
    assert evaluations(a) == evaluations(b)
    best = [load_checkpoint(folder / "model_best.pth") for folder in (a, b)]
    assert best[0]["iteration"] == best[1]["iteration"] and identical(best[0]["model"], best[1]["model"])
    assert sorted(p.name for p in a.glob("*.pth")) == sorted(p.name for p in b.glob("*.pth"))
    assert not list(a.glob(".*part*"))


def uninterrupted(tmp_path, *, max_iter=40, eval_period=9, **sections):
    """A run of the config that is made here, also in a forked process: the number of threads changes the last bits."""
    test = {**TEST, "EVAL_PERIOD": eval_period}
    write_config(tmp_path, SOLVER={**SOLVER, "MAX_ITER": max_iter}, TEST=test, **sections)
    process = start(tmp_path, "OUTPUT_DIR", str(tmp_path / "whole"))
    process.join()
    assert process.exitcode == 0
    return tmp_path / "whole"


KILLS = [3, pytest.param(20, marks=pytest.mark.slow)]


@pytest.mark.parametrize("kills", KILLS)
@pytest.mark.parametrize("workers", [0, 1])
def test_killed_at_random_moments(tmp_path, kills, workers):
    # more iterations than fit between the kills
    pause, workers = {"PAUSE": 0.02}, {"NUM_WORKERS": workers}
    whole = uninterrupted(tmp_path, max_iter=40 * kills, eval_period=25, DATALOADER=workers, MODEL=pause)
    chance = random.Random(0)
    for _ in range(kills):
        process = start(tmp_path, "--resume")
        time.sleep(chance.uniform(0.05, 1.2))
        assert process.is_alive()
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
    process = start(tmp_path, "--resume")
    process.join()
    assert process.exitcode == 0
    assert_equal_runs(tmp_path / "run", whole)


@pytest.mark.parametrize("kills", KILLS)
def test_killed_while_a_checkpoint_is_being_written(tmp_path, kills):
    """With a model of 8 MB, so that writing takes a while."""
    whole = uninterrupted(tmp_path, MODEL={"CHANNELS": 1400})
    chance, folder, caught = random.Random(1), tmp_path / "run", 0
    for _ in range(kills):
        process = start(tmp_path, "--resume")
        written = chance.randrange(1, 3)  # which of its checkpoints
        own = f".model_*.{process.pid}.part*"  # those of processes killed before may still be there
        for i in range(written):
            known = newest(folder)
            wait_for(lambda own=own: list(folder.glob(own)), process)
            if i + 1 < written:
                wait_for(lambda known=known: newest(folder) != known, process)
        time.sleep(chance.uniform(0, 0.005))
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
            caught += bool(list(folder.glob(own)))
        process.join()
        if newest(folder):
            load_checkpoint(newest(folder))  # whole, whatever happened
    assert caught, "no write was ever cut"
    process = start(tmp_path, "--resume")
    process.join()
    assert process.exitcode == 0
    assert_equal_runs(folder, whole)


def newest(folder):
    return newest_checkpoint(folder) if folder.exists() else None


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_exits_with_75(tmp_path, kind):
    """Sent to the whole group, as a scheduler does, and so to the workers of the loader as well."""
    whole = uninterrupted(tmp_path, DATALOADER={"NUM_WORKERS": 2}, MODEL={"PAUSE": 0.05})
    folder = tmp_path / "run"
    process = start(tmp_path)
    assert wait_for(lambda: newest(folder), process)
    time.sleep(0.1)
    os.killpg(process.pid, kind)
    process.join()
    assert process.exitcode == EXIT_CODE == 75
    content = load_checkpoint(newest(folder))
    assert newest(folder).name == "model_latest.pth" and 5 < content["iteration"] < 39
    assert f"stopped by {kind.name}" in (folder / "log.txt").read_text()
    process = start(tmp_path, "--resume")
    process.join()
    assert process.exitcode == 0
    assert_equal_runs(folder, whole)


def test_a_signal_during_an_evaluation(tmp_path):
    whole = uninterrupted(tmp_path, MODEL={"INFERENCE_PAUSE": 0.2})
    process, folder = start(tmp_path), tmp_path / "run"
    assert wait_for(lambda: newest(folder) and newest(folder).name == "model_latest.pth", process)
    asked = time.monotonic()
    os.killpg(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == EXIT_CODE
    assert time.monotonic() - asked < 1, "it was not to wait for the end of the evaluation"
    assert not evaluations(folder)
    process = start(tmp_path, "--resume")
    process.join()
    assert_equal_runs(folder, whole)


def signalled_in_an_evaluation(number, config, only):
    """What the run says, and how many images this process evaluated.

    A signal comes while the first image is being evaluated, to all processes or to one.
    """
    inference, evaluated = TinyModel.inference, []

    def asked(self, batch):
        if only in (None, number):
            os.kill(os.getpid(), signal.SIGTERM)
        evaluated.append(batch)
        return inference(self, batch)

    TinyModel.inference = asked
    try:
        run.train(config)
    except Preempted as stop:
        return str(stop), len(evaluated)


@pytest.mark.parametrize("only", [None, 0, 1])
def test_a_signal_during_an_evaluation_of_two_processes(tmp_path, only):
    write_config(tmp_path, SOLVER=SOLVER, TEST={"EVAL_PERIOD": 9, "EVALUATORS": ["coco"]})
    config = load_config(tmp_path / "config.yaml", [])
    outcomes = in_processes(2, signalled_in_an_evaluation, config, only)
    assert all("during an evaluation" in text for text, _ in outcomes)
    assert [count for _, count in outcomes] in ([1, 1], [2, 2])  # of 3: nobody waits for the others' shares
    assert load_checkpoint(newest(tmp_path / "run"))["iteration"] == 8


def test_the_line_of_a_period_that_a_signal_ends_is_written(tmp_path):
    write_config(tmp_path, SOLVER=SOLVER, TEST={"EVAL_PERIOD": 0})
    (part,) = in_processes(1, until_a_signal, load_config(tmp_path / "config.yaml", []), 19, False)
    assert "after iteration 19, which is saved" in part[1]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [19]


def killed_while_it_keeps_the_best(config):
    torch.set_num_threads(1)
    Checkpointer.keep_best = lambda self: os.kill(os.getpid(), signal.SIGKILL)
    run.train(config)


def test_killed_between_an_evaluation_and_its_checkpoint(tmp_path):
    """What stands in metrics.json is not evaluated again: the best checkpoint must be there by then."""
    whole, folder = uninterrupted(tmp_path), tmp_path / "run"
    process = mp.get_context("fork").Process(
        target=killed_while_it_keeps_the_best, args=(load_config(tmp_path / "config.yaml", []),)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and not (folder / "model_best.pth").exists()
    process = start(tmp_path, "--resume")
    process.join()
    assert process.exitcode == 0
    assert_equal_runs(folder, whole)


def with_a_full_disk(config, limit):
    """A run that may write no file larger than `limit` bytes from iteration 10 until its end waits for room."""
    torch.set_num_threads(1)
    step, lasting = Trainer.step, []

    def starving(self, iteration, max_iter):
        if iteration == 10:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        return step(self, iteration, max_iter)

    def make_room(seconds):
        lasting.append(load_checkpoint(newest_checkpoint(Path(config.OUTPUT_DIR)))["iteration"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    Trainer.step = starving
    checkpointing.time = type("Clock", (), {"sleep": staticmethod(make_room)})
    run.train(config)
    Path(config.OUTPUT_DIR, "lasting").write_text(json.dumps(lasting))


def test_a_full_disk_costs_neither_the_run_nor_the_last_good_checkpoint(tmp_path):
    whole = uninterrupted(tmp_path, MODEL={"CHANNELS": 200})
    config, folder = load_config(tmp_path / "config.yaml", []), tmp_path / "run"
    process = mp.get_context("fork").Process(target=with_a_full_disk, args=(config, 100_000))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert json.loads((folder / "lasting").read_text()) == [8]  # that of before the first evaluation
    log = (folder / "log.txt").read_text()
    assert "cannot write the checkpoint model_0000011.pth" in log and "File too large" in log
    first, second = (load_checkpoint(f / "model_final.pth") for f in (folder, whole))
    assert identical(first["model"], second["model"]) and evaluations(folder) == evaluations(whole)
    assert not list(folder.glob(".*part*"))


def until_a_signal(number, config, at, resume):
    """The iterations that this process trained; the main one gets a signal after the one numbered `at`."""
    step, done = Trainer.step, []

    def signalled(self, iteration, max_iter):
        result = step(self, iteration, max_iter)
        done.append((iteration, result.image_ids))
        if iteration == at and number == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    Trainer.step = signalled
    try:
        run.train(config, resume=resume)
    except Preempted as stop:
        return done, str(stop)
    return done, ""


def test_two_processes_then_one_then_two(tmp_path):
    """A signal to one of them stops all after the same step, and each start goes on where the last one ended."""
    write_config(tmp_path, SOLVER={**SOLVER, "MAX_ITER": 24}, TEST={"EVAL_PERIOD": 0, "EVALUATORS": ["coco"]})
    config = load_config(tmp_path / "config.yaml", [])
    parts = [in_processes(count, until_a_signal, config, at, at > 7) for count, at in ((2, 7), (1, 15), (2, 99))]
    stops = [[stop for _, stop in part] for part in parts]
    assert stops[0][0].startswith("stopped by SIGTERM after iteration") and "another process" in stops[0][1]
    assert stops[2] == ["", ""]
    seen = {}
    for part in parts:
        ranges = {tuple(i for i, _ in done) for done, _ in part}
        assert len(ranges) == 1, "the processes did not stop after the same step"
        for done, _ in part:
            for iteration, images in done:
                seen.setdefault(iteration, []).extend(images)
    assert list(seen) == list(range(24))
    alone = tmp_path / "alone"
    done, _ = in_processes(
        1, until_a_signal, load_config(tmp_path / "config.yaml", ["OUTPUT_DIR", str(alone)]), 99, False
    )[0]
    assert {i: sorted(images) for i, images in seen.items()} == {i: sorted(images) for i, images in done}
    content = load_checkpoint(tmp_path / "run" / "model_final.pth")
    assert content["iteration"] == 23 and len(content["rng"]) == 2


def test_a_restart_does_not_go_on_with_a_run_of_somebody_else(tmp_path, monkeypatch):
    write_config(tmp_path, SOLVER={**SOLVER, "MAX_ITER": 4}, TEST={"EVAL_PERIOD": 0})
    config = load_config(tmp_path / "config.yaml", [])
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "theirs")
    run.train(config)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "ours")
    for count in ("0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        with pytest.raises(RunError, match="holds another run"):
            run.train(config)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "theirs")
    run.train(config)  # a restart of the job that it belongs to
    for count in ("0", "1"):  # a later job of the same name, as a copied command has it
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        with pytest.raises(RunError, match="holds another run"):
            run.train(config)


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc to find torchrun's processes in")
@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_torchrun_restarts_a_process_that_was_killed(tmp_path, kills):
    """One of two processes is killed; both start anew, without being told to resume, and end as if nothing had been."""
    write_config(
        tmp_path, SOLVER=SOLVER, TEST={**TEST, "EVALUATORS": ["coco"], "BEST_METRIC": "bbox/AP"}, MODEL={"PAUSE": 0.1}
    )
    config = load_config(tmp_path / "config.yaml", ["OUTPUT_DIR", str(tmp_path / "whole"), "MODEL.PAUSE=0"])
    in_processes(2, until_a_signal, config, 99, False)
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += ["--max-restarts", str(kills), "-m", "maskrcnn", "train", "--config", str(tmp_path / "config.yaml")]
    folder, chance = tmp_path / "run", random.Random(0)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    with (tmp_path / "torchrun.txt").open("w") as output:
        job = subprocess.Popen(command, cwd=root, env=environment, stdout=output, stderr=output)
        job.is_alive = lambda: job.poll() is None
        try:
            for _ in range(kills):
                known = newest(folder)
                assert wait_for(lambda known=known: newest(folder) != known, job, seconds=120)
                os.kill(children(job.pid)[chance.randrange(2)], signal.SIGKILL)
            job.wait(timeout=240)
        finally:
            job.kill()
    assert job.returncode == 0, (tmp_path / "torchrun.txt").read_text()
    assert (folder / "log.txt").read_text().count("resuming from") == kills
    starts = read_record(folder / "run.json")["starts"]
    assert [start["iteration"] > 0 for start in starts] == [False] + [True] * kills
    typed = f"torchrun --nproc-per-node 2 -m maskrcnn train --config {tmp_path}/config.yaml"
    assert {(start["command"], start["processes"], start["machines"]) for start in starts} == {(typed, 2, 1)}
    first, second = (load_checkpoint(f / "model_final.pth") for f in (folder, tmp_path / "whole"))
    for key in ("model", "ema", "optimizer", "rng"):
        assert identical(first[key], second[key]), key
