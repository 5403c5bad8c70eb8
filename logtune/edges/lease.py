"""A lease in the store: one process at a time does a thing, and a process that dies gives it up by itself.

On the same machine another takes it over at once, elsewhere when the time is over.

name -> Lease.held: taken, renewed from a thread, given back        Lease.holder: who has it
"""

import logging
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from sqlalchemy import select

from logtune.edges import schema
from logtune.edges.database import insert_new
from logtune.edges.store import Store
from logtune.errors import InUse, StoreError
from logtune.ids import digest

LOG = logging.getLogger(__name__)
CYCLE = "cycle"  # name of the right to run a cycle
HELD_S = 120.0  # without a renewal; then another may have it
AHEAD_S = 3600.0  # an end further ahead than that was written by a clock that was wrong


class Lease:
    """The right to do what `name` says. `clock` gives seconds since 1970, which all machines agree on."""

    def __init__(
        self, store: Store, name: str, held_s: float = HELD_S, clock: Callable[[], float] = time.time
    ) -> None:  # fmt: skip
        self._store = store
        self._name = name
        self._held_s = held_s
        self._clock = clock
        self.me = f"process {os.getpid()} on {socket.gethostname()} ({_here()}-{secrets.token_hex(4)})"

    def take(self) -> bool:
        """Have it, or go on having it; False: another has it."""
        table, now = schema.leases, self._clock()
        with self._store.transaction(write=True) as db:
            held = str(db.execute(select(table.c.holder).where(table.c.name == self._name)).scalar() or "")
            over = (table.c.until < now) | (table.c.until > now + self._held_s + AHEAD_S)
            free = over | (table.c.holder == self.me)
            free = free | (table.c.holder == held) if _died(held) else free
            change = table.update().where(table.c.name == self._name, free)
            if db.execute(change.values(holder=self.me, until=now + self._held_s)).rowcount:
                return True
            row = {"name": self._name, "holder": self.me, "until": now + self._held_s}
            return bool(insert_new(db, table, [row]))

    def renew(self) -> bool:
        """Go on having it; False: another has had it meanwhile, even where that one has given it back."""
        table, until = schema.leases, self._clock() + self._held_s
        mine = table.update().where(table.c.name == self._name, table.c.holder == self.me)
        with self._store.transaction(write=True) as db:
            return bool(db.execute(mine.values(until=until)).rowcount)

    def check(self) -> None:
        """Before what must be done once: renew it; InUse where another has had it meanwhile."""
        if not self.renew():
            what = f"{self._name} was taken over by {self.holder() or 'another process'} while this one stood still"
            raise InUse(what, "what was done is kept; nothing more is done here")

    def release(self) -> None:
        """Give it back; nothing where another has it."""
        table = schema.leases
        with self._store.transaction(write=True) as db:
            db.execute(table.delete().where(table.c.name == self._name, table.c.holder == self.me))

    def holder(self) -> str:
        """Who has it now; "": nobody."""
        table, now = schema.leases, self._clock()
        valid = table.c.until.between(now, now + self._held_s + AHEAD_S)
        query = select(table.c.holder).where(table.c.name == self._name, valid)
        with self._store.transaction() as db:
            found = str(db.execute(query).scalar() or "")
        return "" if _died(found) else found

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have it within `with`; InUse names who has it."""
        if not self.take():
            what = f"{self._name} is under way: {self.holder() or 'another process'} has begun it"
            raise InUse(what, f"wait for its end; should it have died, its right ends within {self._held_s:g} s")
        ended = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(ended,), name=f"lease-{self._name}", daemon=True)
        renewing.start()
        try:
            yield
        finally:
            ended.set()
            renewing.join()
            self.release()

    def _renew(self, ended: threading.Event) -> None:
        while not ended.wait(self._held_s / 4):
            try:
                if not self.renew():
                    LOG.error("another process took over %s; this one ends at its next step", self._name)
                    return
            except StoreError as error:  # there are three more tries before it ends
                LOG.warning("the lease of %s could not be renewed: %s", self._name, error)


@cache
def _here() -> str:
    """Where numbers of processes mean the same: this boot of this machine, in this container; "": not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        return digest([boot, Path("/proc/self/ns/pid").stat().st_ino], 8)
    except OSError:
        return ""


def _died(holder: str) -> bool:
    """Whether a holder was a process of this machine that is no more."""
    found = re.fullmatch(r"process (\d+) on .* \((\w*)-\w+\)", holder)
    if not found or not found[2] or found[2] != _here():
        return False
    with suppress(PermissionError):
        try:
            os.kill(int(found[1]), 0)
        except ProcessLookupError:
            return True
    return False
