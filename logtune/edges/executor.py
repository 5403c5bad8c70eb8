"""Where heavy work runs: a child process of this machine, niced, so that serving never stops for training; or Ray.

What to run is told by a dotted name ("module:function"), since edges don't import stages.
"""

import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, cast

from logtune.errors import LogtuneError, MissingExtra, TrainingError
from logtune.ports import TrainingJob
from logtune.records import Adapter

if TYPE_CHECKING:
    from ray.actor import ActorHandle

Progress = Callable[[str], None]
Train = Callable[[TrainingJob, Progress], tuple[Adapter, ...]]
STDERR_LINES = 12  # of a dead child, told in the error
POLL_S = 0.5
LEAVE_S = 5.0  # how long an idle child may take to end by itself
IDLE_S = 30.0  # a child waits so long for another job, since it holds the base model; longer where memory is free
# Training allocates and frees the same large blocks each step; glibc would give each back to the system and fault it in
# again, which costs a third of the time on a virtual machine.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**28),
}


class SystemClock:
    """The time of this machine."""

    def now(self) -> float:
        """Seconds since 1970, UTC."""
        return time.time()


class LocalExecutor:
    """Runs `trainer` in a child process and waits for it; the child never outlives this process.

    A child takes one job after the other, so that what it has loaded serves them all, also after a job that failed by
    the trainer's own account. `close` ends it, and where memory is short `idle_s` seconds without a job do.
    """

    def __init__(self, trainer: str, niceness: int = 10, idle_s: float = IDLE_S) -> None:
        self._trainer = trainer
        self._niceness = niceness
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._child: _Child | None = None  # idle

    def train(self, job: TrainingJob, progress: Progress) -> tuple[Adapter, ...]:
        """The adapters; TrainingError with the trainer's own words, or with how the child died and its last words."""
        with self._lock:
            child, self._child = self._child, None
            if child is None or not child.alive:
                child = _Child(self._trainer, self._niceness)
            try:
                return child.run(job, progress)
            finally:
                if child.busy:  # it died, or is not wanted any more (Ctrl-C)
                    child.end()
                else:
                    self._child = child
                    self._end_later(child, child.jobs)

    def close(self) -> None:
        """End an idle child now; its memory comes back."""
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            child.end()

    def _end_later(self, child: "_Child", jobs: int) -> None:
        timer = threading.Timer(self._idle_s, _end_idle, (weakref.ref(self), weakref.ref(child), jobs))
        timer.daemon = True
        timer.start()

    def end_idle(self, child: "_Child", jobs: int) -> None:
        """End the child where it has been idle since it did so many jobs, and others may need its memory."""
        with self._lock:
            if self._child is not child or child.jobs != jobs:
                return
            if memory_to_spare(child.pid):
                self._end_later(child, jobs)
                return
            self._child = None
        child.end()


def _end_idle(executor: "weakref.ref[LocalExecutor]", child: "weakref.ref[_Child]", jobs: int) -> None:
    owner, idle = executor(), child()
    if owner is not None and idle is not None:
        owner.end_idle(idle, jobs)


