"""Looking again and again reads what is new, and sees the same as who reads everything."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logtune.edges.live_logs import ALL_S, OVERLAP_S, LiveLogs
from logtune.edges.store import Store
from logtune.records import Feedback, LogRecord
from logtune.testing import sample_log

START = 1_750_000_000.0


class CountingStore(Store):
    """Counts what is read."""

    read = 0

    def logs(self, since: float = 0.0, *, shadow: bool = False) -> Iterator[LogRecord]:
        for log in super().logs(since, shadow=shadow):
            self.read += 1
            yield log

    def feedback(self, since: float | None = None) -> Iterator[Feedback]:
        for item in super().feedback(since):
            self.read += 1
            yield item


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CountingStore]:
    made = CountingStore(f"sqlite:///{tmp_path / 'logtune.db'}")
    yield made
    made.close()


def log(number: int, at: float) -> LogRecord:
    return sample_log(f"log-{number}", "where is my parcel", "late", "ann", at)


def rating(number: int, at: float, value: float = 1.0) -> Feedback:
    return Feedback(id=f"fb-{number}", target=f"log-{number}", at=at, value=value)


def everything(store: Store, since: float) -> tuple[list[LogRecord], list[Feedback]]:
    return list(store.logs(since, shadow=True)), list(store.feedback())


def seen(live: LiveLogs, store: Store, since: float, now: float) -> tuple[list[LogRecord], list[Feedback]]:
    logs, feedback = live.read(store, since, now)
    return list(logs), list(feedback)


def test_a_look_reads_what_is_new_and_sees_all(store: CountingStore) -> None:
    days = [log(number, START + 86_400 * number) for number in range(30)]
    store.add_logs([*days, replace(days[3], id="shadow", source="shadow")])
    store.put_feedback([rating(number, START + 86_400 * number) for number in range(30)])
    live, now = LiveLogs(), START + 86_400 * 30
    assert seen(live, store, START, now) == everything(store, START)
    store.add_logs([log(99, now)])
    store.put_feedback([rating(5, now, -1.0)])  # somebody thought better of it
    store.read = 0
    found = seen(live, store, START, now + 60)
    assert store.read <= 4  # the hour before the newest, and what is new
    assert found == everything(store, START)


def test_what_came_late_is_found_within_hours(store: CountingStore) -> None:
    live = LiveLogs()
    store.add_logs([log(1, START + 86_400)])
    live.read(store, START, START + 86_400)
    store.add_logs([log(2, START + 86_400 - OVERLAP_S - 1)])  # it waited on disk
    assert len(live.read(store, START, START + 86_400 + 60)[0]) == 1
    assert len(live.read(store, START, START + 86_400 + ALL_S)[0]) == 2


def test_an_earlier_test_needs_earlier_logs(store: CountingStore) -> None:
    live = LiveLogs()
    store.add_logs([log(number, START + 3600 * number) for number in range(9)])
    for since in (START + 3600 * 5, START, START + 3600 * 7):
        assert seen(live, store, since, START + 86_400) == everything(store, since)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.floats(0, OVERLAP_S - 1)), max_size=20))
def test_whatever_comes_within_the_hour_is_seen(
    tmp_path_factory: pytest.TempPathFactory, coming: list[tuple[bool, int, float]]
) -> None:
    made = CountingStore(f"sqlite:///{tmp_path_factory.mktemp('store') / 'logtune.db'}")
    live, now = LiveLogs(), START + ALL_S / 2
    for is_log, number, late in coming:
        now += 60
        if is_log:
            made.add_logs([log(number, now - late)])
        else:
            made.put_feedback([rating(number, now, 1.0 if late > 1800 else -1.0)])
        assert seen(live, made, START, now) == everything(made, START)
    made.close()
