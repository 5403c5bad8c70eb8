"""In place of a store that cannot be opened: everything fails with the reason, so records wait in the spool.

The gateway runs with it under the kill switch alone, when answers matter more than what they rest on.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager

from sqlalchemy import Connection

from logtune.edges.database import BUSY_S
from logtune.edges.intake import Entry
from logtune.edges.store import Store
from logtune.errors import StoreError


class NoStore(Store):
    """Raises StoreError, the same for whatever is asked."""

    def __init__(self, error: StoreError) -> None:  # nothing is opened
        self._error = error

    def close(self) -> None:
        """There is nothing to close."""

    def put(self, entries: Sequence[Entry], wait_s: float = BUSY_S) -> int:
        """Fails."""
        raise self._again()

    def checkpoint(self) -> None:
        """Fails."""
        raise self._again()

    def transaction(self, *, write: bool = False) -> AbstractContextManager[Connection]:
        """Fails."""
        raise self._again()

    def _again(self) -> StoreError:
        return StoreError(self._error.what, self._error.hint)
