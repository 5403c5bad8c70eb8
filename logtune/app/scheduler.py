"""Begins cycles by itself: looks at the gates, runs one in a niced child process, remembers how it ended.

Config, store -> Scheduler.look -> Look        ready -> Child (`logtune cycle`) -> Run
It holds no model: what learns is the child, which continues an open cycle where it was. The lease of the cycle is the
child's, so cycles begun by hand, by cron and by other machines' schedules never run beside each other.
"""

import os
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from logtune.app.due import Facts, Look, decide
from logtune.config import Config
from logtune.edges import spending
from logtune.edges.experiments import Experiments
from logtune.edges.lease import CYCLE, Lease
from logtune.edges.memory import available_bytes
from logtune.edges.runs import SKEW_S, Run, Runs, believed, failures, since, succeeded_at
from logtune.edges.store import Store
from logtune.errors import INTERRUPTED, KNOWN_ERROR, NOT_PASSED, OK
from logtune.records import DAY_S, Feedback, LogRecord

MONTH_S = 30 * DAY_S
END_S = 30.0  # for a child that is told to end
POLL_S = 0.2
WORDS = 300  # characters of a child's last words that are kept
SPENT_CYCLES = 200  # newest cycles whose cost is added up


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a child ended."""

    exit_code: int | None  # None: it was told to end together with the scheduler, which is no failure of its own
    detail: str  # its last words


Start = Callable[[threading.Event], Ended]  # runs a cycle to its end, or until the event is set


class Scheduler:
    """Looks and runs for one store. `start` runs a cycle; `tell` hears what is decided, when that changes."""

    def __init__(
        self, store: Store, config: Config, start: Start, tell: Callable[[str], None],
        clock: Callable[[], float] = time.time, *, timer: bool = False,
    ) -> None:  # fmt: skip
        self._timer = timer  # the caller is one (`decide`)
        self._store = store
        self._config = config
        self._start = start
        self._tell = tell
        self._clock = clock
        self._runs = Runs(store)
        self._since = 0.0 if timer else clock()  # who asks now and then has no beginning; a first cycle is due
        self._told = ""

    def look(self) -> Look:
        """Whether a cycle may begin now, and why not."""
        return decide(self._config.schedule, self.facts(), timer=self._timer)

    def facts(self) -> Facts:
        """What the gates look at, read now."""
        now = self._clock()
        self._since = min(self._since, now)  # the clock may have been ahead
        runs, cycles = self._runs.recent(until=now + SKEW_S), self._store.cycles(SPENT_CYCLES)
        late = since(succeeded_at(believed(cycles, now)), runs)
        began = [row.started_at for row in cycles] + [run.began_at for run in runs]
        holder = Lease(self._store, CYCLE).holder()
        counted = [row for row in cycles if row.ended_at is None or row.ended_at >= now - MONTH_S]
        cost = sum(spent.cost for row in counted for spent in spending.read(row.receipt).values())
        return Facts(
            now=now, since=self._since, last_began=_newest(began, now),
            last_ended=_newest([row.ended_at for row in cycles], now),
            run_ended=_newest([run.ended_at for run in runs], now),
            unfinished=bool(late and late[0].unfinished) or self._store.running_cycle() is not None,
            paused=_paused(self._store), failures=failures(late, running=bool(holder)),
            holder=holder, new=self._records() - _learned(runs),
            disk_bytes=shutil.disk_usage(_existing(Path(self._config.store.home))).free,
            memory_bytes=available_bytes(), cost_30d=cost,
        )  # fmt: skip

    def step(self, stop: threading.Event) -> Run | None:
        """One look, and the cycle it allows; None where none began."""
        look = self.look()
        said = look.reason if look.reason != "not_due" else f"not_due {look.next_at}"
        if said != self._told:
            self._told = said
            self._tell(f"{look.reason}: {look.detail}")
        if not look.ready:
            return None
        run = self._runs.begin(self._clock(), self._records())
        try:
            ended = self._start(stop)
        except OSError as error:  # the disk is full, there are too many processes
            ended = Ended(exit_code=KNOWN_ERROR, detail=f"it could not be started: {error}")
        self._runs.end(run, self._clock(), ended.exit_code, ended.detail[-WORDS:])
        self._told = ""
        how = "was stopped" if ended.exit_code is None else f"ended with exit code {ended.exit_code}"
        self._tell(f"the cycle {how}: {ended.detail[-WORDS:]}")
        return run

    def _records(self) -> int:
        return self._store.count(LogRecord) + self._store.count(Feedback)


def look_at(store: Store, config: Config) -> Look:
    """What a schedule would decide now."""

    def never(_: threading.Event) -> Ended:
        raise AssertionError("a look starts nothing")

    return Scheduler(store, config, never, lambda line: None).look()


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A cycle in a process of its own, with the schedule's limits."""

    command: Sequence[str]
    niceness: int
    threads: int  # 0: as many as there are cores
    timeout_s: float
    tell: Callable[[str], None]  # hears its progress
    memory_bytes: int = 0  # that each of its processes may have; 0: any

    def __call__(self, stop: threading.Event) -> Ended:
        """Run it; it is told to end when `stop` is set or its time is over, and the next one goes on from there."""
        with tempfile.TemporaryFile() as said, subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.PIPE, text=True,
            errors="replace", env={**os.environ, **self._environment()},
        ) as child:  # fmt: skip
            _limit(child.pid, self.niceness, self.memory_bytes)
            last = [""]
            reading = threading.Thread(target=self._read, args=(child, last), daemon=True)
            reading.start()
            late = self._wait(child, stop)
            reading.join(END_S)
            code = child.returncode
            words = _summary(said) if code in (OK, NOT_PASSED) else last[0]
        if late:
            return Ended(exit_code=code if code > 0 else INTERRUPTED, detail=f"stopped, it was too long; {words}")
        if stop.is_set() and code not in (OK, NOT_PASSED):
            return Ended(exit_code=None, detail=f"stopped with the scheduler; {words}")
        return Ended(exit_code=code if code >= 0 else INTERRUPTED, detail=words)

    def _wait(self, child: "subprocess.Popen[str]", stop: threading.Event) -> bool:
        """Wait for its end, and bring it about where that is wanted; whether its time was over."""
        end = time.monotonic() + self.timeout_s
        while child.poll() is None:
            late = time.monotonic() > end
            if stop.wait(POLL_S) or late:
                _end(child)
                return late
        return False

    def _environment(self) -> Mapping[str, str]:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        return dict.fromkeys(names, str(self.threads)) if self.threads else {}

    def _read(self, child: "subprocess.Popen[str]", last: list[str]) -> None:
        assert child.stderr is not None
        for line in child.stderr:
            if line.strip():
                last[0] = line.strip()
                self.tell(line.rstrip())