def memory_to_spare(pid: int | None) -> bool:
    """Whether so much as a process holds is free besides; False where this machine does not tell."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        lines = Path("/proc/meminfo").read_text().splitlines()
        (free,) = (int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError):
        return False
    return 1024 * free > pages * os.sysconf("SC_PAGE_SIZE")


class _Child:
    """A training process."""

    def __init__(self, trainer: str, niceness: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        folder = tempfile.mkdtemp(prefix="logtune-train-")
        self._stderr = Path(folder) / "stderr"
        self._process = context.Process(
            target=_serve_jobs, args=(trainer, niceness, theirs, str(self._stderr)), daemon=True
        )
        with _environment(KEEP_MEMORY), _plain_main():
            self._process.start()
        theirs.close()
        self.jobs = 0
        self._busy = threading.Event()
        # also when forgotten, and at exit
        self.end = weakref.finalize(self, _end, self._process, self._pipe, self._busy, folder)

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

    def run(self, job: TrainingJob, progress: Progress) -> tuple[Adapter, ...]:
        """As LocalExecutor.train."""
        self.jobs += 1
        self._busy.set()
        self._pipe.send(job)
        kind, value = _result(self._pipe, self._process, progress, job, self._stderr)
        self._busy.clear()
        if kind == "done":
            return cast("tuple[Adapter, ...]", value)
        what, hint = cast("tuple[str, str]", value)
        raise TrainingError(f"{job.cluster_id}: {what}", hint)


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


def _result(
    pipe: Connection, child: BaseProcess, progress: Progress, job: TrainingJob, stderr: Path
) -> tuple[str, object]:
    """What the child says in the end: done and its adapters, or failed and why."""
    while True:
        try:
            while not pipe.poll(POLL_S):
                pass
            kind, value = cast("tuple[str, object]", pipe.recv())
        except (EOFError, OSError) as error:
            child.join()
            raise _death(child.exitcode or 0, job, stderr) from error
        if kind == "progress":
            progress(f"train: {value}")
        else:
            return kind, value


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
            pipe.send(("done", _trainer(trainer)(job, lambda line: pipe.send(("progress", line)))))
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


def _trainer(name: str) -> Train:
    module, _, function = name.partition(":")
    return cast("Train", getattr(importlib.import_module(module), function))


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables set for a child started inside, unless the user set them; its loader reads them at the start."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


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


class RayExecutor:
    """Runs `trainer` as a task of a Ray cluster; `address` as for ray.init, None starts or finds a local one.

    Base model and adapter folders must lie on a disk that the workers share.
    """

    def __init__(self, trainer: str, address: str | None = None, cpus: float = 1.0, gpus: float = 0.0) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingExtra("ray", "ray") from error
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False)
        self._trainer, self._cpus, self._gpus = trainer, cpus, gpus

    def train(self, job: TrainingJob, progress: Progress) -> tuple[Adapter, ...]:
        """As LocalExecutor.train; Ctrl-C cancels the task."""
        import ray
        from ray.exceptions import RayError

        lines = ray.remote(num_cpus=0)(_Lines).remote()
        task = ray.remote(num_cpus=self._cpus, num_gpus=self._gpus, max_retries=0)(_ray_task)
        running = task.remote(self._trainer, job, lines)
        told = 0
        try:
            while not ray.wait([running], timeout=POLL_S)[0]:
                told = _tell(lines, told, progress)
            adapters, failed = ray.get(running)
            _tell(lines, told, progress)
        except RayError as error:
            raise TrainingError(f"the Ray task of {job.cluster_id} failed: {error}", "ray status, ray logs") from error
        finally:
            ray.cancel(running, force=True)
            ray.kill(lines)
        if failed:
            raise TrainingError(f"{job.cluster_id}: {failed[0]}", failed[1])
        return cast("tuple[Adapter, ...]", adapters)

    def close(self) -> None:
        """Nothing waits: a task ends with its job."""


class _Lines:
    """Progress lines of one task."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, line: str) -> None:
        self._lines.append(line)

    def since(self, start: int) -> list[str]:
        return self._lines[start:]


def _tell(lines: "ActorHandle", told: int, progress: Progress) -> int:
    import ray

    fresh = cast("list[str]", ray.get(lines.since.remote(told)))
    for line in fresh:
        progress(f"train: {line}")
    return told + len(fresh)


def _ray_task(
    trainer: str, job: TrainingJob, lines: "ActorHandle"
) -> tuple[tuple[Adapter, ...], tuple[str, str] | None]:
    """The adapters, or what went wrong: our own errors take two arguments and do not survive Ray's pickling."""
    import ray

    try:
        return _trainer(trainer)(job, lambda line: ray.get(lines.add.remote(line))), None
    except LogtuneError as error:
        return (), (error.what, error.hint)
