"""`maskrcnn slurm`: train on a Slurm cluster, and go on by itself when the job is preempted or its time is over."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from maskrcnn.cli import train
from maskrcnn.config import load_config
from maskrcnn.engine import checks
from maskrcnn.engine.hooks.preemption import EXIT_CODE

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

TIME_TO_SAVE = 300  # seconds before the limit at which Slurm asks the job to stop
MOST_RESUMPTIONS = 1000  # submitit's own limit is 3


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="maskrcnn slurm",
        description="Submit a training to Slurm, one process per GPU. A job that is preempted, or whose time is over, "
        "saves its state, is queued again under the same number, and goes on.",
        epilog="example: maskrcnn slurm --nodes 2 --gpus-per-node 8 --partition gpu --time 1440 -- "
        "--config mask_rcnn/mask_rcnn_r50_fpn_1x_coco OUTPUT_DIR runs/first",
    )
    p.add_argument("--nodes", type=int, default=1, metavar="N", help="machines (1)")
    p.add_argument("--gpus-per-node", type=int, default=1, metavar="G", help="GPUs, and processes, on each (1)")
    p.add_argument("--cpus-per-gpu", type=int, default=4, metavar="N", help="CPU cores for each process (4)")
    p.add_argument("--time", type=int, default=60, metavar="MINUTES", help="of one job; a longer training resumes (60)")
    p.add_argument("--name", default="maskrcnn", help="of the job (maskrcnn)")
    for option in ("partition", "account", "qos", "constraint", "comment"):
        p.add_argument(f"--{option}", help="as of sbatch")
    p.add_argument("train", nargs=argparse.REMAINDER, metavar="-- ARGUMENTS", help="those of maskrcnn train")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Check the training's arguments here, before it waits in a queue, and submit it."""
    p = parser()
    args = p.parse_args(argv)
    for name in ("nodes", "gpus_per_node", "cpus_per_gpu", "time"):
        if getattr(args, name) < 1:
            p.error(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be at least 1")
    arguments = args.train[1:] if args.train[:1] == ["--"] else args.train
    wanted = train.parse(arguments)
    if wanted.eval_only or wanted.print_config:
        p.error("only trainings are submitted: leave out --eval-only and --print-config")
    cfg = load_config(wanted.config, wanted.overrides)
    checks.check_values(cfg, training=True)
    checks.check_batch(cfg.SOLVER, args.nodes * args.gpus_per_node)
    folder = Path(cfg.OUTPUT_DIR).expanduser().absolute()
    if not wanted.resume:  # the job will always: its later parts go on with what the first one began
        checks.check_unused(folder)
    try:
        import submitit
    except ImportError as error:
        raise ValueError("submitit is missing: pip install 'maskrcnn[slurm]'") from error
    if not (shutil.which("sbatch") and shutil.which("srun")):
        raise ValueError(
            "there is no sbatch or no srun here; submit from a machine of the cluster, such as its login node"
        )
    executor = submitit.AutoExecutor(folder / "slurm", cluster="slurm", slurm_max_num_timeout=MOST_RESUMPTIONS)
    executor.update_parameters(**job_parameters(args))
    resuming = [] if wanted.resume else ["--resume"]
    job = executor.submit(Training([sys.executable, "-m", "maskrcnn", "train", *arguments, *resuming]))
    print(f"submitted as job {job.job_id}; its output goes to {job.paths.stdout}")
    return 0


def job_parameters(args: argparse.Namespace) -> dict[str, Any]:
    """The options as submitit calls them."""
    own = {option: getattr(args, option) for option in ("partition", "account", "qos", "constraint", "comment")}
    return {
        "name": args.name,
        "nodes": args.nodes,
        "gpus_per_node": args.gpus_per_node,
        "tasks_per_node": args.gpus_per_node,
        "cpus_per_task": args.cpus_per_gpu,
        "timeout_min": args.time,
        "slurm_signal_delay_s": TIME_TO_SAVE,
        "slurm_srun_args": ["--kill-on-bad-exit=1"],  # else the others would wait for one that died
        **{f"slurm_{option}": value for option, value in own.items() if value},
    }


class Training:
    """One process of a training, as submitit runs it on a node: it starts the command, and sees to its resumption.

    There is no torchrun in between, which would turn every exit code into 1 and pass no SIGUSR1 on.

    Args:
        command: exits with 75 when a SIGUSR1 has made it stop, and goes on when it is started again.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)
        self.process: subprocess.Popen[bytes] | None = None
        self.is_cancelled = False

    def __call__(self) -> None:
        """Run the command to its end.

        Raises:
            CalledProcessError: it failed, or the job was cancelled.
        """
        from submitit import JobEnvironment
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)  # LOCAL_RANK chooses
        # In a session of its own: Slurm's signals go to all of a session's processes, and some would end the command.
        self.process = subprocess.Popen(self.command, start_new_session=True)
        signal.signal(signal.SIGTERM, self.cancel)
        try:
            code = self.process.wait()
        finally:
            self.process.kill()
        if code == EXIT_CODE and not self.is_cancelled:
            if JobEnvironment().global_rank == 0:  # it was asked by somebody else: have it queued again all the same
                signal.raise_signal(getattr(signal, f"SIG{JobEnvironment.USR_SIG}"))
            time.sleep(TIME_TO_SAVE)  # until the first process has the job queued again, which ends this one
        if code:
            raise subprocess.CalledProcessError(code, self.command)

    def checkpoint(self) -> DelayedSubmission:
        """In the first process, when the job has to stop: what to queue again, once the state is saved.

        The training's processes agree on stopping, so that it is enough to ask one.
        """
        from submitit.helpers import DelayedSubmission

        self.stop()
        return DelayedSubmission(Training(self.command))

    def cancel(self, number: int, frame: FrameType | None) -> None:
        """On SIGTERM: the user cancels the job, or Slurm preempts it and will queue it again by itself."""
        self.is_cancelled = True
        self.stop()

    def stop(self) -> None:
        """Let the command save its state and end."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGUSR1)
            # Not process.wait(), whose lock the wait that this signal interrupts is holding.
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
