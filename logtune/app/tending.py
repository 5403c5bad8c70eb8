"""What the files of a journal need beside the records' way through them: short ones, empty ones, none of the dead.

every half second: the database's log into its file, `Ahead` emptied        every half minute: spools of dead processes
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial

from logtune.app.batching import Worker
from logtune.app.logs import Seldom
from logtune.edges.ahead import Ahead
from logtune.edges.spool import Spool
from logtune.edges.store import Store
from logtune.errors import StoreError

LOG = logging.getLogger(__name__)
TEND_S, ADOPT_S = 0.5, 30.0  # between checkpoints; between looks for spools of dead processes
STUCK_S = 0.25  # after which a flush to the disk makes the event loop leave it alone


class Tending:
    """Looks after them, in the journal's threads; `adopted` is called when records of an earlier process are there."""

    def __init__(
        self, store: Store, spool: Spool, ahead: Ahead | None, threads: Mapping[str, Worker], tell: Seldom,
        adopted: Callable[[], None],
    ) -> None:  # fmt: skip
        self._store = store
        self._spool = spool
        self._ahead = ahead
        self._threads = threads
        self._tell = tell
        self._adopted = adopted
        self._flushing: float | None = None  # since when

    def disk_hangs(self) -> bool:
        """Whether a flush takes so long that a write might not return either."""
        return self._flushing is not None and time.monotonic() - self._flushing > STUCK_S

    async def begin(self) -> None:
        """Take over what there is, and open what is ours."""
        await self._adopt()
        if self._ahead is not None:
            try:
                await self._threads["spool"].ask(self._ahead.open)
            except OSError as error:
                self._tell("ahead", "answers wait for the store, since the spool folder takes no file: %s", error)

    async def run(self, stored: Callable[[], int], busy: Callable[[], bool]) -> None:
        """Go on until it is cancelled. `stored`: records so far; `busy`: a batch is under way."""
        tidied, looked_at = stored(), time.monotonic()
        while True:
            await asyncio.sleep(TEND_S)
            if stored() != tidied:
                tidied = stored()
                await self._flush()
            if not busy():
                await self._clear()
            if time.monotonic() - looked_at > ADOPT_S:
                looked_at = time.monotonic()
                await self._adopt()

    async def _flush(self) -> None:
        self._flushing = time.monotonic()
        try:
            await self._threads["tidy"].ask(self._store.checkpoint)
        except StoreError as error:
            self._tell("checkpoint", "the store's log cannot be shortened: %s", error.what)
        finally:
            self._flushing = None

    async def _clear(self) -> None:
        """Empty the file of what is stored when nothing comes any more that would do it."""
        if self._ahead is None or self._spool.held:  # what is in memory alone there may be on the disk here
            return
        self._ahead.turn()
        spent = self._ahead.spent()
        if spent is not None:
            try:
                await self._threads["tidy"].ask(partial(self._ahead.clear, spent))
            except OSError as error:
                self._tell("ahead", "what is stored stays in the spool folder for now: %s", error)

    async def _adopt(self) -> None:
        try:
            adopted = await self._threads["spool"].ask(self._spool.adopt)
        except OSError as error:
            self._tell("adopt", "the spool folder cannot be read: %s", error)
            return
        if adopted:
            LOG.info("%d records of an earlier process wait in the spool", adopted)
        if not self._spool.empty:
            self._adopted()
