"""The way into the database for what comes in all the time: a connection of its own, one statement for many rows.

LogRecord, Feedback -> entry (encoded once) -> Intake.put -> committed

A statement is one call into the driver, so that a busy event loop is interrupted once a batch and not once a row.
SQLite's write-ahead log goes into the file by `checkpoint`, from another thread: a commit doing it waits for the disk.
"""

import sqlite3
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Literal, TypeAlias, cast

from sqlalchemy import Engine, PoolProxiedConnection
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import SQLAlchemyError

from logtune.edges import schema
from logtune.edges.database import store_error
from logtune.edges.schema import TABLES, encode, exact, to_json
from logtune.errors import RecordRefused, StoreError
from logtune.ids import also_known_as, field_names
from logtune.records import Feedback, LogRecord

Kind: TypeAlias = Literal["log", "feedback"]
MOST_ROWS = 64  # of a statement; fewer go in powers of two, so that few statements have to be remembered
LONG_LOG = 16_000  # pages of SQLite's write-ahead log (64 MB) above which writers wait a moment for its end
CHECKPOINT_BUSY_MS = 50
_LOG_FIELDS = field_names(LogRecord)[2:]  # after id and request
_log_values = attrgetter(*_LOG_FIELDS)
OVERHEAD = 600  # bytes of an entry beside its body, roughly
# What is in the record, as SQLite tells it (too big, constraint, mismatch) and as SQLSTATE classes: data, constraint,
# a limit of the program such as the size of an index row.
_REFUSED_CODES = frozenset({sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH})
_REFUSED_STATES = frozenset({"22", "23", "54"})


@dataclass(frozen=True, slots=True)
class Entry:
    """A record as it goes into the database, encoded."""

    kind: Kind
    row: tuple[object, ...]  # values of the table's columns in their order; id and time come first, the body last
    names: tuple[str, ...] = ()  # of a log record, beside its id

    @property
    def body(self) -> str:
        """The record as JSON."""
        return cast("str", self.row[-1])

    @property
    def size(self) -> int:
        """Bytes of memory, roughly."""
        return sys.getsizeof(self.body) + OVERHEAD


def entry(record: LogRecord | Feedback, request: str | None = None) -> Entry:
    """The entry of a record; `request`: that of a log record as JSON, where it was encoded before."""
    if isinstance(record, LogRecord):  # said by hand, since it happens with every request
        rest = to_json(dict(zip(_LOG_FIELDS, _log_values(record), strict=True)))
        asked = to_json(record.request) if request is None else request
        body = f'{{"id":{to_json(record.id)},"request":{asked},{rest[1:]}'
        return Entry("log", (record.id, record.at, record.user, record.session, body), also_known_as(record))
    return Entry("feedback", tuple(encode(record).values()))


class Intake:
    """Commits entries, one batch at a time. Raises StoreError; RecordRefused when it is for what a record holds."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._name = name
        self._sqlite = engine.dialect.name == "sqlite"
        # A database in memory is the pool's one connection: it is borrowed for each batch.
        self._borrows = self._sqlite and engine.url.database in (None, "", ":memory:")
        self._lock = threading.Lock()
        self._connection: PoolProxiedConnection | None = None
        self._tidy: PoolProxiedConnection | None = None
        self._tidying = threading.Lock()  # held by who uses that
        self._wait_s = 0.0

    def put(self, entries: Sequence[Entry], wait_s: float) -> int:
        """Commit all or nothing, waiting at most `wait_s` for a lock; returns how many rows are new or changed.

        Known log records are left alone; feedback replaces what has its id, unless that is newer. Without entries it
        tries whether the database takes any.
        """
        driver = self._engine.dialect.loaded_dbapi.Error
        with self._lock:
            try:
                connection = self._opened(wait_s)
                changed = self._write(connection, entries)
            except (driver, SQLAlchemyError) as error:
                self._give_up()
                raise self._told(error) from error
            except (UnicodeError, OverflowError) as error:
                self._give_up()
                raise RecordRefused(f"{self._name}: {error}") from error
            if self._borrows:
                self._release()
        return changed

    def checkpoint(self) -> None:
        """Move SQLite's write-ahead log into the file, which takes as long as the disk does; others need none."""
        if not self._sqlite or self._borrows:
            return
        try:
            with self._tidying:
                self._checkpoint()
        except sqlite3.Error as error:
            raise store_error(self._name, str(error)) from error

    def close(self) -> None:
        """Close the connections, waiting for the threads that use them: SQLite crashes where one is closed in use."""
        with self._lock, self._tidying:
            for connection in (self._connection, self._tidy):
                if connection is not None:
                    connection.invalidate()
            self._connection = self._tidy = None

    def _checkpoint(self) -> None:
        if self._tidy is None:
            self._tidy = self._engine.raw_connection()
            _run(self._tidy, f"PRAGMA busy_timeout={CHECKPOINT_BUSY_MS}")
        for _ in range(3):  # what was written during the first is little for the second
            _, pages, moved = _run(self._tidy, "PRAGMA wal_checkpoint(PASSIVE)")
            if pages <= moved:
                return
        if pages > LONG_LOG:  # it starts again from its beginning only when all of it was moved
            _run(self._tidy, "PRAGMA wal_checkpoint(FULL)")

    def _opened(self, wait_s: float) -> PoolProxiedConnection:
        if self._connection is None:
            self._connection = self._engine.raw_connection()
            self._wait_s = 0.0
            if self._sqlite and not self._borrows:
                _run(self._connection, "PRAGMA wal_autocheckpoint=0")
        if wait_s != self._wait_s and not self._borrows:
            self._limit(self._connection, max(int(1000 * wait_s), 1))
            self._wait_s = wait_s
        return self._connection

    def _limit(self, connection: PoolProxiedConnection, wait_ms: int) -> None:
        if self._sqlite:
            _run(connection, f"PRAGMA busy_timeout={wait_ms}")
            return
        for name in ("lock_timeout", "statement_timeout"):
            _run(connection, f"SET {name} = {wait_ms}")
        connection.commit()

    def _write(self, connection: PoolProxiedConnection, entries: Sequence[Entry]) -> int:
        statements = list(self._statements(entries))
        cursor = connection.cursor()
        try:
            alone = self._sqlite and len(statements) == 1  # a statement alone is a transaction
            if self._sqlite and not alone:
                cursor.execute("BEGIN IMMEDIATE")
            elif not statements:
                cursor.execute("SELECT 1")
            changed = sum(_changed(cursor, *statement) for statement in statements)
            if self._sqlite and not alone:
                cursor.execute("COMMIT")
        finally:
            cursor.close()
        if not self._sqlite:
            connection.commit()
        return changed

    def _statements(self, entries: Sequence[Entry]) -> Iterator[tuple[str, list[object]]]:
        logs = [item.row for item in entries if item.kind == "log"]
        names = [(name, item.row[1], item.row[0]) for item in entries for name in item.names]
        said = _newest(item.row for item in entries if item.kind == "feedback")
        for table, rows in (("logs", logs), ("aliases", names), ("feedback", list(said))):
            for part in _parts(rows):
                yield (
                    _insert(table, len(part), "?" if self._sqlite else "%s"),
                    [value for row in part for value in _values(table, row)],
                )

    def _give_up(self) -> None:
        """Nothing of the batch stays; the next one starts on a new connection."""
        if self._borrows:
            self._release()
        elif self._connection is not None:
            self._connection.invalidate()
            self._connection = None

    def _release(self) -> None:
        if self._connection is not None:
            self._connection.close()  # back to the pool, which rolls back
            self._connection = None

    def _told(self, error: Exception) -> StoreError:
        said = store_error(self._name, str(getattr(error, "orig", None) or error))
        return RecordRefused(said.what, said.hint) if _concerns_a_record(error) else said


