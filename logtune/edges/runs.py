"""What the scheduler has started: each run of a cycle with how it ended, and what the store held then.

Runs.begin -> Runs.end        Runs.recent -> Run*, newest first        course -> how cycles have gone lately
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from math import inf

from sqlalchemy import select

from logtune.edges import schema
from logtune.edges.lease import CYCLE, Lease
from logtune.edges.store import CycleRow, Store
from logtune.ids import new_id

LATELY = 5  # cycles
MOST = 500  # runs that are looked through
SKEW_S = 120.0  # that clocks of two machines may differ by; times further ahead are of one that was wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One cycle that the schedule began."""

    id: str
    began_at: float  # seconds since 1970
    records: int  # log records and feedback in the store at its begin
    ended_at: float | None = None  # None: it runs, or its scheduler died
    exit_code: int | None = None  # None with an end: it was stopped together with its scheduler
    detail: str = ""  # its last words

    @property
    def failed(self) -> bool:
        """Whether it ended in an error; a gate that was not passed is none."""
        return self.exit_code not in (None, 0, 3)

    @property
    def unfinished(self) -> bool:
        """Whether it did not end well: what it had begun waits to be continued."""
        return self.exit_code is None or self.failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How cycles have gone lately."""

    succeeded_at: float | None = None  # end of the newest that ended well, however it was begun
    failures: int = 0  # runs of the schedule that have failed in a row since then


class Runs:
    """The runs in a store; StoreError as the store raises it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def begin(self, at: float, records: int) -> Run:
        """A run that begins."""
        run = Run(id=f"run-{new_id()}", began_at=at, records=records)
        with self._store.transaction(write=True) as db:
            db.execute(schema.runs.insert(), asdict(run))
        return run

    def end(self, run: Run, at: float, exit_code: int | None, detail: str) -> None:
        """How a run ended."""
        change = schema.runs.update().where(schema.runs.c.id == run.id)
        with self._store.transaction(write=True) as db:
            db.execute(change.values(ended_at=at, exit_code=exit_code, detail=detail))

    def recent(self, limit: int = 20, *, until: float = inf) -> list[Run]:
        """The newest runs, of those that began by a time."""
        table = schema.runs
        query = select(table).order_by(table.c.began_at.desc(), table.c.id.desc()).limit(limit)
        with self._store.transaction() as db:
            rows = db.execute(query if until == inf else query.where(table.c.began_at <= until))
            return [Run(**row._mapping) for row in rows]


def failures(runs: Sequence[Run], *, running: bool = False) -> int:
    """How many of the newest runs failed in a row; `running`: the newest without an end is under way.

    Of those whose scheduler ended the first one is forgiven: a machine may be switched off, and more than one in a row
    is a cycle that takes its scheduler with it.
    """
    unended = [run for run in runs if run.ended_at is None]
    known = [run for run in runs if not (running and unended and run is unended[0])]
    row = list(takewhile(lambda run: run.unfinished, known))
    died = sum(run.exit_code is None for run in row)
    return len(row) - min(died, 1)


def since(succeeded: float | None, runs: Sequence[Run]) -> list[Run]:
    """Those of the runs that a success has not made a thing of the past."""
    return [run for run in runs if (run.ended_at or run.began_at) > (succeeded or 0.0)]


def succeeded_at(cycles: Sequence[CycleRow]) -> float | None:
    """When the newest cycle ended that came to its end; one whose settings changed on the way did not."""
    ended = (row.ended_at for row in cycles if row.ended_at is not None and "exit_code" in row.receipt)
    return max(ended, default=None)


def believed(cycles: Sequence[CycleRow], now: float) -> list[CycleRow]:
    """Those of the cycles that did not end on a clock that was ahead."""
    return [row for row in cycles if (row.ended_at or now) <= now + SKEW_S]


def course(store: Store, now: float) -> Course:
    """How cycles have gone lately, from the newest few."""
    succeeded = succeeded_at(believed(store.cycles(LATELY), now))
    late = since(succeeded, Runs(store).recent(until=now + SKEW_S))
    running = bool(Lease(store, CYCLE).holder())
    return Course(succeeded_at=succeeded, failures=failures(late, running=running))


def failed_between(store: Store, begin: float, end: float) -> list[Run]:
    """Runs that began in that time and did not end well, oldest first; what is under way is none of them."""
    runs = [run for run in Runs(store).recent(MOST) if begin <= run.began_at <= end]
    running = bool(runs and runs[0].ended_at is None and Lease(store, CYCLE).holder())
    return [run for run in reversed(runs[1:] if running else runs) if run.unfinished]
