"""Where heavy work runs: child processes of this machine, niced, so that serving never stops for training; or Ray.

What to run is told by a dotted name ("module:function"), since edges don't import stages.
"""

import os
import socket
import threading
import time
import weakref
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, cast

from logtune.edges.memory import available_bytes
from logtune.edges.training_process import Child, Progress, trainer_of
from logtune.errors import LogtuneError, MissingExtra, TrainingError
from logtune.ports import TrainingJob
from logtune.records import Adapter

if TYPE_CHECKING:
    from ray.actor import ActorHandle

POLL_S = 0.5
OTHERS_S = (
    30.0  # processes of one training fail together; one that has not done so by then waits for the others in vain
)
IDLE_S = 30.0  # a child waits so long for another job, since it holds the base model; longer where memory is free


class SystemClock:
    """The time of this machine."""

    def now(self) -> float:
        """Seconds since 1970, UTC."""
        return time.time()


class LocalExecutor:
    """Runs `trainer` in child processes, `processes` of the job's settings, and waits for them; none outlives this one.

    A child takes one job after the other, so that what it has loaded serves them all, also after a job that failed by
    the trainer's own account. `close` ends it, and where memory is short `idle_s` seconds without a job do.
    """

    def __init__(self, trainer: str, niceness: int = 10, idle_s: float = IDLE_S) -> None:
        self._trainer = trainer
        self._niceness = niceness
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._crew: _Crew | None = None  # idle

    def train(self, job: TrainingJob, progress: Progress) -> tuple[Adapter, ...]:
        """The adapters; TrainingError with the trainer's own words, or with how the child died and its last words."""
        with self._lock:
            crew, self._crew = self._crew, None
            wanted = job.settings.get("processes")
            size = wanted if isinstance(wanted, int) else 1
            if crew is not None and (not crew.alive or crew.size != size):
                crew.end()
                crew = None
            crew = crew or _Crew(self._trainer, self._niceness, size)
            try:
                return crew.run(job, progress)
            finally:
                if crew.busy:  # one died, or none is wanted any more (Ctrl-C)
                    crew.end()
                else:
                    self._crew = crew
                    self._end_later(crew, crew.jobs)

    def close(self) -> None:
        """End idle children now; their memory comes back."""
        with self._lock:
            crew, self._crew = self._crew, None
        if crew is not None:
            crew.end()

    def _end_later(self, crew: "_Crew", jobs: int) -> None:
        timer = threading.Timer(self._idle_s, _end_idle, (weakref.ref(self), weakref.ref(crew), jobs))
        timer.daemon = True
        timer.start()

    def end_idle(self, crew: "_Crew", jobs: int) -> None:
        """End the children where they have been idle since they did so many jobs, and others may need their memory."""
        with self._lock:
            if self._crew is not crew or crew.jobs != jobs:
                return
            if memory_to_spare(crew.pids):
                self._end_later(crew, jobs)
                return
            self._crew = None
        crew.end()


def _end_idle(executor: "weakref.ref[LocalExecutor]", crew: "weakref.ref[_Crew]", jobs: int) -> None:
    owner, idle = executor(), crew()
    if owner is not None and idle is not None:
        owner.end_idle(idle, jobs)


def memory_to_spare(pids: Sequence[int | None]) -> bool:
    """Whether so much as these processes hold is free besides; False where this machine does not tell."""
    try:
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    except (OSError, ValueError, IndexError):
        return False
    free = available_bytes()
    return free is not None and free > pages * os.sysconf("SC_PAGE_SIZE")


class _Crew:
    """The processes of one training: one, on one GPU where there are any; or several, which know of each other by the
    variables that torchrun sets. The first tells progress and gives the adapters.
    """

    def __init__(self, trainer: str, niceness: int, size: int) -> None:
        self.size = size
        self.jobs = 0
        self._children = [Child(trainer, niceness, variables) for variables in _variables(size)]

    @property
    def pids(self) -> list[int | None]:
        """Of the processes."""
        return [child.pid for child in self._children]

    @property
    def busy(self) -> bool:
        """Whether a job was begun that is not over everywhere."""
        return any(child.busy for child in self._children)

    @property
    def alive(self) -> bool:
        """Whether they can take a job; an idle one may have been killed."""
        return all(child.alive for child in self._children)

    def run(self, job: TrainingJob, progress: Progress) -> tuple[Adapter, ...]:
        """As LocalExecutor.train."""
        self.jobs += 1
        for child in self._children:
            child.begin(job)
        adapters: tuple[Adapter, ...] = ()
        failed: tuple[str, str] | None = None
        patience = float("inf")
        while (busy := [child for child in self._children if child.busy]) and time.monotonic() < patience:
            ready = wait([child.pipe for child in busy], POLL_S)
            for child in (child for child in busy if child.pipe in ready):
                kind, value = child.said(job)
                if kind == "progress" and child is self._children[0]:
                    progress(f"train: {value}")
                elif kind == "done" and child is self._children[0]:
                    adapters = cast("tuple[Adapter, ...]", value)
                elif kind == "failed":
                    failed = failed or cast("tuple[str, str]", value)
                    patience = min(patience, time.monotonic() + OTHERS_S)
        if failed is not None:
            raise TrainingError(f"{job.cluster_id}: {failed[0]}", failed[1])
        return adapters

    def end(self) -> None:
        """End them all."""
        for child in self._children:
            child.end()


def _variables(size: int) -> list[dict[str, str]]:
    """What each process of a training finds in its environment."""
    if size == 1:  # with several in sight the trainer would copy the model to all of them, and run it on copies
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
        return [{"CUDA_VISIBLE_DEVICES": seen.split(",")[0]}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    world = {**meeting, "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    return [{**world, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]


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
        return trainer_of(trainer)(job, lambda line: ray.get(lines.add.remote(line))), None
    except LogtuneError as error:
        return (), (error.what, error.hint)
