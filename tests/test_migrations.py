"""The schema's history: every old schema, with and without rows, becomes today's and loses nothing."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, inspect, text

from logtune.edges import schema
from logtune.edges.database import connect, transaction
from logtune.edges.migrations import MIGRATIONS, Migration, migrate
from logtune.edges.store import Store
from logtune.errors import StoreError
from logtune.records import Decision, Feedback, LogRecord

NAMES = [change.__name__ for change in MIGRATIONS]


Rows = Callable[[Connection], None]


def no_rows(db: Connection) -> None:
    """A change that touches no old rows."""


def rows_of_m001(db: Connection) -> None:
    log: dict[str, object] = {
        "id": "l1",
        "request": {"messages": []},
        "response": {"id": "up1"},
        "at": 1.0,
        "user": "ann",
    }
    decision: dict[str, object] = {
        "id": "dec-1",
        "interaction_id": "l1",
        "teaches": "rule",
        "reason": "ok",
        "scores": {},
    }
    feedback: dict[str, object] = {"id": "f1", "target": "l1", "at": 2.0}
    for statement, body in (
        ("INSERT INTO logs (id, at, \"user\", session, body) VALUES ('l1', 1.0, 'ann', NULL, :body)", log),
        ("INSERT INTO feedback (id, at, target, body) VALUES ('f1', 2.0, 'l1', :body)", feedback),
        (
            "INSERT INTO decisions (id, at, cycle_id, config_hash, body) VALUES ('dec-1', 3.0, 'c', 'h', :body)",
            decision,
        ),
    ):
        db.execute(text(statement), {"body": json.dumps(body)})
    for statement in (
        "INSERT INTO lineage (child, parent, position) VALUES ('dec-1', 'l1', 0)",
        "INSERT INTO units (stage, key, cycle_id, config_hash, at) VALUES ('filter', 'k', 'c', 'h', 3.0)",
        "INSERT INTO unit_outputs (stage, key, position, kind, record_id) "
        "VALUES ('filter', 'k', 0, 'Decision', 'dec-1')",
        "INSERT INTO cycle_units (cycle_id, stage, key) VALUES ('c', 'filter', 'k')",
        "INSERT INTO cycles (id, config_hash, started_at, ended_at, receipt) VALUES ('c', 'h', 3.0, NULL, '{}')",
        "INSERT INTO rejects (file, line, reason, excerpt, detail) VALUES ('a', 1, 'invalid_json', '', '')",
    ):
        db.execute(text(statement))


def rows_of_m003(db: Connection) -> None:
    db.execute(text("INSERT INTO aliases (name, at, log_id) VALUES ('up1', 1.0, 'l1')"))


# Rows as the code of that time wrote them, by the newest change they need. Each change that touches old rows adds some.
ROWS: Mapping[str, Rows] = {"m001_records": rows_of_m001, "m003_aliases": rows_of_m003}


def engine_at(path: Path, number: int, *, rows: bool) -> tuple[Engine, str]:
    """A database whose schema is the first `number` changes."""
    engine, name = connect(f"sqlite:///{path}")
    migrate(engine, name, MIGRATIONS[:number])
    if rows:
        with transaction(engine, name, write=True) as db:
            for change in MIGRATIONS[:number]:
                ROWS.get(change.__name__, no_rows)(db)
    return engine, name


def columns(engine: Engine) -> dict[str, list[tuple[str, bool, bool]]]:
    found = inspect(engine)
    return {
        table: [
            (row["name"], row["nullable"], row["name"] in found.get_pk_constraint(table)["constrained_columns"])
            for row in found.get_columns(table)
        ]
        for table in found.get_table_names()
    }


@pytest.mark.parametrize("rows", [False, True], ids=["empty", "with rows"])
@pytest.mark.parametrize("number", range(len(MIGRATIONS) + 1))
def test_every_old_schema_becomes_todays(tmp_path: Path, number: int, rows: bool) -> None:
    engine, name = engine_at(tmp_path / "old.db", number, rows=rows)
    assert migrate(engine, name) == NAMES[number:]
    assert migrate(engine, name) == []
    found = columns(engine)
    assert found.pop("migrations")
    assert set(found) == set(schema.metadata.tables)
    for table, described in schema.metadata.tables.items():
        keys = {column.name for column in described.primary_key}
        wanted = [(column.name, bool(column.nullable), column.name in keys) for column in described.columns]
        # SQLite says of every column of a key that it may be empty; PostgreSQL never does.
        assert [(name, may_be_empty and not key, key) for name, may_be_empty, key in found[table]] == wanted
    engine.dispose()


@pytest.mark.parametrize("number", range(1, len(MIGRATIONS) + 1))
def test_old_rows_are_read_by_todays_store(tmp_path: Path, number: int) -> None:
    engine, _ = engine_at(tmp_path / "old.db", number, rows=True)
    engine.dispose()
    store = Store(f"sqlite:///{tmp_path / 'old.db'}")
    assert [record.id for record in store.logs()] == ["l1"]
    assert store.load(LogRecord, ["l1"])[0].user == "ann"
    assert store.named(["up1", "l1"]) == {"up1": "l1"}
    assert store.load(Feedback, ["f1"])[0].target == "l1"
    assert store.unit("filter", "k") == (("Decision", "dec-1"),)
    assert store.list(Decision, cycle_id="c")[0].teaches == "rule"
    assert store.parents("dec-1") == ["l1"]
    running = store.running_cycle()
    assert running is not None
    assert running.id == "c"
    assert len(store.rejects()) == 1
    store.close()


def test_names_are_unique_and_in_order() -> None:
    assert sorted(set(NAMES)) == NAMES
    assert set(ROWS) <= set(NAMES)


def test_every_column_that_is_searched_has_an_index(tmp_path: Path) -> None:
    engine, _ = engine_at(tmp_path / "new.db", len(MIGRATIONS), rows=False)
    found = inspect(engine)
    for kind, names in schema.QUERIED.items():
        indexed = {index["column_names"][0] for index in found.get_indexes(schema.NAMES[kind])}
        assert indexed == {"at", *names}
    engine.dispose()


def test_a_change_that_fails_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    def m998_half(db: Connection) -> None:
        db.execute(text("CREATE TABLE half (id TEXT)"))
        db.execute(text("CREATE TABLE half (id TEXT)"))

    engine, name = engine_at(tmp_path / "old.db", len(MIGRATIONS), rows=True)
    before = columns(engine)
    with pytest.raises(StoreError, match="half already exists"):
        migrate(engine, name, [*MIGRATIONS, m998_half])
    assert columns(engine) == before
    assert migrate(engine, name) == []
    engine.dispose()


def test_a_database_of_newer_code_is_refused_and_left_alone(tmp_path: Path) -> None:
    def m999_of_tomorrow(db: Connection) -> None:
        db.execute(text("CREATE TABLE tomorrow (id TEXT)"))

    later: list[Migration] = [*MIGRATIONS, m999_of_tomorrow]
    engine, name = engine_at(tmp_path / "new.db", len(MIGRATIONS), rows=True)
    assert migrate(engine, name, later) == ["m999_of_tomorrow"]
    before = columns(engine)
    engine.dispose()
    with pytest.raises(StoreError, match=r"newer logtune: .* 'm999_of_tomorrow'\n  pip install --upgrade logtune"):
        Store(f"sqlite:///{tmp_path / 'new.db'}")
    assert columns(engine) == before
    engine.dispose()
