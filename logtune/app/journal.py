"""The way of records into the store: batched, off the event loop, and waited for; through the spool while it is down.

LogRecord, Feedback -> Journal.commit -> the store, within `commit_wait_ms` -> Kept.STORED
                                      -> else the spool, and from there to the store in order -> Kept.SPOOLED, ...

While anything waits in the spool, what is new joins its end; one thread brings it to the store, one writes the spool.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from logtune.app.batching import Worker
from logtune.config_gateway import ServeSettings
from logtune.edges.intake import Entry, entry
from logtune.edges.spool import Kept, Limits, Spool
from logtune.edges.store import Store
from logtune.errors import RecordRefused, StoreError
from logtune.records import Feedback, LogRecord

__all__ = ["Journal", "Kept"]
LOG = logging.getLogger(__name__)
BATCH_RECORDS, BATCH_BYTES = 256, 8 << 20  # committed at once
PROBE_S, SLOWEST_PROBE_S = 0.05, 5.0  # between tries of a store that is down; doubled each time
DRAIN_WAIT_S = 5.0  # for a lock, while nobody waits for the answer
CLOSE_S = 10.0  # for the store, at the end; what is not in it by then stays in the spool
TEND_S, ADOPT_S = 0.5, 30.0  # between checkpoints; between looks for spools of dead processes
TICK_S = 0.02  # records that come so close together are given up together
SAID_S = 60.0  # the same trouble is told once in this time


@dataclass(slots=True, eq=False)
class _Ticket:
    """A record that is in memory, and who waits for it."""

    entry: Entry
    size: int
    kept: "asyncio.Future[Kept]"
    due: float  # on the event loop's clock: until then the answer waits


class Journal:
    """Commits records in the order in which they came. Its methods belong to one event loop."""

    def __init__(self, store: Store, settings: ServeSettings | None = None, folder: Path | None = None) -> None:
        self._settings = settings = settings or ServeSettings()
        limits = Limits(
            disk_bytes=int(settings.spool_mb * 2**20 / settings.workers), records=settings.queue_records,
            bytes=int(settings.queue_mb * 2**20), full=settings.spool_full,
        )  # fmt: skip
        self._store = store
        self._limits = limits
        self._wait_s = settings.commit_wait_ms / 1000
        self._spool = Spool(folder, limits)
        self._threads = {name: Worker(f"journal-{name}") for name in ("store", "spool", "tidy")}
        self._queue: deque[_Ticket] = deque()  # for the store, or while it is down for the spool
        self._under_way: list[_Ticket] = []  # the batch that a thread has
        self._down = False  # records go to the spool
        self._joining = False  # the spool's last records are on their way; new ones wait behind them for the store
        self._bytes = 0  # of the tickets
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._said: dict[str, float] = {}
        self._dropped = 0
        self.stored = 0  # records since the start, sent twice counted once
        self.problem = ""  # what the store said last; "": it works

    @property
    def queued(self) -> int:
        """Records in memory, on their way to the store or to the spool."""
        return len(self._queue) + len(self._under_way)

    @property
    def spooled(self) -> int:
        """Records that wait in the spool."""
        return self._spool.records

    @property
    def spool_bytes(self) -> int:
        """Bytes of the spool on disk."""
        return self._spool.bytes

    @property
    def waiting(self) -> int:
        """Records that are not in the store yet."""
        return self.queued + self.spooled

    @property
    def dropped(self) -> int:
        """Records lost since the start, because neither store nor spool could take them."""
        return self._dropped + self._spool.dropped

    @property
    def lost(self) -> int:
        """The same as `dropped`."""
        return self.dropped

    @property
    def rejected(self) -> int:
        """Records since the start that the store refuses for what is in them; the spool folder has them in a file."""
        return self._spool.rejected

    @property
    def refusing(self) -> bool:
        """Whether no request should begin, since its record could not be kept (spool_full = refuse)."""
        return self._limits.full == "refuse" and self._down and (self._spool.nearly_full or self._is_full())

    async def start(self) -> None:
        """Take over what earlier processes left in the spool, and look after the files from now on."""
        await self._adopt()
        self._tasks["tend"] = asyncio.create_task(self._tend())

    def commit(self, record: LogRecord | Feedback, request: str | None = None) -> "asyncio.Future[Kept]":
        """Keep a record; the future says where it is, as soon as it is safe there or can be nowhere better.

        `request`: that of a log record as JSON, where it was encoded before.
        """
        loop = asyncio.get_running_loop()
        made = entry(record, request)
        ticket = _Ticket(made, made.size, loop.create_future(), loop.time() + self._wait_s)
        if not self._down and self._is_full():
            self._fall("the store is slow: the queue is full")
        if self._is_full():
            self._drop(ticket)
            return ticket.kept
        self._queue.append(ticket)
        self._bytes += ticket.size
        if self._timer is None:
            self._timer = loop.call_at(ticket.due, self._late)
        if not self._under_way and len(self._queue) == 1:
            loop.call_soon(self._next)  # what else arrives in this turn of the loop comes along
        return ticket.kept

    async def close(self) -> None:
        """Write what is queued, then what is in the spool, within seconds; what the store does not take stays there."""
        while any(not ticket.kept.done() for ticket in (*self._under_way, *self._queue)):
            await asyncio.wait([ticket.kept for ticket in (*self._under_way, *self._queue)], timeout=2 * self._wait_s)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        try:
            await asyncio.wait_for(self._empty(), CLOSE_S)
        except TimeoutError:
            self.problem = self.problem or "the store is slow"
        await self._close_spool()
        for thread in self._threads.values():
            thread.stop()

    async def _close_spool(self) -> None:
        waited, self._dropped = self.spooled, self._dropped + self.queued
        try:
            lost = await asyncio.wait_for(self._threads["spool"].ask(self._spool.close), CLOSE_S)
        except TimeoutError:  # the disk hangs
            lost = self._spool.held
            self._dropped += lost
        if waited > lost:
            LOG.warning("%d records stay in the spool for the next start: %s", waited - lost, self.problem)
        if lost + self.queued:
            LOG.error("%d records were never stored: %s; %s", lost + self.queued, self.problem, self._spool.problem)

    # a record's way: queue, batch, store or spool

    def _next(self) -> None:
        """Give the next batch to the thread whose turn it is."""
        if self._under_way or self._joining or not self._queue:
            return
        batch, size = [self._queue.popleft()], 0
        while self._queue and len(batch) < BATCH_RECORDS and size < BATCH_BYTES:
            size += self._queue[0].size
            batch.append(self._queue.popleft())
        entries = [ticket.entry for ticket in batch]
        self._under_way = batch
        thread, work = ("spool", self._spool.append) if self._down else ("store", self._put)

        def done(kept: Sequence[Kept]) -> None:
            if self._under_way is batch:  # else it was given up, and its records went to the spool
                self._under_way = []
                self._settle(batch, kept)
                self._next()

        def failed(error: Exception) -> None:
            self._failed(batch, error)

        self._threads[thread].call(lambda: work(entries), done, failed)

    def _put(self, entries: Sequence[Entry]) -> list[Kept]:
        return self._commit(entries, self._wait_s)

    def _commit(self, entries: Sequence[Entry], wait_s: float) -> list[Kept]:
        """One transaction; where a record is why it fails, the others go without it."""
        try:
            self.stored += self._store.put(entries, wait_s)
        except RecordRefused as error:
            if len(entries) < 2:
                self._tell(
                    "rejected", "the store refuses a record, which lies in the spool's rejected.jsonl: %s", error
                )
                return [self._spool.reject(item, error.what) for item in entries]
            half = len(entries) // 2
            return self._commit(entries[:half], wait_s) + self._commit(entries[half:], wait_s)
        return [Kept.STORED] * len(entries)

    def _settle(self, batch: Sequence[_Ticket], kept: Sequence[Kept]) -> None:
        for ticket, where in zip(batch, kept, strict=True):
            self._bytes -= ticket.size
            if not ticket.kept.done():  # its waiter was cancelled, or has waited long enough
                ticket.kept.set_result(where)
        if self._spool.problem:
            self._tell("disk", "the spool cannot be written, records wait in memory: %s", self._spool.problem)
        if Kept.DROPPED in kept:
            self._tell("dropped", "the spool is full: %d records were dropped so far", self.dropped)

    def _failed(self, batch: list[_Ticket], error: Exception) -> None:
        if not isinstance(error, StoreError):
            LOG.error("the journal failed", exc_info=error)
        if self._under_way is not batch:
            return
        if not self._down:
            self._fall(str(getattr(error, "what", error)))
            return
        self._under_way = []
        self._dropped += len(batch)
        self._settle(batch, [Kept.DROPPED] * len(batch))
        self._next()

    def _drop(self, ticket: _Ticket) -> None:
        self._dropped += 1
        ticket.kept.set_result(Kept.DROPPED)
        self._tell("dropped", "the queue is full: %d records were dropped so far", self.dropped)

    def _is_full(self) -> bool:
        # Where the oldest give way, the spool makes room in its own part of the memory.
        held, held_bytes = (0, 0) if self._limits.full == "drop_old" else (self._spool.held, self._spool.held_bytes)
        return self.queued + held >= self._limits.records or self._bytes + held_bytes >= self._limits.bytes

    def _late(self) -> None:
        """The oldest record's time is over: the store is given up, or where it is down already, the answer goes on."""
        loop = asyncio.get_running_loop()
        self._timer, now = None, loop.time()
        overdue = [ticket for ticket in (*self._under_way, *self._queue) if ticket.due <= now]
        if overdue and (self._joining or not self._down):
            self._fall(f"no commit within {self._settings.commit_wait_ms:g} ms")
        else:
            for ticket in overdue:  # they stay on their way to the disk
                if not ticket.kept.done():
                    ticket.kept.set_result(Kept.HELD)
        due = [ticket.due for ticket in (*self._under_way, *self._queue) if not ticket.kept.done()]
        if due:
            self._timer = loop.call_at(max(min(due), now + TICK_S), self._late)

    def _fall(self, problem: str) -> None:
        """The store is down: what waits for it goes to the spool, in order."""
        self.problem = problem
        self._tell("down", "the store is down, records go to the spool: %s", problem)
        due = asyncio.get_running_loop().time() + self._wait_s
        self._go_down()
        for ticket in self._queue:
            ticket.due = due
        self._next()

    # from the spool to the store

    def _go_down(self) -> None:
        if not self._down:  # a thread may commit those under way yet: twice is as good as once
            self._queue.extendleft(reversed(self._under_way))
            self._under_way = []
        self._down, self._joining = True, False
        draining = self._tasks.get("drain")
        if draining is None or draining.done():
            self._tasks["drain"] = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        """Try the store until it works and the spool is empty; then records go to the store again."""
        pause_s = PROBE_S
        while self._down:
            if not await self._move():
                if self._joining:
                    self._fall(self.problem)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, SLOWEST_PROBE_S)
                continue
            pause_s = PROBE_S
            if not self._joining and self._spool.records <= BATCH_RECORDS:
                await self._join()
            if self._joining and self._spool.empty:
                self._down = self._joining = False
                LOG.info("the store works again, and all that had waited is in it")
                self._next()

    async def _join(self) -> None:
        """Let new records wait for the store; those before them are in the spool when this returns."""
        self._joining = True
        while self._under_way and self._joining:
            await self._threads["spool"].ask(lambda: None)
            await asyncio.sleep(0)

    async def _move(self) -> bool:
        """Bring the spool's oldest records to the store, or try whether it takes any; False: it fails."""
        try:
            await self._threads["store"].ask(self._move_chunk)
        except StoreError as error:
            self.problem = error.what
            return False
        except Exception as error:
            LOG.exception("the spool could not be emptied")
            self.problem = f"{type(error).__name__}: {error}"
            return False
        self.problem = ""
        return True

    def _move_chunk(self) -> None:
        chunk = self._spool.chunk()
        wait_s = max(self._wait_s, DRAIN_WAIT_S)
        if chunk is None:
            self._store.put([], wait_s)
        else:
            self._commit(chunk.entries, wait_s)
            self._spool.done(chunk)

    async def _empty(self) -> None:
        """Bring everything to the store that it takes."""
        while not self._spool.empty and await self._move():
            pass

    # what else there is to do

    async def _tend(self) -> None:
        """Keep the database's log short, and take over the spools of processes that have died."""
        tidied, looked_at = self.stored, time.monotonic()
        while True:
            await asyncio.sleep(TEND_S)
            if self.stored != tidied:
                tidied = self.stored
                try:
                    await self._threads["tidy"].ask(self._store.checkpoint)
                except StoreError as error:
                    self._tell("checkpoint", "the store's log cannot be shortened: %s", error.what)
            if time.monotonic() - looked_at > ADOPT_S:
                looked_at = time.monotonic()
                await self._adopt()

    async def _adopt(self) -> None:
        try:
            adopted = await self._threads["spool"].ask(self._spool.adopt)
        except OSError as error:
            self._tell("adopt", "the spool folder cannot be read: %s", error)
            return
        if adopted:
            LOG.info("%d records of an earlier process wait in the spool", adopted)
        if not self._spool.empty and not self._down:
            self._go_down()
            self._next()

    def _tell(self, what: str, message: str, *values: object) -> None:
        """Log trouble, the same at most once a minute."""
        now = time.monotonic()
        if now >= self._said.get(what, 0.0):
            self._said[what] = now + SAID_S
            LOG.error(message, *values)
