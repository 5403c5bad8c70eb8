"""A training process beside this one: it takes jobs through a pipe, one after the other, and dies with its parent.

TrainingJob -> _serve_jobs, in the child -> progress*, then done with adapters or failed with a reason
"""

import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue
from typing import cast

from logtune.errors import LogtuneError, TrainingError
from logtune.ports import TrainingJob
from logtune.records import Adapter

Progress = Callable[[str], None]
Train = Callable[[TrainingJob, Progress], tuple[Adapter, ...]]
STDERR_LINES = 12  # of a dead child, told in the error
LEAVE_S = 5.0  # how long an idle child may take to end by itself
# Training allocates and frees the same large blocks each step; glibc would give each back to the system and fault it in
# again, which costs a third of the time on a virtual machine.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**28),
}


class Child:
    """A training process, with variables of its own in its environment."""

    def __init__(self, trainer: str, niceness: int, variables: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        folder = tempfile.mkdtemp(prefix="logtune-train-")
        self._stderr = Path(folder) / "stderr"
        self._process = context.Process(
            target=_serve_jobs, args=(trainer, niceness, theirs, str(self._stderr)), daemon=True
        )
        memory = {name: value for name, value in KEEP_MEMORY.items() if name not in os.environ}  # as the user set it
        with _environment({**memory, **variables}), _plain_main():
            self._process.start()
        theirs.close()
        self._busy = threading.Event()
        # also when forgotten, and at exit
        self.end = weakref.finalize(self, _end, self._process, self.pipe, self._busy, folder)

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return self._process.pid

    @property
    def busy(self) -> bool:
        """Whether a job was begun whose result has not come."""
        return self._busy.is_set()

    @property
    def alive(self) -> bool:
        """Whether it can take a job; an idle one may have been killed."""
        return self._process.is_alive()

    def begin(self, job: TrainingJob) -> None:
        """Give it a job; `said` tells how it goes."""
        self._busy.set()
        self.pipe.send(job)

    def said(self, job: TrainingJob) -> tuple[str, object]:
        """What comes next: progress and a line, done and adapters, failed and why; TrainingError where it has died."""
        try:
            kind, value = cast("tuple[str, object]", self.pipe.recv())
        except (EOFError, OSError) as error:
            self._process.join()
            raise _death(self._process.exitcode or 0, job, self._stderr) from error
        if kind != "progress":
            self._busy.clear()
        return kind, value


def _end(process: BaseProcess, pipe: Connection, busy: threading.Event, folder: str) -> None:
    """An idle child is told to go and cleans up after itself; one that works, or does not go, is killed."""
    if not busy.is_set() and process.is_alive():
        with suppress(OSError):
            pipe.send(None)
            process.join(LEAVE_S)
    pipe.close()
    process.kill()
    process.join()
    shutil.rmtree(folder, ignore_errors=True)


def _death(code: int, job: TrainingJob, stderr: Path) -> TrainingError:
    """How the child ended, with the end of what it wrote."""
    name = signal.Signals(-code).name if -code in list(signal.Signals) else ""
    how = f"was ended by {name}" if name else f"ended with code {code}"
    hint = "SIGKILL often means too little memory: lower train.batch" if name == "SIGKILL" else "run it again"
    words = deque(stderr.read_text(errors="replace").splitlines() if stderr.exists() else [], STDERR_LINES)
    said = "".join(f"\n    {line}" for line in words)
    return TrainingError(f"the training process of {job.cluster_id} {how} and gave no result{said}", hint)


def _serve_jobs(trainer: str, niceness: int, pipe: Connection, stderr: str) -> None:
    """The child: jobs one after the other, until the parent has had enough."""
    os.nice(niceness)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C at a terminal reaches the child too: end without a traceback
    with Path(stderr).open("w", buffering=1) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    jobs: SimpleQueue[TrainingJob | None] = SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, jobs), daemon=True).start()
    while (job := jobs.get()) is not None:
        Path(stderr).write_text("")  # the last words are to be those of this job
        os.lseek(1, 0, os.SEEK_SET)
        try:
            pipe.send(("done", trainer_of(trainer)(job, lambda line: pipe.send(("progress", line)))))
        except LogtuneError as error:
            pipe.send(("failed", (error.what, error.hint)))


def _receive(pipe: Connection, jobs: "SimpleQueue[TrainingJob | None]") -> None:
    """A parent that was killed closes the pipe: an orphan would write adapters beside those of the next run."""
    try:
        while (job := cast("TrainingJob | None", pipe.recv())) is not None:
            jobs.put(job)
        jobs.put(None)
    except (EOFError, OSError):
        os._exit(1)


def trainer_of(name: str) -> Train:
    """The function of a dotted name, "module:function"."""
    module, _, function = name.partition(":")
    return cast("Train", getattr(importlib.import_module(module), function))


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables set for a child started inside; its loader reads them at the start."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _plain_main() -> Iterator[None]:
    """A spawned child runs the parent's main script again, unless that looks like none: it needs nothing of it."""
    main = sys.modules["__main__"]
    names = ("__file__", "__spec__")
    kept = {name: getattr(main, name) for name in names if hasattr(main, name)}
    try:
        for name in kept:
            setattr(main, name, None)
        yield
    finally:
        for name, value in kept.items():
            setattr(main, name, value)
