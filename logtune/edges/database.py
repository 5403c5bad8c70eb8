"""Opening SQLite and PostgreSQL, and the few statements in which they differ."""

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, Table, create_engine, event, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from logtune.errors import MissingExtra, StoreError

WRITE = {"logtune_write": True}  # execution option: this transaction writes, so it takes the lock at its start
BUSY_S = 30.0  # how long a writer waits for another
IN_LIST = 500  # values in one IN (...), far below SQLite's 32,766

_NEXT_STEPS = (
    ("not a database", "set store.url to another file; this one was left as it is"),
    ("unable to open", "check that the folder exists and that you may write to it, or set store.url to another place"),
    ("readonly", "make the file and its folder writable, or set store.url to another place"),
    ("full", "free some disk space and run the command again: what was committed is safe"),
    ("locked", "another process holds the database for long: wait for it to end and run the command again"),
    ("malformed", "the file is damaged: restore a copy, or import the logs into a new store"),
    ("connect", "check that the server of store.url runs and lets you in"),
)


def connect(url: str) -> tuple[Engine, str]:
    """An engine, and what to call its database in messages (no password). Raises StoreError for an unusable URL."""
    parsed = _parse(url)
    try:
        if parsed.get_backend_name() == "postgresql":
            # A server that does not answer at all must not hold a thread for hours.
            limits = {"connect_timeout": 10, "tcp_user_timeout": int(1000 * BUSY_S)}
            wanted = {name: value for name, value in limits.items() if name not in parsed.query}
            engine = create_engine(parsed, pool_pre_ping=True, connect_args=wanted)
            return engine, parsed.render_as_string(hide_password=True)
        memory = parsed.database in (None, "", ":memory:")
        # A database in memory is one connection's own, so there is one, and threads wait for it.
        pool = {"poolclass": QueuePool, "pool_size": 1, "max_overflow": 0} if memory else {}
        engine = create_engine(parsed, connect_args={"timeout": BUSY_S, "check_same_thread": False}, **pool)
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "psycopg", "postgres") from error
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine, parsed.database or ":memory:"


def _parse(url: str) -> URL:
    hint = "use sqlite:///FILE or postgresql+psycopg://USER@HOST/DB"
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError) as error:
        raise StoreError(f"store.url is no database URL: {url!r}", hint) from error
    if backend not in ("sqlite", "postgresql"):
        raise StoreError(f"store.url names a {backend} database; logtune keeps records in SQLite or PostgreSQL", hint)
    return parsed


def _prepare_sqlite(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # the driver's own BEGIN comes too late for DDL and for reads
    _write_ahead(connection)
    # In WAL mode NORMAL loses nothing when a process is killed; only a power cut can take the last commits.
    connection.execute("PRAGMA synchronous=NORMAL")


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to a write-ahead log, so that readers and the writer don't wait for each other."""
    end = time.monotonic() + BUSY_S
    while connection.execute("PRAGMA journal_mode").fetchone()[0] == "delete":
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            # SQLite does not wait here by itself when another process switches at the same moment.
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return  # a file system without shared memory stays as it was, which is slower but as safe


def _begin_sqlite(db: Connection) -> None:
    # A reader that turns writer halfway fails when another wrote in between; the busy timeout does not help it.
    writes = db.get_execution_options().get("logtune_write")
    db.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def transaction(engine: Engine, name: str, *, write: bool = False) -> Iterator[Connection]:
    """One transaction, committed at the end; what the database objects to becomes a StoreError with the next step."""
    chosen: Engine = engine.execution_options(**WRITE) if write else engine
    try:
        with chosen.begin() as db:
            yield db
    except DBAPIError as error:
        raise store_error(name, str(error.orig)) from error


def store_error(name: str, said: str) -> StoreError:
    """What a database said, with the next step. The first line alone: PostgreSQL shows the row in the others."""
    reason = said.strip().partition("\n")[0]
    step = next((step for sign, step in _NEXT_STEPS if sign in said), "logtune doctor checks the store")
    return StoreError(f"{name}: {reason}", step)


def insert_new(db: Connection, table: Table, rows: Sequence[Mapping[str, object]]) -> list[tuple[str, ...]]:
    """Insert the rows whose primary key is not there yet; returns the keys of those."""
    if not rows:
        return []
    statement = _insert(db, table).on_conflict_do_nothing().returning(*table.primary_key.columns)
    return [tuple(row) for row in db.execute(statement, rows)]


def insert_or_replace(db: Connection, table: Table, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert rows, each in place of the one with the same primary key."""
    if rows:
        statement = _insert(db, table)
        new = {column.name: column for column in statement.excluded if not column.primary_key}
        keys = [column.name for column in table.primary_key.columns]
        db.execute(statement.on_conflict_do_update(index_elements=keys, set_=new), rows)


def _insert(db: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    return postgresql.insert(table) if db.dialect.name == "postgresql" else sqlite.insert(table)


def pairs_in(
    db: Connection, table: Table, columns: tuple[str, str], values: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Both columns of the rows whose first column has one of the values; any number of values."""
    first, second = (table.c[name] for name in columns)
    for part in parts(values):
        yield from (tuple(row) for row in db.execute(select(first, second).where(first.in_(part)).distinct()))


def parts(values: Sequence[str]) -> Iterator[list[str]]:
    """The distinct values in lists short enough for one IN (...)."""
    distinct = list(dict.fromkeys(values))
    return (distinct[start : start + IN_LIST] for start in range(0, len(distinct), IN_LIST))
