"""Trainers that tests run in a child process, by dotted name; nothing here is heavy."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from logtune.errors import TrainingError
from logtune.ports import TrainingJob
from logtune.records import Adapter
from logtune.testing import FakeExecutor

Progress = Callable[[str], None]


def good(job: TrainingJob, progress: Progress) -> tuple[Adapter, ...]:
    sys.stdout.write("noise on standard output\n")
    return FakeExecutor().train(job, progress)


def niced(job: TrainingJob, progress: Progress) -> tuple[Adapter, ...]:
    progress(f"{os.nice(0)} {os.environ.get('MALLOC_TOP_PAD_')}")
    return ()


def by_id(job: TrainingJob, progress: Progress) -> tuple[Adapter, ...]:
    """Tells its process; what it does is the job's id."""
    progress(str(os.getpid()))
    sys.stderr.write(f"words of {job.cluster_id}\n")
    if job.cluster_id == "fails":
        raise TrainingError("the loss did not fall")
    if job.cluster_id == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    return ()


def refuses(job: TrainingJob, progress: Progress) -> tuple[Adapter, ...]:
    raise TrainingError("the loss did not fall: 1.0 to 1.1", "look at the pairs")


def crashes(job: TrainingJob, progress: Progress) -> tuple[Adapter, ...]:
    for number in range(100):
        sys.stderr.write(f"line {number}\n")
    raise RuntimeError("not enough memory: you tried to allocate 9 GB")


def is_killed(job: TrainingJob, progress: Progress) -> tuple[Adapter, ...]:
    sys.stderr.write("about to die\n")
    os.kill(os.getpid(), signal.SIGKILL)
    return ()


def surroundings(job: TrainingJob, progress: Progress) -> tuple[Adapter, ...]:
    """Writes down what its environment says."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "CUDA_VISIBLE_DEVICES")
    found = {name: os.environ.get(name) for name in names}
    Path(job.out_dir, f"process-{found['RANK'] or 0}").write_text(json.dumps(found))
    return ()


def second_dies(job: TrainingJob, progress: Progress) -> tuple[Adapter, ...]:
    """The first waits for the second for ever."""
    _second_waits_for_first(job)
    os.kill(os.getpid(), signal.SIGKILL)
    return ()


def second_fails(job: TrainingJob, progress: Progress) -> tuple[Adapter, ...]:
    """The same, where the second says why."""
    _second_waits_for_first(job)
    raise TrainingError("the second failed")


def _second_waits_for_first(job: TrainingJob) -> None:
    first = Path(job.out_dir, "pid")
    if os.environ["RANK"] == "0":
        first.with_suffix(".new").write_text(str(os.getpid()))
        first.with_suffix(".new").rename(first)
        time.sleep(600)
    while not first.exists():
        time.sleep(0.01)


def runs_for_ever(job: TrainingJob, progress: Progress) -> tuple[Adapter, ...]:
    Path(job.out_dir, "pid").write_text(str(os.getpid()))
    progress("started")
    while True:
        time.sleep(0.1)


def killed_once_at_step_5(job: TrainingJob, progress: Progress) -> tuple[Adapter, ...]:
    """The real trainer, whose process dies at once in the third epoch of its first run."""
    from logtune.stages.train import run

    mark = Path(job.out_dir, "killed")

    def told(line: str) -> None:
        progress(line)
        if line.startswith("step 5") and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return run(job, told)
