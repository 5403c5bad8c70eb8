"""The way of records into the store: on disk first, then batched, off the event loop; by the spool while it is down.

LogRecord -> Journal.commit -> a file (`Ahead`) -> Kept.SPOOLED        meanwhile: -> the store, many at once
Feedback, or where there is no such file: -> the store, within `commit_wait_ms` -> Kept.STORED
                                          -> else the spool, and from there to the store in order -> Kept.SPOOLED, ...

While anything waits in the spool, what is new joins its end; one thread brings it to the store, one writes the spool.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from logtune.app.batching import Worker
from logtune.app.logs import Seldom
from logtune.app.tending import Tending
from logtune.config_gateway import ServeSettings
from logtune.edges.ahead import Ahead
from logtune.edges.intake import Entry, entry
from logtune.edges.spool import Kept, Limits, Spool
from logtune.edges.store import Store
from logtune.errors import RecordRefused, StoreError
from logtune.records import Feedback, LogRecord

__all__ = ["Journal", "Kept"]
LOG = logging.getLogger(__name__)
BATCH_RECORDS, BATCH_BYTES = 256, 8 << 20  # committed at once
PACE_S = 0.02  # from one batch to the next, while nobody waits for it
PROBE_S, SLOWEST_PROBE_S = 0.05, 5.0  # between tries of a store that is down; doubled each time
DRAIN_WAIT_S = 5.0  # for a lock, while nobody waits for the answer
CLOSE_S = 10.0  # for the store, at the end; what is not in it by then stays in the spool
TICK_S = 0.02  # records that come so close together are given up together


@dataclass(slots=True, eq=False)
class _Ticket:
    """A record that is in memory, and who waits for it."""

    entry: Entry
    size: int
    kept: "asyncio.Future[Kept]"
    due: float  # on the event loop's clock: until then the store has time
    file: int | None = None  # of `Ahead`, which has it too: nobody waits for it


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
        self._ahead = Ahead(folder) if folder is not None and settings.record_first == "disk" else None
        self._begun = 0.0  # the last batch, on the event loop's clock
        self._tell = Seldom(LOG)
        self._tending = Tending(store, self._spool, self._ahead, self._threads, self._tell, self._adopted)
        self._settled = asyncio.Event()
        self._through = 0  # records that have found their place
        self._queue: deque[_Ticket] = deque()  # for the store, or while it is down for the spool
        self._under_way: list[_Ticket] = []  # the batch that a thread has
        self._down = False  # records go to the spool
        self._joining = False  # the spool's last records are on their way; new ones wait behind them for the store
        self._bytes = 0  # of the tickets
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
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
    def rejected(self) -> int:
        """Records since the start that the store refuses for what is in them; the spool folder has them in a file."""
        return self._spool.rejected

    @property
    def refusing(self) -> bool:
        """Whether no request should begin, since its record could not be kept (spool_full = refuse)."""
        return self._limits.full == "refuse" and self._down and (self._spool.nearly_full or self._is_full())

    async def start(self) -> None:
        """Take over what earlier processes left in the spool, and look after the files from now on."""
        await self._tending.begin()
        self._tasks["tend"] = asyncio.create_task(self._tending.run(lambda: self.stored, lambda: bool(self._under_way)))

    def _adopted(self) -> None:
        if not self._down:
            self._go_down()
            self._next()

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
        if isinstance(record, LogRecord) and not (self._ahead is None or self._down or self._tending.disk_hangs()):
            self._keep_ahead(self._ahead, ticket)
        if self._timer is None:
            self._timer = loop.call_at(ticket.due, self._late)
        if not self._under_way:
            if ticket.file is None:
                loop.call_soon(self._next)  # what else arrives in this turn of the loop comes along
            elif len(self._queue) == 1:
                loop.call_at(self._begun + PACE_S, self._next)
        return ticket.kept

    def _keep_ahead(self, ahead: Ahead, ticket: _Ticket) -> None:
        ticket.file = ahead.keep(ticket.entry)
        if ticket.file is not None:
            ticket.due += PACE_S
            ticket.kept.set_result(Kept.SPOOLED)
        elif ahead.problem:
            self._tell("ahead", "answers wait for the store, since the disk takes no records: %s", ahead.problem)

    async def caught_up(self) -> None:
        """Return once the store has what is on its way now, or is down."""
        ahead = self.queued
        while ahead > 0 and self.queued and not self._down:
            before = self._through
            await self._one_batch()
            ahead -= self._through - before

    async def _one_batch(self) -> None:
        self._next()
        self._settled.clear()
        await self._settled.wait()

    async def close(self) -> None:
        """Write what is queued, then what is in the spool, within seconds; what the store does not take stays there."""
        try:
            async with asyncio.timeout(CLOSE_S):
                while self.queued:
                    await self._one_batch()
        except TimeoutError:
            LOG.warning("%d records are on their way still: neither store nor disk answers", self.queued)
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
        waited, gone = self.spooled, sum(t.file is None for t in (*self._under_way, *self._queue))
        self._dropped += gone
        try:
            if self._ahead is not None:
                waited += await asyncio.wait_for(self._threads["spool"].ask(self._ahead.close), CLOSE_S)
            lost = await asyncio.wait_for(self._threads["spool"].ask(self._spool.close), CLOSE_S)
        except TimeoutError:  # the disk hangs
            lost = self._spool.held
            self._dropped += lost
        if waited > lost:
            LOG.warning("%d records stay in the spool for the next start: %s", waited - lost, self.problem)
        if lost + gone:
            LOG.error("%d records were never stored: %s; %s", lost + gone, self.problem, self._spool.problem)

    # a record's way: queue, batch, store or spool

    def _next(self) -> None:
        """Give the next batch to the thread whose turn it is."""
        if self._under_way or self._joining or not self._queue:
            return
        batch, size = [self._queue.popleft()], 0
        while self._queue and len(batch) < BATCH_RECORDS and size < BATCH_BYTES:
            size += self._queue[0].size
            batch.append(self._queue.popleft())
        self._under_way = batch
        self._begun = asyncio.get_running_loop().time()
        thread, work = self._work(batch)

        def done(kept: Sequence[Kept]) -> None:
            if self._under_way is batch:  # else it was given up, and its records went to the spool
                self._under_way = []
                self._settle(batch, kept)
                self._go_on()

        def failed(error: Exception) -> None:
            self._failed(batch, error)

        self._threads[thread].call(work, done, failed)

    def _go_on(self) -> None:
        """The next batch: at once, or where all of it is on the disk, when it is time for one."""
        if any(not ticket.kept.done() for ticket in self._queue):
            self._next()
        elif self._queue:
            asyncio.get_running_loop().call_at(self._begun + PACE_S, self._next)

    def _work(self, batch: Sequence[_Ticket]) -> tuple[str, Callable[[], list[Kept]]]:
        """Who keeps a batch, and how; a file of `Ahead` that nobody needs any more then is emptied."""
        entries = [ticket.entry for ticket in batch]
        thread, keep = ("spool", self._spool.append) if self._down else ("store", self._commit)
        ahead = self._ahead
        if ahead is None:
            return thread, lambda: keep(entries)
        ahead.turn()
        spent = ahead.spent([ticket.file for ticket in batch])

        def work() -> list[Kept]:
            kept = keep(entries)
            if spent is not None and Kept.HELD not in kept:
                with suppress(OSError):  # `Tending` tries it again, and tells
                    ahead.clear(spent)
            return kept

        return thread, work

    def _commit(self, entries: Sequence[Entry], wait_s: float | None = None) -> list[Kept]:
        """One transaction; where a record is why it fails, the others go without it."""
        wait_s = wait_s or self._wait_s
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
            if ticket.file is not None and self._ahead is not None:
                self._ahead.settled(ticket.file)
            if not ticket.kept.done():  # its waiter was cancelled, or has waited long enough
                ticket.kept.set_result(where)
        self._through += len(batch)
        self._settled.set()
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
        waits = [t for t in (*self._under_way, *self._queue) if not (t.kept.done() and (self._down or t.file is None))]
        due = [ticket.due for ticket in waits]
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
