"""Where records are kept: SQLite (WAL) or PostgreSQL, through SQLAlchemy Core.

What came in (logs, feedback, rejected lines), what was derived from it with its lineage, which units of work are done,
and what is live. Every public method is one transaction; a committed record survives the process being killed.
Several threads and processes may read and write at the same time.
"""

import builtins
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

from sqlalchemy import ColumnElement, Connection, Table, func, or_, select, tuple_

from logtune.edges import schema
from logtune.edges.database import BUSY_S, connect, insert_new, insert_or_replace, pairs_in, parts, transaction
from logtune.edges.intake import Entry, Intake
from logtune.edges.migrations import migrate
from logtune.edges.schema import GIVEN, TABLES, R, decode, encode, parents_of, to_json
from logtune.errors import StoreError
from logtune.ids import also_known_as
from logtune.records import SHADOW, Deployment, Derived, Feedback, Json, LogRecord, Record

TargetKind: TypeAlias = Literal["record", "session", "user"]
Origin: TypeAlias = tuple[str, str, float]  # cycle, hash of its settings, time
UNIT_COLUMNS = tuple(schema.units.c.keys())
CHUNK = 200  # rows held at once while streaming


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitResult:
    """A finished unit of work: what a stage made of the inputs that `key` stands for."""

    stage: str
    key: str
    outputs: tuple[Derived, ...]
    cycle_id: str
    config_hash: str
    at: float  # seconds since 1970


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A line of an imported file that could not be used, and why."""

    file: str
    line: int  # 1-based
    reason: str  # a code of edges.importers.REASONS
    excerpt: str  # at most 200 characters
    detail: str = ""  # what exactly was wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleRow:
    """One run of the pipeline."""

    id: str
    config_hash: str
    started_at: float
    ended_at: float | None
    receipt: Mapping[str, Json]


class Store:
    """All records of one deployment. Opens, creates and migrates the database; raises StoreError with the next step."""

    def __init__(self, url: str) -> None:
        self._engine, self._name = connect(url)
        migrate(self._engine, self._name)
        self._intake = Intake(self._engine, self._name)

    def close(self) -> None:
        """Close every connection."""
        self._intake.close()
        self._engine.dispose()

    # what came in

    def add_logs(self, logs: Sequence[LogRecord]) -> int:
        """Keep new log records; known ids are left alone. Returns how many were new."""
        names = [{"name": name, "at": log.at, "log_id": log.id} for log in logs for name in also_known_as(log)]
        with self.transaction(write=True) as db:
            new = insert_new(db, TABLES[LogRecord], [encode(log) for log in logs])
            insert_new(db, schema.aliases, names)
        return len(new)

    def put_feedback(self, items: Sequence[Feedback]) -> int:
        """Keep feedback, replacing what has the same id and is not newer. Returns how many were new or changed."""
        newest = {item.id: item for item in sorted(items, key=lambda item: item.at)}
        table = TABLES[Feedback]
        with self.transaction(write=True) as db:
            found = pairs_in(db, table, ("id", "body"), list(newest))
            old = {name: decode(Feedback, body) for name, body in found}
            changed = [item for item in newest.values() if _replaces(item, old.get(item.id))]
            insert_or_replace(db, table, [encode(item) for item in changed])
        return len(changed)

    def put(self, entries: Sequence[Entry], wait_s: float = BUSY_S) -> int:
        """Commit encoded log records and feedback, as fast as it goes; waits at most `wait_s` for a lock.

        One thread at a time. Returns how many were new or changed; RecordRefused when one of them is why it failed.
        """
        return self._intake.put(entries, wait_s)

    def checkpoint(self) -> None:
        """What `put` leaves to do, now and then: SQLite's write-ahead log goes into the file. From another thread."""
        self._intake.checkpoint()

    def add_rejects(self, rejects: Sequence[Reject]) -> None:
        """Remember lines that could not be used; the same line of the same file is kept once."""
        with self.transaction(write=True) as db:
            insert_new(db, schema.rejects, [asdict(reject) for reject in rejects])

    def rejects(self, limit: int = 50) -> builtins.list[Reject]:
        """Rejected lines, by file and line."""
        table = schema.rejects
        with self.transaction() as db:
            rows = db.execute(select(table).order_by(table.c.file, table.c.line, table.c.reason).limit(limit))
            return [Reject(**row._mapping) for row in rows]

    def logs(self, since: float = 0.0, *, shadow: bool = False) -> Iterator[LogRecord]:
        """Log records from `since` (seconds since 1970) on, by time, then id; `shadow`: answers nobody saw too."""
        return (log for log in self._stream(LogRecord, since) if shadow or log.source != SHADOW)

    def encoded_logs(self, since: float = 0.0) -> Iterator[str]:
        """As `logs`, with answers nobody saw, each as the JSON of the store: for who decodes in other processes."""
        return self._bodies(LogRecord, since)

    def feedback(self, since: float | None = None) -> Iterator[Feedback]:
        """All feedback, or that since a moment, by time, then id."""
        return self._stream(Feedback, since)

    def known(self, kind: TargetKind, targets: Sequence[str]) -> set[str]:
        """Which of the `targets` of feedback exist: ids of log records, sessions or users."""
        column = {"record": "id", "session": "session", "user": "user"}[kind]
        with self.transaction() as db:
            return {name for name, _ in pairs_in(db, TABLES[LogRecord], (column, column), targets)}

    def named(self, names: Sequence[str]) -> dict[str, str]:
        """Of those names that log records have beside their ids: the newest record's id."""
        table, found = schema.aliases, dict[str, str]()
        with self.transaction() as db:
            for name in dict.fromkeys(names):
                query = select(table.c.log_id).where(table.c.name == name).order_by(table.c.at.desc()).limit(1)
                newest = db.execute(query).scalar()
                found |= {} if newest is None else {name: newest}
        return found

    def feedback_by_id(self, ids: Sequence[str]) -> dict[str, Feedback]:
        """Those of the feedback that are in the store, by id."""
        with self.transaction() as db:
            found = dict(pairs_in(db, TABLES[Feedback], ("id", "body"), ids))
        return {name: decode(Feedback, body) for name, body in found.items()}

    # derived records

    def get(self, record_id: str) -> Record | None:
        """The record of any kind with this id, or with the only id that starts so; None: there is none."""
        if not record_id:
            return None
        with self.transaction() as db:
            found = [(kind, *row) for kind, table in TABLES.items() for row in _starting(db, table, record_id)]
        exact = [match for match in found if match[1] == record_id]
        if not exact and len(found) > 1:
            names = ", ".join(name for _, name, _ in found[:3])
            raise StoreError(f"'{record_id}' starts the ids of several records: {names}", "give more of the id")
        return next((decode(kind, body) for kind, _, body in exact or found), None)

    def list(self, kind: type[R], *, limit: int | None = 50, cycle_id: str | None = None) -> builtins.list[R]:
        """The newest records of a kind, all without a limit; with `cycle_id` those that cycle made or reused."""
        table = TABLES[kind]
        query = select(table.c.body).order_by(table.c.at.desc(), table.c.id).limit(limit)
        if cycle_id is not None:
            query = query.where(_of_cycle(kind, cycle_id))
        with self.transaction() as db:
            return [decode(kind, row.body) for row in db.execute(query)]

    def load(self, kind: type[R], ids: Sequence[str]) -> builtins.list[R]:
        """The records with these ids, in the order of `ids`; StoreError names one that is missing."""
        with self.transaction() as db:
            bodies = dict(pairs_in(db, TABLES[kind], ("id", "body"), ids))
        missing = next((name for name in ids if name not in bodies), None)
        if missing is not None:
            raise StoreError(
                f"there is no {kind.__name__} with the id '{missing}' in {self._name}",
                "check the id, and that store.url names the database it was made in",
            )
        return [decode(kind, bodies[name]) for name in ids]

    def count(self, kind: type[Record]) -> int:
        """How many records of a kind there are."""
        with self.transaction() as db:
            return db.execute(select(func.count()).select_from(TABLES[kind])).scalar_one()

    def parents(self, record_id: str) -> builtins.list[str]:
        """Ids the record rests on, in the order its fields name them."""
        table = schema.lineage
        with self.transaction() as db:
            query = select(table.c.parent).where(table.c.child == record_id).order_by(table.c.position)
            return builtins.list(db.execute(query).scalars())

    def children(self, record_id: str) -> builtins.list[str]:
        """Ids of the records that rest on this one."""
        table = schema.lineage
        with self.transaction() as db:
            query = select(table.c.child).where(table.c.parent == record_id).order_by(table.c.child)
            return builtins.list(db.execute(query).scalars())

    # units of work

    def unit(self, stage: str, key: str) -> tuple[tuple[str, str], ...] | None:
        """Kind name and id of each output of a finished unit, in order; None: it is not done."""
        return self.units(stage, [key]).get(key)

    def units(self, stage: str, keys: Sequence[str]) -> dict[str, tuple[tuple[str, str], ...]]:
        """The outputs of those of the units that are finished, by key."""
        done: dict[str, list[tuple[str, str]]] = {}
        made, out = schema.units, schema.unit_outputs
        joined = made.outerjoin(out, (made.c.stage == out.c.stage) & (made.c.key == out.c.key))
        query = select(made.c.key, out.c.kind, out.c.record_id).select_from(joined).where(made.c.stage == stage)
        with self.transaction() as db:
            for part in parts(keys):
                for row in db.execute(query.where(made.c.key.in_(part)).order_by(made.c.key, out.c.position)):
                    done.setdefault(row.key, []).extend([(row.kind, row.record_id)] if row.kind else [])
        return {key: tuple(outputs) for key, outputs in done.items()}

    def commit_units(self, units: Sequence[UnitResult]) -> None:
        """Keep outputs, lineage and keys of finished units, all or nothing; existing records are left alone."""
        with self.transaction(write=True) as db:
            made = [(unit.outputs, (unit.cycle_id, unit.config_hash, unit.at)) for unit in units]
            insert_derived(db, [(record, origin) for records, origin in made for record in records])
            rows = [{name: getattr(unit, name) for name in UNIT_COLUMNS} for unit in units]
            # A unit that another process finished first keeps that process's outputs, never a mixture.
            new = {tuple(row) for row in insert_new(db, schema.units, rows)}
            outputs = [row for unit in units if (unit.stage, unit.key) in new for row in _output_rows(unit)]
            insert_new(db, schema.unit_outputs, outputs)
            insert_new(db, schema.cycle_units, [_used(unit.cycle_id, unit.stage, unit.key) for unit in units])

    def use_units(self, cycle_id: str, units: Sequence[tuple[str, str]]) -> None:
        """Say that this cycle rests on these finished units, by (stage, key)."""
        with self.transaction(write=True) as db:
            insert_new(db, schema.cycle_units, [_used(cycle_id, stage, key) for stage, key in units])

    # cycles and deployments

    def open_cycle(self, row: CycleRow) -> None:
        """Remember a cycle that has begun."""
        with self.transaction(write=True) as db:
            if not insert_new(db, schema.cycles, [{**asdict(row), "receipt": to_json(row.receipt)}]):
                raise StoreError(f"the cycle '{row.id}' is already in {self._name}", "logtune status shows it")

    def running_cycle(self) -> CycleRow | None:
        """The newest cycle that has not ended; None: there is none."""
        return next(iter(self._cycles(schema.cycles.c.ended_at.is_(None), 1)), None)

    def close_cycle(self, cycle_id: str, at: float, receipt: Mapping[str, Json]) -> None:
        """Remember that a cycle has ended, and what it says of itself."""
        table = schema.cycles
        change = table.update().where(table.c.id == cycle_id).values(ended_at=at, receipt=to_json(receipt))
        with self.transaction(write=True) as db:
            if not db.execute(change).rowcount:
                raise StoreError(f"there is no cycle '{cycle_id}' in {self._name}", "logtune status lists the cycles")

    def cycles(self, limit: int | None = 20) -> builtins.list[CycleRow]:
        """The newest cycles."""
        return self._cycles(None, limit)

    def deploy(self, deployment: Deployment, cycle_id: str) -> None:
        """Make a deployment the one that holds for its cluster name; again at once, it changes nothing."""
        with self.transaction(write=True) as db:
            config = db.execute(select(schema.cycles.c.config_hash).where(schema.cycles.c.id == cycle_id)).scalar()
            hold(db, deployment, (cycle_id, config or "", deployment.at))

    def deployments(self) -> dict[str, Deployment]:
        """What holds now: for each cluster name the deployment last given to `deploy`."""
        live, table = schema.live, TABLES[Deployment]
        newest = select(live.c.cluster_name, func.max(live.c.number)).group_by(live.c.cluster_name)
        query = select(live.c.cluster_name, table.c.body).join_from(live, table, live.c.deployment_id == table.c.id)
        with self.transaction() as db:
            rows = db.execute(query.where(tuple_(live.c.cluster_name, live.c.number).in_(newest)))
            return {row.cluster_name: decode(Deployment, row.body) for row in rows}

    def _cycles(self, condition: ColumnElement[bool] | None, limit: int | None) -> builtins.list[CycleRow]:
        table = schema.cycles
        query = select(table).order_by(table.c.started_at.desc(), table.c.id.desc()).limit(limit)
        with self.transaction() as db:
            rows = db.execute(query if condition is None else query.where(condition))
            return [CycleRow(**{**row._mapping, "receipt": json.loads(row.receipt)}) for row in rows]

    def _stream(self, kind: type[R], since: float | None) -> Iterator[R]:
        return (decode(kind, body) for body in self._bodies(kind, since))

    def _bodies(self, kind: type[R], since: float | None) -> Iterator[str]:
        # A short transaction a chunk: a slow reader neither holds back the write-ahead log nor blocks a writer.
        table = TABLES[kind]
        query = select(table.c.at, table.c.id, table.c.body).order_by(table.c.at, table.c.id).limit(CHUNK)
        condition = [] if since is None else [table.c.at >= since]
        while True:
            with self.transaction() as db:
                rows = db.execute(query.where(*condition)).all()
            yield from (row.body for row in rows)
            if len(rows) < CHUNK:
                return
            at, name = rows[-1].at, rows[-1].id
            condition = [table.c.at >= at, or_(table.c.at > at, table.c.id > name)]

    def transaction(self, *, write: bool = False) -> AbstractContextManager[Connection]:
        """One transaction of its own, for tables that are kept beside the records (edges.keyring)."""
        return transaction(self._engine, self._name, write=write)


