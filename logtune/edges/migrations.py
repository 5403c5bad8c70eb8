"""The schema's history: one function a change, applied once each, by name and in order. Never edit an old one.

A change is plain DDL that SQLite and PostgreSQL both take; what differs is chosen by dialect. Old migrations must not
use `schema`, which says what the tables look like today.
"""

import json
import re
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from sqlalchemy import Connection, Engine, inspect, text

from logtune.edges.database import transaction
from logtune.errors import StoreError

Migration: TypeAlias = Callable[[Connection], None]
MIGRATIONS: list[Migration] = []


def migration(change: Migration) -> Migration:
    """Register a change; its name is what the database remembers."""
    MIGRATIONS.append(change)
    return change


def migrate(engine: Engine, name: str, changes: Sequence[Migration] | None = None) -> list[str]:
    """Bring the database to the newest schema in one transaction; returns what was applied.

    Raises StoreError for a database that newer code wrote, and for one that belongs to another program.
    """
    changes = MIGRATIONS if changes is None else changes
    with transaction(engine, name) as db:
        if set(_applied(db, name)) == {change.__name__ for change in changes}:
            return []
    with transaction(engine, name, write=True) as db:
        if db.dialect.name == "postgresql":
            db.execute(text("SELECT pg_advisory_xact_lock(7101989)"))  # any number, the same in every process
            _begin_schema(db)
        done = _applied(db, name)
        _refuse_newer(done, changes, name)
        if not done:
            _run(db, "CREATE TABLE IF NOT EXISTS migrations (name {text} PRIMARY KEY, applied_at {real} NOT NULL)")
        missing = [change for change in changes if change.__name__ not in done]
        for change in missing:
            change(db)
            row = {"name": change.__name__, "at": time.time()}
            db.execute(text("INSERT INTO migrations (name, applied_at) VALUES (:name, :at)"), row)
    return [change.__name__ for change in missing]


def _begin_schema(db: Connection) -> None:
    """Make the PostgreSQL schema that the URL's search_path names, if it is a project's and not there yet."""
    if db.execute(text("SELECT current_schema()")).scalar() is None:
        wanted = str(db.execute(text("SHOW search_path")).scalar())
        if re.fullmatch("logtune_[a-z0-9_]+", wanted):
            db.exec_driver_sql(f"CREATE SCHEMA {wanted}")


def _applied(db: Connection, name: str) -> list[str]:
    """Names of the applied changes."""
    tables = inspect(db).get_table_names()
    if "migrations" in tables:
        columns = {column["name"] for column in inspect(db).get_columns("migrations")}
        if columns == {"name", "applied_at"}:
            return [row[0] for row in db.execute(text("SELECT name FROM migrations ORDER BY name"))]
    if tables:
        raise StoreError(
            f"{name} is the database of another program: it holds {', '.join(sorted(tables)[:3])}",
            "set store.url to a file that does not exist yet, or to an empty database",
        )
    return []


def _refuse_newer(done: Sequence[str], changes: Sequence[Migration], name: str) -> None:
    newer = [applied for applied in done if applied not in {change.__name__ for change in changes}]
    if newer:
        raise StoreError(
            f"{name} was written by a newer logtune: this one does not know its schema change '{newer[-1]}'",
            "pip install --upgrade logtune, or set store.url to another database",
        )


def _run(db: Connection, *statements: str) -> None:
    exact = 'TEXT COLLATE "C"' if db.dialect.name == "postgresql" else "TEXT"
    for statement in statements:
        db.exec_driver_sql(statement.format(text=exact, real="DOUBLE PRECISION"))


@migration
def m001_records(db: Connection) -> None:
    """One table a record kind, lineage, units of work, cycles, what is live, rejected lines."""
    given = "id {text} PRIMARY KEY, at {real} NOT NULL, "
    derived = given + "cycle_id {text} NOT NULL, config_hash {text} NOT NULL, "
    who = '"user" {text}, session {text}, '
    for name, columns in (
        ("logs", given + who),
        ("feedback", given + "target {text} NOT NULL, "),
        ("interactions", derived + who),
        ("signals", derived),
        ("decisions", derived),
        ("rules", derived),
        ("pairs", derived),
        ("clusters", derived + "name {text} NOT NULL, "),
        ("gaps", derived),
        ("adapters", derived),
        ("evaluations", derived),
        ("verdicts", derived),
        ("deployments", derived + "cluster_name {text} NOT NULL, "),
        ("failures", derived + "stage {text} NOT NULL, "),
    ):
        _run(db, f"CREATE TABLE {name} ({columns}body {{text}} NOT NULL)", f"CREATE INDEX {name}_at ON {name} (at, id)")
    for table, column in (
        ("logs", "user"), ("logs", "session"), ("feedback", "target"), ("interactions", "user"),
        ("interactions", "session"), ("clusters", "name"), ("deployments", "cluster_name"), ("failures", "stage"),
    ):  # fmt: skip
        _run(db, f'CREATE INDEX {table}_{column} ON {table} ("{column}")')
    _run(
        db,
        "CREATE TABLE lineage (child {text}, parent {text}, position INTEGER NOT NULL, PRIMARY KEY (child, parent))",
        "CREATE INDEX lineage_parent ON lineage (parent, child)",
        "CREATE TABLE units (stage {text}, key {text}, cycle_id {text} NOT NULL, config_hash {text} NOT NULL, "
        "at {real} NOT NULL, PRIMARY KEY (stage, key))",
        "CREATE TABLE unit_outputs (stage {text}, key {text}, position INTEGER, kind {text} NOT NULL, "
        "record_id {text} NOT NULL, PRIMARY KEY (stage, key, position))",
        "CREATE TABLE cycle_units (cycle_id {text}, stage {text}, key {text}, PRIMARY KEY (cycle_id, stage, key))",
        "CREATE TABLE cycles (id {text} PRIMARY KEY, config_hash {text} NOT NULL, started_at {real} NOT NULL, "
        "ended_at {real}, receipt {text} NOT NULL)",
        "CREATE TABLE live (cluster_name {text}, number INTEGER, deployment_id {text} NOT NULL, "
        "cycle_id {text} NOT NULL, PRIMARY KEY (cluster_name, number))",
        "CREATE TABLE rejects (file {text}, line INTEGER, reason {text}, excerpt {text} NOT NULL, "
        "detail {text} NOT NULL, PRIMARY KEY (file, line, reason))",
    )


