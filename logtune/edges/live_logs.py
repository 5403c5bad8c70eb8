"""Log records and feedback as they come in, for who looks again and again: each look reads what is new since the last.

Store, since, now -> LiveLogs.read -> LogRecord*, Feedback* since then, by time

A record's time is that of its request, and it is committed when its answer has ended, or later where it waited on disk.
So each look reads an hour again, and now and then one reads everything.
"""

from collections.abc import Sequence

from logtune.edges.store import Store
from logtune.records import Feedback, LogRecord

OVERLAP_S = 3600.0  # read again at each look: answers take minutes at most
ALL_S = 6 * 3600.0  # from one reading of everything to the next: what waited on disk longer is found then


class LiveLogs:
    """What was read of one store so far."""

    def __init__(self) -> None:
        self._logs: dict[str, LogRecord] = {}
        self._feedback: dict[str, Feedback] = {}
        self._since: float | None = None  # from when on logs are known
        self._whole_at = 0.0  # when everything was read last

    def read(self, store: Store, since: float, now: float) -> tuple[Sequence[LogRecord], Sequence[Feedback]]:
        """All log records since a moment, those that nobody saw too, and all feedback; by time, then id."""
        whole = self._since is None or since < self._since or not 0 <= now - self._whole_at < ALL_S
        if whole:
            self._logs, self._feedback, self._since, self._whole_at = {}, {}, since, now
        logs_from = max(since, _newest(self._logs) - OVERLAP_S) if not whole else since
        feedback_from = None if whole else _newest(self._feedback) - OVERLAP_S
        self._logs.update((log.id, log) for log in store.logs(logs_from, shadow=True))
        self._feedback.update((item.id, item) for item in store.feedback(feedback_from))
        logs = (log for log in self._logs.values() if log.at >= since)
        return sorted(logs, key=_place), sorted(self._feedback.values(), key=_place)


def _newest(found: "dict[str, LogRecord] | dict[str, Feedback]") -> float:
    return max((item.at for item in found.values()), default=0.0)


def _place(item: LogRecord | Feedback) -> tuple[float, str]:
    return item.at, item.id