def _summary(said: IO[bytes]) -> str:
    """The first line of what a cycle answers: what came of it."""
    said.seek(0)
    return said.readline().decode("utf-8", "replace").strip()


def _paused(store: Store) -> str:
    """Why everything is paused by hand; "": it is not."""
    found = (item for item in Experiments(store).paused() if not item.name)
    return next((f"{item.by} paused everything: {item.reason}" for item in found), "")


def _newest(times: Sequence[float | None], now: float) -> float | None:
    """The newest time that can be true, at most now."""
    return max((min(at, now) for at in times if at is not None and at <= now + SKEW_S), default=None)


def _learned(runs: Sequence[Run]) -> int:
    """Records that the store held when the last cycle began that ended well."""
    return next((run.records for run in runs if run.exit_code is not None and not run.failed), 0)


def _existing(path: Path) -> Path:
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def _limit(pid: int, niceness: int, memory_bytes: int) -> None:
    """Before it has begun to learn; its own children have the same."""
    try:
        os.setpriority(os.PRIO_PROCESS, pid, niceness)
        if memory_bytes and hasattr(resource, "prlimit"):  # Linux
            resource.prlimit(pid, resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    except ProcessLookupError:  # it has ended already
        return


def _end(child: "subprocess.Popen[str]") -> None:
    """Ask it to end as Ctrl-C does, then insist."""
    child.send_signal(signal.SIGINT)
    try:
        child.wait(END_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
