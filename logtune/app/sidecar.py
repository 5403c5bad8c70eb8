"""A child process beside serving, for as long as that runs: niced, started again when it dies, ended with its parent.

command -> Sidecar.start -> the child; it reads the end of its standard input as the word to end

Whatever happens to it, serving goes on. It is started again ever later; one that lived long is started again at once.
"""

import logging
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

LOG = logging.getLogger(__name__)
NICE = 10
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 300.0
END_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What the child does."""

    what: str  # for people, as "what leads live tests"
    command: Sequence[str]
    environment: Mapping[str, str] | None = None  # beside this process's own
    end_s: float = END_S  # for it to end in order, before it is killed
    niceness: int = NICE


class Sidecar:
    """Keeps one child running as long as it is open."""

    def __init__(self, task: Task, first_pause_s: float = FIRST_PAUSE_S) -> None:
        self._task = task
        self._first_pause_s = first_pause_s
        self._over = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="sidecar", daemon=True)

    def start(self) -> None:
        """Start the child."""
        self._thread.start()

    def close(self) -> None:
        """End it in order, or kill it."""
        self._over.set()
        child = self._child
        if child is not None and child.stdin is not None:
            with suppress(OSError):  # it has just died
                child.stdin.close()
            try:
                child.wait(self._task.end_s)
            except subprocess.TimeoutExpired:
                child.kill()
        self._thread.join(END_S)

    def _run(self) -> None:
        pause_s = self._first_pause_s
        while not self._over.is_set():
            began = time.monotonic()
            why = self._once()
            if self._over.is_set():
                return
            if time.monotonic() - began > LONGEST_PAUSE_S:
                pause_s = self._first_pause_s
            LOG.error("%s %s and is started again in %g s", self._task.what, why, pause_s)
            self._over.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _once(self) -> str:
        """How a child ended."""
        environment = {**os.environ, **(self._task.environment or {})}
        try:
            child = subprocess.Popen(
                self._task.command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment,
                preexec_fn=partial(os.nice, self._task.niceness),
            )  # fmt: skip
        except OSError as error:
            return f"does not start: {error}"
        assert child.stdin is not None
        self._child = child
        if self._over.is_set():  # closed while it was starting
            child.stdin.close()
        try:
            return f"ended with code {child.wait()}"
        finally:
            with suppress(OSError):
                child.stdin.close()


@contextmanager
def running(task: Task | None) -> Iterator[None]:
    """The child beside what is done meanwhile; None: nothing."""
    if task is None:
        yield
        return
    sidecar = Sidecar(task)
    sidecar.start()
    try:
        yield
    finally:
        sidecar.close()
