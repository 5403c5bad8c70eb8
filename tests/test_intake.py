"""Committing what comes in: exact, all or nothing, bounded in time, and what the database refuses is told apart."""

import asyncio
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from test_store import MISSING, ON_DISK, Postgres, file_url, log, postgres, records, store, url  # noqa: F401  fixtures too

from logtune.app.journal import Journal, Kept
from logtune.config_gateway import ServeSettings
from logtune.edges.intake import Entry, entry
from logtune.edges.schema import encode
from logtune.edges.store import Store
from logtune.errors import RecordRefused, StoreError
from logtune.records import Feedback, LogRecord


def entries(*names: str) -> list[Entry]:
    return [entry(log(name)) for name in names]


@pytest.mark.parametrize("kind", [LogRecord, Feedback])
@settings(max_examples=30)
@given(data=st.data())
def test_a_record_of_any_text_comes_back_exactly(kind: type, data: st.DataObject) -> None:
    record = data.draw(records(kind))
    assert isinstance(record, (LogRecord, Feedback))
    assert entry(record).row == tuple(encode(record).values())
    opened = Store("sqlite://")
    opened.put([entry(record)])
    assert opened.load(kind, [record.id]) == [record]
    opened.close()


def test_logs_and_feedback_of_a_batch_are_stored(store: Store) -> None:  # noqa: F811
    known = replace(log("a"), response={"id": "chatcmpl-x"}, traces=("t1", "t2"))
    said = Feedback(id="f", target="a", at=1.0, comment="naïve \ud800 \x00")
    assert store.put([entry(known), entry(said), *entries("b", "c")]) == 4
    assert store.put([entry(known), entry(said), *entries("c", "d")]) == 1
    assert list(store.feedback()) == [said]
    assert store.load(LogRecord, ["a", "b", "c", "d"]) == [known, log("b"), log("c"), log("d")]
    assert store.named(["chatcmpl-x", "t1", "t2", "t3"]) == {"chatcmpl-x": "a", "t1": "a", "t2": "a"}
    assert store.put([]) == 0


def test_any_number_of_records_is_one_batch(store: Store) -> None:  # noqa: F811
    every = entries(*(f"l{number:04d}" for number in range(1000)))
    assert store.put(every) == 1000
    assert store.count(LogRecord) == 1000


def test_the_newest_of_feedback_with_one_id_stays(store: Store) -> None:  # noqa: F811
    said = [Feedback(id="f", target="a", at=at, value=at / 10) for at in (2.0, 3.0, 1.0)]
    assert store.put([entry(item) for item in said]) == 1
    assert store.put([entry(said[0])]) == 0
    assert store.put_feedback([said[2], said[0]]) == 0
    assert list(store.feedback()) == [said[1]]
    again = replace(said[1], value=None, revoked=True)  # as new as it
    assert store.put([entry(again)]) == 1
    assert store.put_feedback([replace(again, at=4.0), said[0]]) == 1
    assert list(store.feedback()) == [replace(again, at=4.0)]


def test_what_the_database_refuses_is_told_and_nothing_of_the_batch_stays(store: Store) -> None:  # noqa: F811
    bad = replace(entries("bad")[0], row=("bad", None, None, None, "{}"))  # a record without a time
    with pytest.raises(RecordRefused) as raised:
        store.put([*entries("a"), bad, *entries("b")])
    assert "{}" not in str(raised.value)  # errors are logged, and the log holds nothing of a record
    assert store.count(LogRecord) == 0
    assert store.put(entries("a", "b")) == 2


def test_a_value_that_no_column_takes_is_refused_too(tmp_path: Path) -> None:
    opened = Store(f"sqlite:///{tmp_path / 'a.db'}")
    for value in ({"a": 1}, 2**70):
        with pytest.raises(RecordRefused):
            opened.put([replace(entries("a")[0], row=("a", value, None, None, "{}"))])
    opened.close()


