"""The way of records into the store: batched, off the event loop, and waited for.

LogRecord, Feedback -> Journal.commit -> one transaction for all that arrived meanwhile -> True: it is on disk

When the store fails, records wait in memory up to a limit and go in with the next batch that works; serving goes on.
"""

import logging
from collections import deque
from collections.abc import Sequence

from logtune.app.batching import Batcher
from logtune.edges.store import Store
from logtune.errors import StoreError
from logtune.records import Feedback, LogRecord

LOG = logging.getLogger(__name__)
CAPACITY = 10_000  # records that wait for a failing store


class Journal:
    """Commits records in the order in which they came."""

    def __init__(self, store: Store, capacity: int = CAPACITY) -> None:
        self._store = store
        self._capacity = capacity
        self._waiting: deque[LogRecord | Feedback] = deque()
        self._batches: Batcher[LogRecord | Feedback, bool] = Batcher("journal", self._write)
        self.lost = 0  # records dropped because the store failed for too long
        self.problem = ""  # what the store said last; "" when it works

    async def commit(self, record: LogRecord | Feedback) -> bool:
        """Wait until the record is committed; False when the store failed and the record waits in memory."""
        return await self._batches.submit(record)

    async def close(self) -> None:
        """Write what is queued, and what was waiting for the store."""
        await self._batches.close()
        if self._waiting and not self._try(()):
            self.lost += len(self._waiting)
            LOG.error("%d records were never stored: %s", len(self._waiting), self.problem)

    @property
    def waiting(self) -> int:
        """Records that wait for the store."""
        return len(self._waiting)

    def _write(self, records: Sequence[LogRecord | Feedback]) -> list[bool]:
        if not self._try(records):
            self._keep(records)
            return [False] * len(records)
        return [True] * len(records)

    def _try(self, records: Sequence[LogRecord | Feedback]) -> bool:
        every = [*self._waiting, *records]
        try:
            self._store.add_logs([record for record in every if isinstance(record, LogRecord)])
            self._store.put_feedback([record for record in every if isinstance(record, Feedback)])
        except StoreError as error:
            self.problem = error.what
            return False
        if self.problem:
            LOG.warning("the store works again; %d records that had waited are stored", len(self._waiting))
        self.problem = ""
        self._waiting.clear()
        return True

    def _keep(self, records: Sequence[LogRecord | Feedback]) -> None:
        LOG.error("the store failed, %d records wait: %s", len(self._waiting) + len(records), self.problem)
        self._waiting.extend(records)
        while len(self._waiting) > self._capacity:
            self._waiting.popleft()
            self.lost += 1