def _concerns_a_record(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _REFUSED_CODES  # the higher bits say more about the same
    state = getattr(error, "sqlstate", None)
    kind = type(error).__name__
    return state[:2] in _REFUSED_STATES if state else kind == "DataError" or "binding" in str(error)


def _run(connection: PoolProxiedConnection, statement: str) -> tuple[int, ...]:
    cursor = connection.cursor()
    try:
        cursor.execute(statement)
        return tuple(cursor.fetchone() or ()) if cursor.description else ()
    finally:
        cursor.close()


def _changed(cursor: DBAPICursor, statement: str, values: list[object]) -> int:
    cursor.execute(statement, values)
    return 0 if "aliases" in statement[:20] else max(cursor.rowcount, 0)


def _newest(rows: Iterator[tuple[object, ...]]) -> Iterator[tuple[object, ...]]:
    """Of rows with the same id the newest, of those as new the last: one statement may not change a row twice."""
    found: dict[object, tuple[object, ...]] = {}
    for row in rows:
        before = found.get(row[0])
        if before is None or cast("float", row[1]) >= cast("float", before[1]):
            found[row[0]] = row
    yield from found.values()


def _parts(rows: Sequence[tuple[object, ...]]) -> Iterator[Sequence[tuple[object, ...]]]:
    start = 0
    while left := len(rows) - start:
        number = min(MOST_ROWS, 1 << (left.bit_length() - 1))
        yield rows[start : start + number]
        start += number


def _values(table: str, row: tuple[object, ...]) -> Iterator[object]:
    """A row as it is stored."""
    for value in row if table == "aliases" else row[:-1]:
        yield exact(value) if isinstance(value, str) else value
    if table != "aliases":
        # JSON escapes control characters itself, so in an ASCII body nothing is left to escape; bodies are long.
        body = cast("str", row[-1])
        yield body if body.isascii() else exact(body)


_TABLES: Mapping[str, tuple[str, ...]] = {
    table.name: tuple(table.c.keys()) for table in (TABLES[LogRecord], TABLES[Feedback], schema.aliases)
}


@cache
def _insert(table: str, rows: int, mark: str) -> str:
    columns = _TABLES[table]
    names = ", ".join(f'"{name}"' for name in columns)
    values = ", ".join([f"({', '.join([mark] * len(columns))})"] * rows)
    if table != "feedback":
        return f"INSERT INTO {table} ({names}) VALUES {values} ON CONFLICT DO NOTHING"
    new = ", ".join(f'"{name}" = excluded."{name}"' for name in columns if name != "id")
    later = "excluded.at >= feedback.at AND excluded.body <> feedback.body"
    return f"INSERT INTO {table} ({names}) VALUES {values} ON CONFLICT (id) DO UPDATE SET {new} WHERE {later}"
