"""What the scheduler has started: each run of a cycle with how it ended, and what the store held then.

Runs.begin -> Runs.end        Runs.recent -> Run*, newest first
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from math import inf

from sqlalchemy import select

from logtune.edges import schema
from logtune.edges.store import Store
from logtune.ids import new_id


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
