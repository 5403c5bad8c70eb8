"""Where a record lies between the end of its answer and its place in the store: a file that is written at once.

Entry -> Ahead.keep -> on the disk, should the process be killed        stored -> Ahead.settled -> Ahead.clear

Two files take turns: what lies in one goes to the store, or to the spool, while the other takes what comes. Both are
segments of the spool folder with an owner of their own, so the next process adopts what it finds in them.
"""

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from logtune.edges.intake import Entry
from logtune.edges.spool_files import Owner, append_whole, frame

LARGEST = 64 << 10  # bytes of a record: a longer one would hold up the event loop, which has time to wait for the store
MOST = 16 << 20  # bytes of a file: the store is slow, and what comes waits for it as it would without this
SLOW_S, PAUSE_S = 0.05, 5.0  # a disk that takes so long for one record is left alone for a while


class Ahead:
    """Two files of one event loop; `open`, `clear` and `close` block and belong into a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._owner: Owner | None = None
        self._files: list[int] = []  # descriptors; empty: not open
        self._sizes = [0, 0]
        self._lying = [0, 0]  # records of a file that are neither in the store nor in the spool
        self._taking = 0  # the file that takes what comes
        self._not_before = 0.0
        self._closing = threading.Lock()  # a descriptor that is emptied must not be closed, and another's, by then
        self.problem = ""  # what the disk said last; "": it works

    def open(self) -> None:
        """Make both files. Raises OSError."""
        self._owner = Owner.new(self._folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._files = [os.open(self._owner.path(number), flags, 0o600) for number in range(2)]

    def keep(self, item: Entry) -> int | None:
        """The file that has the record now; None: it takes none, and the store has to be waited for."""
        number, began = self._taking, time.monotonic()
        if not self._files or item.size > LARGEST or self._sizes[number] > MOST or began < self._not_before:
            return None
        line = frame(item)
        try:
            append_whole(self._files[number], line, self._sizes[number])
        except OSError as error:
            self.problem, self._not_before = str(error), began + PAUSE_S
            return None
        if time.monotonic() - began > SLOW_S:
            self._not_before = began + PAUSE_S
        self.problem = ""
        self._sizes[number] += len(line)
        self._lying[number] += 1
        return number

    def turn(self) -> None:
        """Let the other file take what comes, if this one holds anything and the other nothing."""
        if self._sizes[self._taking] and not self._sizes[1 - self._taking]:
            self._taking = 1 - self._taking

    def spent(self, numbers: Sequence[int | None] = ()) -> int | None:
        """The file that takes nothing now, if it is needed by these records alone; given none, by nobody."""
        resting = 1 - self._taking
        return resting if self._sizes[resting] and numbers.count(resting) == self._lying[resting] else None

    def settled(self, number: int) -> None:
        """A record of that file has found its place."""
        self._lying[number] -= 1

    def clear(self, number: int) -> None:
        """Empty a file that is `spent`. Raises OSError."""
        with self._closing:
            if self._files:
                os.ftruncate(self._files[number], 0)
                self._sizes[number] = 0

    def close(self) -> int:
        """Delete what nobody needs; the number of records that stay for the next process."""
        if self._owner is None:
            return 0
        with self._closing:
            for descriptor in self._files:
                os.close(descriptor)
            self._files = []
        for number in range(2):
            if not self._lying[number]:
                self._owner.path(number).unlink(missing_ok=True)
        self._owner.release(done=not any(self._lying))
        self._owner = None
        return sum(self._lying)
