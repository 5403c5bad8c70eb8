"""The journal: committed before the answer, spooled while the store is slow or down, in order, in bounded memory."""

import asyncio
import json
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from gateway_kit import WAIT_S, WatchedStore
from hypothesis import given, settings
from hypothesis import strategies as st

from logtune.app.batching import Batcher, Worker
from logtune.app.journal import Journal, Kept
from logtune.config_gateway import ServeSettings
from logtune.edges.spool_files import waiting
from logtune.edges.store import Store
from logtune.records import Feedback, LogRecord
from logtune.testing import sample_log


@pytest.fixture
def store(tmp_path: Path) -> WatchedStore:
    return WatchedStore(f"sqlite:///{tmp_path / 'logtune.db'}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@asynccontextmanager
async def opened(store: Store, folder: Path | None, **settings: object) -> AsyncIterator[Journal]:
    journal = Journal(store, ServeSettings.model_validate({"record_first": "store", **settings}), folder)
    await journal.start()
    try:
        yield journal
    finally:
        await journal.close()


def commits(journal: Journal, number: int, start: int = 0, size: int = 1) -> "asyncio.Future[list[Kept]]":
    return asyncio.gather(*(journal.commit(log(n, size)) for n in range(start, start + number)))


def log(number: int, size: int = 1) -> LogRecord:
    return sample_log(f"l{number:05d}", "q" * size, "a", at=float(number))


def names(number: int, start: int = 0) -> list[str]:
    return [f"l{n:05d}" for n in range(start, start + number)]


def stored(store: Store) -> list[str]:
    return [record.id for record in store.logs()]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not true():  # noqa: ASYNC110  a journal tells its waiters alone, and nobody waits here
            await asyncio.sleep(0.005)


def files(folder: Path) -> list[Path]:
    return list(folder.glob("*"))


async def test_records_are_committed_when_commit_returns(store: WatchedStore, folder: Path) -> None:
    async with opened(store, folder) as journal:
        assert await commits(journal, 20) == [Kept.STORED] * 20
        assert store.count(LogRecord) == 20
        assert await journal.commit(Feedback(id="f", target="l1", at=1.0))
        assert store.count(Feedback) == 1
        assert (journal.stored, journal.waiting, journal.queued, journal.problem) == (21, 0, 0, "")
    assert not files(folder)


async def test_what_arrives_together_is_one_transaction(store: WatchedStore) -> None:
    async with opened(store, None) as journal:
        await commits(journal, 100)
        assert store.calls == 1


async def test_records_wait_on_disk_for_a_failing_store_and_come_in_order(store: WatchedStore, folder: Path) -> None:
    async with opened(store, folder) as journal:
        await commits(journal, 3)
        store.broken = True
        assert await commits(journal, 3, 3) == [Kept.SPOOLED] * 3
        assert not await journal.commit(log(6))
        assert (journal.spooled, journal.waiting, journal.problem) == (4, 4, "the disk is full")
        assert waiting(folder).records == 4
        assert journal.spool_bytes == waiting(folder).bytes
        store.broken = False
        await until(lambda: not journal.waiting and not journal.problem)
        assert await journal.commit(log(7)) is Kept.STORED
        assert stored(store) == names(8)
        assert (journal.stored, journal.spool_bytes, journal.dropped) == (8, 0, 0)


async def test_a_slow_store_holds_up_an_answer_no_longer_than_set(store: WatchedStore, folder: Path) -> None:
    async with opened(store, folder, commit_wait_ms=20.0) as journal:
        store.slow.clear()
        assert await commits(journal, 3) == [Kept.SPOOLED] * 3  # the store is still at work on them
        assert await commits(journal, 3, 3) == [Kept.SPOOLED] * 3
        assert journal.problem == "no commit within 20 ms"
        store.slow.set()
        await until(lambda: not journal.waiting)
        assert stored(store) == names(6)
        assert journal.stored == 6  # though some were sent twice


async def test_a_locked_database_is_such_a_store(store: WatchedStore, folder: Path, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "logtune.db", isolation_level=None)
    async with opened(store, folder, commit_wait_ms=20.0) as journal:
        other.execute("BEGIN IMMEDIATE")
        for number in range(20):
            assert await journal.commit(log(number)) is Kept.SPOOLED
        assert store.calls <= 5  # one that was tried, and a prober
        other.execute("COMMIT")
        await until(lambda: not journal.waiting)
        assert stored(store) == names(20)
    other.close()


async def test_records_keep_coming_while_the_spool_empties(store: WatchedStore, folder: Path) -> None:
    async with opened(store, folder) as journal:
        store.broken = True
        await commits(journal, 1500)
        store.broken = False
        number, kept = 1500, Kept.SPOOLED
        while kept is not Kept.STORED:
            kept = await journal.commit(log(number))
            number += 1
        assert journal.waiting == 0
        assert stored(store) == names(number)


async def test_a_store_that_fails_again_while_the_spool_empties(store: WatchedStore, folder: Path) -> None:
    async with opened(store, folder) as journal:
        store.broken = True
        await commits(journal, 1000)
        for start in range(1000, 1100):
            store.broken = start % 3 != 0
            await journal.commit(log(start))
        store.broken = False
        await until(lambda: not journal.waiting)
        assert stored(store) == names(1100)


async def test_a_queue_that_is_full_is_a_store_too_slow(store: WatchedStore, folder: Path) -> None:
    async with opened(store, folder, queue_records=10) as journal:
        store.slow.clear()
        first = commits(journal, 10)
        await asyncio.sleep(0)
        assert journal.queued == 10
        assert await journal.commit(log(10)) is Kept.DROPPED  # the disk has had no time to take the others
        assert await first == [Kept.SPOOLED] * 10
        assert await journal.commit(log(11)) is Kept.SPOOLED
        assert journal.dropped == 1
        store.slow.set()


async def test_a_queue_is_full_by_its_size_too(store: WatchedStore, folder: Path) -> None:
    async with opened(store, folder, queue_mb=0.1) as journal:
        store.slow.clear()
        kept = await commits(journal, 12, size=9000)
        assert kept.count(Kept.SPOOLED) == 11
        assert kept[-1] is Kept.DROPPED
        store.slow.set()


@pytest.mark.parametrize(("full", "left"), [("drop_new", 0), ("refuse", 0), ("drop_old", 1)])
async def test_a_full_spool_drops_what_the_settings_say(
    store: WatchedStore, folder: Path, full: str, left: int
) -> None:
    async with opened(store, folder, spool_mb=0.1, spool_full=full) as journal:
        store.broken = True
        kept = [await journal.commit(log(number, 1000)) for number in range(200)]
        assert journal.spool_bytes <= 0.1 * 2**20
        assert journal.dropped == 200 - journal.spooled > 0
        assert journal.refusing == (full == "refuse")
        assert (Kept.DROPPED in kept) == (full != "drop_old")
        store.broken = False
        await until(lambda: not journal.waiting)
        assert not journal.refusing
        expected = names(200)[-len(stored(store)) :] if left else names(len(stored(store)))
        assert stored(store) == expected
        assert store.count(LogRecord) + journal.dropped == 200


async def test_workers_share_the_size_of_the_spool(store: WatchedStore, folder: Path) -> None:
    async with opened(store, folder, spool_mb=0.2, workers=2) as journal:
        store.broken = True
        await commits(journal, 200, size=1000)
        assert 0.05 * 2**20 < journal.spool_bytes <= 0.1 * 2**20


async def test_without_a_disk_records_wait_in_memory_to_a_limit(
    store: WatchedStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    async with opened(store, blocked / "spool", queue_records=5) as journal:
        store.broken = True
        assert [await journal.commit(log(n)) for n in range(7)] == [Kept.HELD] * 5 + [Kept.DROPPED] * 2
        assert (journal.waiting, journal.dropped) == (5, 2)
        store.broken = False
        await until(lambda: not journal.waiting)
        assert stored(store) == names(5)
    for said in ("the store is down", "the spool cannot be written", "were dropped"):
        assert sum(said in message for message in caplog.messages) == 1  # once a minute, not once a record


async def test_what_never_reaches_the_store_is_counted(store: WatchedStore) -> None:
    journal = Journal(store)
    store.broken = True
    assert await journal.commit(log(0)) is Kept.HELD
    await journal.close()
    assert journal.dropped == 1


async def test_what_the_store_did_not_take_is_there_after_a_restart(store: WatchedStore, folder: Path) -> None:
    async with opened(store, folder) as journal:
        store.broken = True
        await commits(journal, 5)
    assert waiting(folder).records == 5
    store.broken = False
    async with opened(store, folder) as journal:
        await journal.commit(log(5))
        await until(lambda: not journal.waiting)
    assert stored(store) == names(6)
    assert not files(folder)


async def test_the_end_writes_to_the_store_first(store: WatchedStore, folder: Path) -> None:
    async with opened(store, folder) as journal:
        store.broken = True
        await commits(journal, 1000)
        store.broken = False
        last = journal.commit(log(1000))
    assert last.done()
    assert stored(store) == names(1001)
    assert not files(folder)


async def test_the_end_waits_for_a_record_under_way(store: WatchedStore, folder: Path) -> None:
    journal = Journal(store, None, folder)
    kept = journal.commit(log(0))
    await journal.close()
    assert kept.result() is Kept.STORED


async def test_what_the_store_refuses_holds_up_nobody(
    store: WatchedStore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.refused = "l00007"
    async with opened(store, folder) as journal:
        kept = await commits(journal, 20)
        assert kept == [Kept.REJECTED if number == 7 else Kept.STORED for number in range(20)]
        assert store.count(LogRecord) == 19
        store.broken, store.refused = True, "l00027"
        await commits(journal, 20, 20)
        store.broken = False
        await until(lambda: not journal.waiting)
        assert store.count(LogRecord) == 38
        assert (journal.rejected, journal.dropped, journal.stored) == (2, 0, 38)
    lines = [json.loads(line) for line in (folder / "rejected.jsonl").read_text("utf-8").splitlines()]
    assert [line["record"]["id"] for line in lines] == ["l00007", "l00027"]
    assert lines[0]["reason"] == "a value out of range"
    assert "rejected.jsonl" in caplog.text


async def test_a_mistake_of_ours_loses_no_record(store: WatchedStore, folder: Path) -> None:
    def odd(*_: object) -> int:
        raise KeyError("a bug")

    put, store.put = store.put, odd  # type: ignore[method-assign]
    async with opened(store, folder) as journal:
        assert await journal.commit(log(0)) is Kept.SPOOLED
        await until(lambda: journal.problem.startswith("KeyError"))
        store.put = put  # type: ignore[method-assign]
        await until(lambda: not journal.waiting)
        assert stored(store) == names(1)


async def test_older_feedback_that_comes_late_replaces_nothing(store: WatchedStore, folder: Path) -> None:
    early, late = (Feedback(id="f", target="l1", at=at, value=at - 1) for at in (1.0, 2.0))
    async with opened(store, folder) as journal:
        store.broken = True
        await journal.commit(early)
    store.broken = False
    store.put_feedback([late])  # by another process
    async with opened(store, folder) as journal:
        await until(lambda: not journal.waiting)
        assert list(store.feedback()) == [late]
        assert await journal.commit(early) is Kept.STORED
    assert list(store.feedback()) == [late]


async def test_a_waiter_that_gives_up_costs_no_record(store: WatchedStore, folder: Path) -> None:
    async with opened(store, folder) as journal:
        journal.commit(log(0)).cancel()
        assert await journal.commit(log(1))
    assert stored(store) == names(2)


async def test_the_log_of_the_database_stays_short(
    store: WatchedStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logtune.app.tending.TEND_S", 0.01)
    done = 0

    def checkpoint() -> None:
        nonlocal done
        Store.checkpoint(store)
        done += 1

    store.checkpoint = checkpoint  # type: ignore[method-assign]
    async with opened(store, folder) as journal:
        await commits(journal, 100, size=1000)
        await until(lambda: done > 0)
        size = (tmp_path / "logtune.db-wal").stat().st_size
        for start in range(100, 2000, 100):
            before = done
            await commits(journal, 100, start, size=1000)
            await until(lambda before=before: done > before)
        assert (tmp_path / "logtune.db-wal").stat().st_size < 10 * size


# batches and threads


# on the disk first


async def test_nobody_waits_for_the_store_where_the_disk_has_a_record(store: WatchedStore, folder: Path) -> None:
    async with opened(store, folder, record_first="disk", commit_wait_ms=2000.0) as journal:
        store.slow.clear()
        assert await commits(journal, 20) == [Kept.SPOOLED] * 20
        assert waiting(folder).records == 20
        assert (journal.problem, journal.spooled) == ("", 0)
        store.slow.set()
        await until(lambda: not journal.waiting)
        assert stored(store) == names(20)
        assert await journal.commit(Feedback(id="f", target="l1", at=1.0)) is Kept.STORED
        await until(lambda: not waiting(folder).records)
    assert not files(folder)


async def test_while_nobody_waits_few_transactions_do(store: WatchedStore, folder: Path) -> None:
    async with opened(store, folder, record_first="disk") as journal:
        for number in range(100):
            await journal.commit(log(number))
            await asyncio.sleep(0.001)
        await until(lambda: not journal.waiting)
        assert store.calls < 50
        assert stored(store) == names(100)


async def test_feedback_comes_after_the_records_before_it(store: WatchedStore, folder: Path) -> None:
    async with opened(store, folder, record_first="disk") as journal:
        await commits(journal, 3)
        assert await journal.commit(Feedback(id="f", target="l00002", at=1.0)) is Kept.STORED
        assert stored(store) == names(3)


async def test_what_lies_on_the_disk_goes_to_the_spool_while_the_store_is_down(
    store: WatchedStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logtune.app.tending.TEND_S", 0.01)
    async with opened(store, folder, record_first="disk") as journal:
        store.broken = True
        assert await commits(journal, 10) == [Kept.SPOOLED] * 10
        await until(lambda: journal.spooled == 10)
        assert journal.problem == "the disk is full"
        assert await commits(journal, 10, 10) == [Kept.SPOOLED] * 10
        await until(lambda: waiting(folder).records == 20)  # none lies twice there
        store.broken = False
        await until(lambda: not journal.waiting)
        assert await commits(journal, 10, 20) == [Kept.SPOOLED] * 10
    assert stored(store) == names(30)
    assert not files(folder)


async def test_a_store_too_slow_is_known_though_nobody_waits(store: WatchedStore, folder: Path) -> None:
    async with opened(store, folder, record_first="disk", commit_wait_ms=20.0) as journal:
        store.slow.clear()
        await commits(journal, 3)
        await until(lambda: journal.problem == "no commit within 20 ms")
        await until(lambda: journal.spooled == 3)
        store.slow.set()
        await until(lambda: not journal.waiting)
        assert stored(store) == names(3)


async def test_the_end_brings_what_lies_on_the_disk_to_the_store(store: WatchedStore, folder: Path) -> None:
    async with opened(store, folder, record_first="disk") as journal:
        await commits(journal, 10)
    assert stored(store) == names(10)
    assert not files(folder)


async def test_a_disk_that_takes_nothing_makes_answers_wait_for_the_store(
    store: WatchedStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(store, Path("/dev/null/spool"), record_first="disk") as journal:
        assert await commits(journal, 3) == [Kept.STORED] * 3
    assert "answers wait for the store" in caplog.text


async def test_a_file_that_cannot_be_emptied_costs_the_store_nothing(
    store: WatchedStore, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: object) -> None:
        raise OSError("read-only")

    monkeypatch.setattr("logtune.app.tending.TEND_S", 0.01)
    async with opened(store, folder, record_first="disk") as journal:
        with monkeypatch.context() as broken:
            broken.setattr("os.ftruncate", refused)
            await commits(journal, 3)
            await until(lambda: "stays in the spool folder" in caplog.text)
            assert (journal.problem, stored(store)) == ("", names(3))
        await until(lambda: not waiting(folder).records)


async def test_a_flush_that_hangs_keeps_the_event_loop_from_the_disk(
    store: WatchedStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logtune.app.tending.TEND_S", 0.01)
    monkeypatch.setattr("logtune.app.tending.STUCK_S", 0.02)
    hanging, goes_on = threading.Event(), threading.Event()

    def checkpoint() -> None:
        hanging.set()
        goes_on.wait(WAIT_S)

    monkeypatch.setattr(store, "checkpoint", checkpoint)
    async with opened(store, folder, record_first="disk") as journal:
        await commits(journal, 1)
        await until(hanging.is_set)
        await asyncio.sleep(0.05)
        assert await journal.commit(log(1)) is Kept.STORED
        goes_on.set()
        await until(lambda: not journal._tending.disk_hangs())
        assert await journal.commit(log(2)) is Kept.SPOOLED


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.sampled_from(["log", "log", "log", "feedback", "break", "mend", "pause"]), max_size=40))
async def test_every_record_is_stored_once_whatever_the_store_does(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    home = tmp_path_factory.mktemp("journal")
    store = WatchedStore(f"sqlite:///{home / 'logtune.db'}")
    logs = said = 0
    async with opened(store, home / "spool", record_first="disk") as journal:
        for step in steps:
            if step == "log":
                assert await journal.commit(log(logs)) is not Kept.DROPPED
                logs += 1
            elif step == "feedback":
                assert await journal.commit(Feedback(id=f"f{said}", target="l1", at=1.0)) is not Kept.DROPPED
                said += 1
            elif step == "pause":
                await asyncio.sleep(0.03)
            else:
                store.broken = step == "break"
        store.broken = False
        await until(lambda: not journal.waiting)
    assert stored(store) == names(logs)
    assert store.count(Feedback) == said
    assert not files(home / "spool")
    store.close()


async def test_what_arrives_during_a_batch_makes_up_the_next() -> None:
    sizes: list[int] = []

    def work(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        return [2 * item for item in items]

    batcher = Batcher("test", work, most=8)
    assert await asyncio.gather(*map(batcher.submit, range(20))) == [2 * number for number in range(20)]
    assert sizes == [8, 8, 4]
    await batcher.close()


async def test_an_error_reaches_every_waiter_and_the_next_batch_works() -> None:
    def work(items: Sequence[int]) -> list[int]:
        if 0 in items:
            raise ValueError("no zero")
        return list(items)[: len(items) if 7 not in items else 0]

    batcher = Batcher("test", work)
    outcomes = await asyncio.gather(batcher.submit(0), batcher.submit(1), return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["no zero", "no zero"]
    with pytest.raises(ValueError, match="zip"):
        await batcher.submit(7)
    assert await batcher.submit(2) == 2
    await batcher.close()


async def test_a_waiter_that_gives_up_stops_nobody() -> None:
    batcher: Batcher[int, int] = Batcher("test", list)
    first, second = batcher.submit(1), batcher.submit(2)
    first.cancel()
    assert await second == 2
    last = batcher.submit(3)
    await batcher.close()
    assert last.result() == 3


async def test_a_worker_does_one_thing_after_the_other() -> None:
    worker, order = Worker("test"), list[int]()
    await asyncio.gather(*(worker.ask(lambda number=number: order.append(number)) for number in range(50)))
    assert order == list(range(50))
    with pytest.raises(ZeroDivisionError):
        await worker.ask(lambda: 1 // 0)
    worker.stop()
