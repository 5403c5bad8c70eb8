import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from gateway_kit import WatchedStore

from logtune.app.batching import Batcher
from logtune.app.journal import Journal
from logtune.records import Feedback, LogRecord
from logtune.testing import sample_log


@pytest.fixture
def store(tmp_path: Path) -> WatchedStore:
    return WatchedStore(f"sqlite:///{tmp_path / 'logtune.db'}")


async def test_records_are_committed_when_commit_returns(store: WatchedStore) -> None:
    journal = Journal(store)
    assert all(await asyncio.gather(*(journal.commit(sample_log(f"l{n}", "q", "a")) for n in range(20))))
    assert store.count(LogRecord) == 20
    assert await journal.commit(Feedback(id="f", target="l1", at=1.0))
    assert store.count(Feedback) == 1
    await journal.close()


async def test_records_wait_for_a_failing_store_and_the_oldest_give_way(store: WatchedStore) -> None:
    journal = Journal(store, capacity=2)
    store.broken = True
    for number in range(3):
        assert not await journal.commit(sample_log(f"l{number}", "q", "a"))
    assert (journal.waiting, journal.lost, journal.problem) == (2, 1, "the disk is full")
    store.broken = False
    assert await journal.commit(sample_log("l3", "q", "a"))
    assert [record.id for record in store.logs()] == ["l1", "l2", "l3"]
    assert (journal.waiting, journal.problem) == (0, "")
    await journal.close()


async def test_what_never_reaches_the_store_is_counted(store: WatchedStore) -> None:
    journal = Journal(store)
    store.broken = True
    await journal.commit(sample_log("l0", "q", "a"))
    await journal.close()
    assert journal.lost == 1


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
    await batcher.close()