@migration
def m002_keys(db: Connection) -> None:
    """Client keys of the gateway."""
    _run(
        db,
        "CREATE TABLE keys (id {text} PRIMARY KEY, name {text} NOT NULL, project {text} NOT NULL, "
        "hash {text} NOT NULL, created_at {real} NOT NULL, revoked_at {real}, rate_per_minute INTEGER)",
    )


@migration
def m003_aliases(db: Connection) -> None:
    """Names of log records beside their ids, by which feedback finds them; old records have that of their response."""
    _run(
        db,
        "CREATE TABLE aliases (name {text}, at {real} NOT NULL, log_id {text}, PRIMARY KEY (name, at, log_id))",
    )
    add = text("INSERT INTO aliases (name, at, log_id) VALUES (:name, :at, :log_id)")
    some, last = text("SELECT id, at, body FROM logs WHERE id > :last ORDER BY id LIMIT 500"), ""
    while rows := db.execute(some, {"last": last}).all():
        for row in rows:
            name = ((json.loads(row.body, strict=False).get("response")) or {}).get("id")
            if isinstance(name, str) and name and name not in (row.id, f"chatcmpl-{row.id}"):
                db.execute(add, {"name": name, "at": row.at, "log_id": row.id})
        last = rows[-1].id


@migration
def m004_replies(db: Connection) -> None:
    """Replies of chat models, by the hash of what was asked."""
    _run(db, "CREATE TABLE replies (key {text} PRIMARY KEY, at {real} NOT NULL, body {text} NOT NULL)")


@migration
def m007_schedule(db: Connection) -> None:
    """Who does what no two processes may do at once, and what the schedule has started."""
    _run(
        db,
        "CREATE TABLE leases (name {text} PRIMARY KEY, holder {text} NOT NULL, until {real} NOT NULL)",
        "CREATE TABLE runs (id {text} PRIMARY KEY, began_at {real} NOT NULL, records INTEGER NOT NULL, "
        "ended_at {real}, exit_code INTEGER, detail {text} NOT NULL)",
    )


@migration
def m008_trust(db: Connection) -> None:
    """Whom lessons rest on, and what people decided about rules; ledger lines are only ever added."""
    _run(
        db,
        "CREATE TABLE standings (id {text} PRIMARY KEY, at {real} NOT NULL, cycle_id {text} NOT NULL, "
        "config_hash {text} NOT NULL, body {text} NOT NULL)",
        "CREATE INDEX standings_at ON standings (at, id)",
        "CREATE TABLE rule_ledger (number INTEGER PRIMARY KEY, id {text} NOT NULL, at {real} NOT NULL, "
        "body {text} NOT NULL)",
    )


@migration
def m009_experiments(db: Connection) -> None:
    """Live tests with their steps, which of them are running, and what was paused by hand."""
    derived = "id {text} PRIMARY KEY, at {real} NOT NULL, cycle_id {text} NOT NULL, config_hash {text} NOT NULL, "
    for name, column in (("experiments", "cluster_name"), ("steps", "experiment_id")):
        _run(
            db,
            f"CREATE TABLE {name} ({derived}{column} {{text}} NOT NULL, body {{text}} NOT NULL)",
            f"CREATE INDEX {name}_at ON {name} (at, id)",
            f"CREATE INDEX {name}_{column} ON {name} ({column})",
        )
    _run(
        db,
        "CREATE TABLE running (experiment_id {text} PRIMARY KEY)",
        'CREATE TABLE controls (name {text} PRIMARY KEY, at {real} NOT NULL, "by" {text} NOT NULL, '
        "reason {text} NOT NULL)",
    )


@migration
def m010_pruned(db: Connection) -> None:
    """Adapters whose weights were removed from the disk."""
    _run(db, "CREATE TABLE pruned (adapter_id {text} PRIMARY KEY, at {real} NOT NULL)")