@pytest.mark.parametrize("url", ["postgres"] if "postgres" in ON_DISK else [], indirect=True)
def test_a_value_too_long_for_an_index_of_postgres_is_refused(store: Store) -> None:  # noqa: F811
    with pytest.raises(RecordRefused, match="index row"):
        store.put([entry(log("a", user="".join(chr(0x4E00 + number % 20000) for number in range(9000))))])
    assert store.put(entries("a")) == 1


def test_a_locked_database_is_waited_for_as_long_as_said(file_url: str) -> None:  # noqa: F811
    opened, other = Store(file_url), sqlite3.connect(file_url.removeprefix("sqlite:///"), isolation_level=None)
    opened.put(entries("a"))
    other.execute("BEGIN IMMEDIATE")
    for batch in (entries("b"), []):  # without records it is tried too
        with pytest.raises(StoreError, match="locked") as raised:
            opened.put(batch, wait_s=0.01)
        assert not isinstance(raised.value, RecordRefused)
    waiting = threading.Thread(target=lambda: opened.put(entries("c"), wait_s=30.0))
    waiting.start()
    other.execute("COMMIT")
    waiting.join(30)
    assert opened.count(LogRecord) == 2
    opened.close()
    other.close()


def test_the_log_of_the_database_goes_into_the_file(file_url: str, tmp_path: Path) -> None:  # noqa: F811
    opened, wal = Store(file_url), tmp_path / "records.db-wal"
    sizes = []
    for start in range(20):
        for number in range(200):
            opened.put(entries(f"l{start}-{number}"))
        opened.checkpoint()
        sizes.append(wal.stat().st_size)
    assert max(sizes) < 1.5 * sizes[0]  # it is written from its beginning again
    opened.close()
    again = Store(file_url)
    assert again.count(LogRecord) == 4000
    again.close()


def test_a_reader_does_not_stop_the_log(file_url: str) -> None:  # noqa: F811
    opened = Store(file_url)
    opened.put(entries("a"))
    reader = sqlite3.connect(file_url.removeprefix("sqlite:///"), isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM logs").fetchall()
    opened.put(entries("b"))
    began = time.monotonic()
    opened.checkpoint()
    assert time.monotonic() - began < 30
    opened.put(entries("c"))
    reader.close()
    assert opened.count(LogRecord) == 3
    opened.close()


def test_other_databases_have_no_such_log(store: Store) -> None:  # noqa: F811
    store.checkpoint()
    store.put(entries("a"))
    store.checkpoint()
    assert store.count(LogRecord) == 1


def test_a_lost_connection_is_made_anew(postgres: Postgres) -> None:  # noqa: F811
    opened = Store(postgres.new_url())
    opened.put(entries("a"))
    with opened.transaction(write=True) as db:
        db.execute(text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"))
    with pytest.raises(StoreError) as raised:
        opened.put(entries("b"))
    assert not isinstance(raised.value, RecordRefused)
    assert opened.put(entries("b")) == 1
    opened.close()


async def test_a_server_that_stops_and_comes_back_loses_nothing(tmp_path: Path) -> None:
    if MISSING:
        pytest.skip(MISSING)
    server = Postgres()
    opened = Store(server.url)
    journal = Journal(opened, ServeSettings(commit_wait_ms=200.0), tmp_path / "spool")
    await journal.start()
    assert await journal.commit(log("a")) is Kept.STORED
    server._control("stop", "-m", "immediate")
    assert [await journal.commit(log(name)) for name in "bc"] == [Kept.SPOOLED] * 2
    assert journal.problem
    server._control(
        "start", "-w", "-l", str(server.folder / "log"), "-o", f"-F -k {server.folder} -c listen_addresses=''"
    )
    async with asyncio.timeout(60):
        while journal.waiting:  # noqa: ASYNC110  a journal tells its waiters alone, and nobody waits here
            await asyncio.sleep(0.01)
    assert await journal.commit(log("d")) is Kept.STORED
    assert [record.id for record in opened.logs()] == ["a", "b", "c", "d"]
    await journal.close()
    opened.close()
    server.stop()