def _replaces(item: Feedback, old: Feedback | None) -> bool:
    return old is None or (item != old and item.at >= old.at)


def hold(db: Connection, deployment: Deployment, origin: Origin) -> None:
    """Make a deployment the one that holds for its cluster name; again at once, it changes nothing."""
    live = schema.live
    insert_derived(db, [(deployment, origin)])
    query = select(live).where(live.c.cluster_name == deployment.cluster_name)
    last = db.execute(query.order_by(live.c.number.desc()).limit(1)).first()
    if last is None or last.deployment_id != deployment.id:
        row = {"cluster_name": deployment.cluster_name, "number": last.number + 1 if last else 1}
        db.execute(live.insert(), {**row, "deployment_id": deployment.id, "cycle_id": origin[0]})


def insert_derived(db: Connection, made: Sequence[tuple[Derived, Origin]]) -> None:
    """Insert records, each with its origin, and their lineage; known ones are left alone."""
    by_kind: dict[type[Record], list[schema.Row]] = {}
    for record, (cycle_id, config_hash, at) in made:
        row = {"cycle_id": cycle_id, "config_hash": config_hash, "at": at, **encode(record)}
        by_kind.setdefault(type(record), []).append(row)
    for kind, rows in by_kind.items():
        insert_new(db, TABLES[kind], rows)
    links = [
        {"child": record.id, "parent": parent, "position": position}
        for record, _ in made
        for position, parent in enumerate(parents_of(record))
    ]
    insert_new(db, schema.lineage, links)


