"""Several server processes on one port: a parent that starts them, starts them again when they die, and ends them.

work, count -> Workers.run -> exit code        SIGTERM, SIGINT: all end in order; again: at once        SIGHUP: to all

The parent only waits: it holds no store, no model and no thread of ours, so that a fork of it is clean at any time.
Workers take connections from one socket, so that what a dying one had not taken is taken by another.
"""

import json
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

from logtune.app.logs import event
from logtune.errors import KNOWN_ERROR, OK, LogtuneError
from logtune.records import Json

LOG = logging.getLogger(__name__)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
HEALTHY_S = 10.0  # a worker that lived as long is started again at once
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0  # before one that did not; doubled each time
EXTRA_S = 15.0  # beside the workers' own time to end, before they are killed


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker needs of its parent."""

    slot: int  # 0 .. count - 1
    parent: int | None  # file descriptor that ends when the parent does; None: there is none
    ready: Callable[[Mapping[str, Json]], None]  # tell the parent that requests are taken, and what is worth telling


@dataclass(slots=True)
class _Slot:
    pid: int = 0  # 0: none runs
    began: float = 0.0
    due: float = 0.0  # when the next one is to be started
    pause_s: float = 0.0


@dataclass(kw_only=True)
class Workers:
    """`count` processes that each run `work`; `sockets` are theirs, and the parent's until they are told to end."""

    work: Callable[[Task], None]
    count: int
    sockets: Sequence[socket.socket]
    ready: Callable[[Mapping[str, Json]], None]  # told once, by the first worker that is
    died: Callable[[int], None] = lambda pid: None  # clean up behind a process
    end_s: float = 30.0  # how long the workers may take to end
    _slots: list[_Slot] = field(default_factory=list)
    _stopping: signal.Signals | None = None
    _told: bool = False
    _code: int = OK
    _deadline: float = float("inf")

    def run(self) -> int:
        """Serve until a signal; the exit code."""
        self._slots = [_Slot() for _ in range(self.count)]
        alive, living = os.pipe()  # the workers read `alive`, which ends with this process
        heard, telling = os.pipe()
        woken, waking = socket.socketpair()
        for end in (woken, waking):
            end.setblocking(False)
        before = {number: signal.signal(number, _noted) for number in SIGNALS}
        wakeup = signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(woken, selectors.EVENT_READ)
                selector.register(heard, selectors.EVENT_READ)
                private = (living, heard, woken.fileno(), waking.fileno())
                while not self._done():
                    self._start_due(alive, telling, private)
                    for key, _ in selector.select(self._patience()):
                        if key.fileobj is woken:
                            self._signalled(woken.recv(4096))
                        else:
                            self._hear(os.read(heard, 65536))
                    self._reap()
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            for pipe in (alive, living, heard, telling):
                os.close(pipe)
            woken.close()
            waking.close()
        return self._code

    # what there is to wait for

    def _done(self) -> bool:
        return self._stopping is not None and not any(slot.pid for slot in self._slots)

    def _patience(self) -> float | None:
        moments = [slot.due for slot in self._slots if not slot.pid] if self._stopping is None else [self._deadline]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _start_due(self, alive: int, telling: int, private: Sequence[int]) -> None:
        if self._stopping is not None:
            if time.monotonic() >= self._deadline:
                LOG.error("workers did not end within %g s and are killed", self.end_s)
                self._send(signal.SIGKILL)
                self._deadline = float("inf")
            return
        for number, slot in enumerate(self._slots):
            if not slot.pid and time.monotonic() >= slot.due:
                slot.pid, slot.began = self._fork(number, alive, telling, private), time.monotonic()

    def _signalled(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGHUP and self._stopping is None:
                self._send(signal.SIGHUP)
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._stop(signal.Signals(number))

    def _stop(self, number: signal.Signals) -> None:
        if self._stopping is None:
            event(LOG, "stopping workers", signal=number.name)
            self._stopping, self._deadline = number, time.monotonic() + self.end_s + EXTRA_S
            for listening in self.sockets:  # else connections would wait here for nobody
                listening.close()
            self._send(signal.SIGTERM)
        else:
            self._code = 128 + number
            self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        for slot in self._slots:
            if slot.pid:
                os.kill(slot.pid, number)

    def _hear(self, said: bytes) -> None:
        lines = said.splitlines()
        if lines and not self._told:
            self._told = True
            self.ready(json.loads(lines[0]))

    def _reap(self) -> None:
        for slot in [slot for slot in self._slots if slot.pid]:
            pid, status = os.waitpid(slot.pid, os.WNOHANG)
            if pid:
                slot.pid = 0
                self.died(pid)
                self._ended(slot, pid, os.waitstatus_to_exitcode(status))

    def _ended(self, slot: _Slot, pid: int, code: int) -> None:
        if self._stopping is not None:
            ended = code in (OK, -signal.SIGTERM)  # the latter where it had not begun to serve
            self._code = self._code or (OK if ended else KNOWN_ERROR)
        elif not self._told:  # the first ones fail as the next ones would
            self._code = code if code > 0 else KNOWN_ERROR
            self._stop(signal.SIGTERM)
        else:
            healthy = time.monotonic() - slot.began >= HEALTHY_S
            slot.pause_s = 0.0 if healthy else min(max(2 * slot.pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            slot.due = time.monotonic() + slot.pause_s
            fields = {"pid": pid, "code": code, "again_in_s": slot.pause_s}
            LOG.error("a worker died and is started again", extra={"fields": fields})

    # a worker

    def _fork(self, number: int, alive: int, telling: int, private: Sequence[int]) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            return pid
        code = KNOWN_ERROR
        try:
            signal.set_wakeup_fd(-1)
            for other in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(other, signal.SIG_DFL)
            for other in (signal.SIGINT, signal.SIGHUP):  # Ctrl-C reaches the whole group, and the parent passes it on
                signal.signal(other, signal.SIG_IGN)
            for end in private:
                os.close(end)
            self.work(Task(number, alive, lambda facts: _tell(telling, facts)))
            code = OK
        except LogtuneError as error:
            code = error.exit_code
            LOG.error("%s", error.what, extra={"fields": {"hint": error.hint}})
        except BaseException:
            LOG.exception("a worker failed")
        finally:
            logging.shutdown()
            sys.stdout.flush()
            os._exit(code)


def _noted(number: int, frame: FrameType | None) -> None:
    """The wake-up file descriptor tells; a handler has to be there for it to."""


def _tell(telling: int, facts: Mapping[str, Json]) -> None:
    os.write(telling, json.dumps(facts).encode() + b"\n")