def _used(cycle_id: str, stage: str, key: str) -> schema.Row:
    return {"cycle_id": cycle_id, "stage": stage, "key": key}


def _output_rows(unit: UnitResult) -> Iterator[schema.Row]:
    for position, output in enumerate(unit.outputs):
        place = {"stage": unit.stage, "key": unit.key, "position": position}
        yield {**place, "kind": type(output).__name__, "record_id": output.id}


def _starting(db: Connection, table: Table, prefix: str) -> list[tuple[str, str]]:
    """Id and body of the first two rows whose ids start with `prefix`; one with just this id comes first."""
    # Ids are ordered by code point, so those that start with the prefix follow it directly.
    query = select(table.c.id, table.c.body).where(table.c.id >= prefix).order_by(table.c.id).limit(2)
    return [(row.id, row.body) for row in db.execute(query) if row.id.startswith(prefix)]


def _of_cycle(kind: type, cycle_id: str) -> ColumnElement[bool]:
    table, used, out = TABLES[kind], schema.cycle_units, schema.unit_outputs
    if kind in GIVEN:
        raise StoreError(f"a {kind.__name__} belongs to no cycle", "list it without naming one")
    joined = (used.c.stage == out.c.stage) & (used.c.key == out.c.key)
    rests_on = select(out.c.record_id).join_from(used, out, joined)
    rests_on = rests_on.where(used.c.cycle_id == cycle_id, out.c.kind == kind.__name__)
    return or_(table.c.cycle_id == cycle_id, table.c.id.in_(rests_on))
