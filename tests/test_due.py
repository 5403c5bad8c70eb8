"""The gates before a cycle: each shut for its own reason, all open together."""

import time
from collections.abc import Callable, Iterator
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.app.due import GATES, GB, Facts, backoff_s, decide, due_at
from logtune.config import build
from logtune.config_schedule import ScheduleSettings, interval_s
from logtune.errors import ConfigError

NOW = time.mktime((2026, 7, 6, 2, 30, 0, 0, 0, -1))  # a Monday
HOUR = 3600.0
DAY = 24 * HOUR


def settings(**given: object) -> ScheduleSettings:
    return ScheduleSettings.model_validate({"every": "7d", **given})


def facts(**given: object) -> Facts:
    usual: dict[str, object] = {
        "now": NOW, "since": NOW - 30 * DAY, "last_began": NOW - 8 * DAY, "last_ended": NOW - 8 * DAY + HOUR,
        "new": 500, "disk_bytes": 100 * GB, "memory_bytes": 8 * GB,
    }  # fmt: skip
    return Facts(**{**usual, **given})  # type: ignore[arg-type]


def test_all_gates_open_is_ready() -> None:
    look = decide(settings(window="01:00-05:00", max_cost_30d=10.0), facts(cost_30d=9.0))
    assert (look.ready, look.reason) == (True, "ready")


SHUT: list[tuple[str, dict[str, object], dict[str, object]]] = [
    ("off", {"every": ""}, {}),
    ("paused", {}, {"paused": "paused by hand: holiday"}),
    ("not_due", {}, {"last_began": NOW - 6 * DAY}),
    ("running", {}, {"holder": "process 7 on there"}),
    ("outside_window", {"window": "03:00-05:00"}, {}),
    ("outside_window", {"window": "22:00-02:30"}, {}),
    ("cooldown", {"every": "30m"}, {"last_began": NOW - 2 * HOUR, "last_ended": NOW - 0.5 * HOUR}),
    ("backing_off", {}, {"failures": 8, "unfinished": True, "last_began": NOW - 2 * DAY}),
    ("not_enough_new", {"min_new": 501}, {}),
    ("disk", {}, {"disk_bytes": GB}),
    ("memory", {}, {"memory_bytes": GB // 2}),
    ("budget", {"max_cost_30d": 10.0}, {"cost_30d": 10.0}),
]


@pytest.mark.parametrize(("reason", "changed", "seen"), SHUT, ids=[row[0] for row in SHUT])
def test_each_gate_shuts_for_its_reason(reason: str, changed: dict[str, object], seen: dict[str, object]) -> None:
    look = decide(settings(**changed), facts(**seen))
    assert (look.ready, look.reason) == (False, reason)
    assert look.detail


def test_every_gate_has_its_case() -> None:
    assert {reason for reason, _ in GATES} == {row[0] for row in SHUT} - {"off"}


@pytest.mark.parametrize("window", ["02:30-02:31", "22:00-02:31", "02:00-05:00"])
def test_a_window_may_reach_over_midnight(window: str) -> None:
    assert decide(settings(window=window), facts()).ready


def test_what_was_stopped_is_continued_without_waiting_for_its_day() -> None:
    just_begun = facts(last_began=NOW - 2 * HOUR, unfinished=True)
    assert decide(settings(), just_begun).ready
    assert decide(settings(), facts(last_began=NOW - 2 * HOUR)).reason == "not_due"


def test_memory_that_the_system_does_not_tell_shuts_nothing() -> None:
    assert decide(settings(), facts(memory_bytes=None)).ready


def test_a_first_cycle_of_an_interval_is_due_at_once_and_of_a_cron_line_at_its_time() -> None:
    assert due_at("7d", facts(last_began=None, since=NOW)) == NOW
    monday_three = time.mktime((2026, 7, 6, 3, 0, 0, 0, 0, -1))
    assert due_at("0 3 * * 1", facts(last_began=None, since=NOW)) == monday_three
    missed = facts(last_began=NOW - 20 * DAY)  # the machine was off
    assert decide(settings(every="0 3 * * 1"), missed).ready


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], float]]:
    """A machine in Berlin; gives the time of a wall clock with its offset."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield lambda text: datetime.fromisoformat(text).timestamp()
    monkeypatch.undo()
    time.tzset()


CRON_NIGHTS: list[tuple[str, str, str]] = [  # every, after, due
    ("0 3 * * 1", "2027-03-22T03:00:04+01:00", "2027-03-29T03:00+02:00"),  # summer time begins on the 28th
    ("0 3 * * 1", "2027-10-25T03:00:04+02:00", "2027-11-01T03:00+01:00"),  # and ends on the 31st
    ("0 3 * * 1", "2027-11-01T02:00+01:00", "2027-11-01T03:00+01:00"),
    ("30 2 * * *", "2027-03-27T02:30:04+01:00", "2027-03-28T03:30+02:00"),  # there is no 02:30 in that night
    ("30 2 * * *", "2027-03-28T03:30:04+02:00", "2027-03-29T02:30+02:00"),
    ("30 2 * * *", "2027-10-30T02:30:04+02:00", "2027-10-31T02:30+02:00"),  # there are two of them in that one
    ("30 2 * * *", "2027-10-31T02:30:04+02:00", "2027-11-01T02:30+01:00"),
    ("30 2 * * *", "2027-10-31T02:10+01:00", "2027-11-01T02:30+01:00"),
]


@pytest.mark.parametrize(("every", "after", "due"), CRON_NIGHTS)
def test_a_cron_line_means_the_clock_on_the_wall(
    every: str, after: str, due: str, berlin: Callable[[str], float]
) -> None:
    assert due_at(every, facts(last_began=berlin(after))) == berlin(due)


@given(st.integers(0, 400), st.floats(0.1, 10), st.floats(10, 200))
def test_waiting_doubles_up_to_its_limit(failures: int, first: float, longest: float) -> None:
    waits = settings(backoff_h=first, longest_backoff_h=longest)
    waited = backoff_s(waits, failures)
    assert 0 <= waited <= 3600 * longest
    assert backoff_s(waits, failures + 1) >= waited
    assert (waited == 0) == (failures == 0)


@pytest.mark.parametrize(("every", "seconds"), [("7d", 7 * DAY), ("12h", 12 * HOUR), ("1.5m", 90.0), ("2w", 14 * DAY)])
def test_intervals(every: str, seconds: float) -> None:
    assert interval_s(every) == seconds


@pytest.mark.parametrize("every", ["0d", "7", "d", "weekly", "0 3 * *", "61 3 * * 1"])
def test_a_time_that_cannot_be_read_is_refused(every: str) -> None:
    assert interval_s(every) is None
    with pytest.raises(ConfigError, match=r"schedule\.every"):
        build({"schedule": {"every": every}})


def test_a_window_that_never_opens_is_refused() -> None:
    with pytest.raises(ConfigError, match="no cycle could ever begin"):
        build({"schedule": {"window": "03:00-03:00"}})


def test_a_timer_of_the_caller_stands_in_for_a_time_that_is_not_set() -> None:
    just_begun = facts(last_began=NOW - 2 * HOUR, last_ended=NOW - 1.5 * HOUR)
    assert decide(settings(every=""), just_begun, timer=True).ready
    assert decide(settings(every="7d"), just_begun, timer=True).reason == "not_due"
    assert decide(settings(every="", min_new=501), just_begun, timer=True).reason == "not_enough_new"


def test_a_window_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"01:00-05:00"):
        build({"schedule": {"window": "25:00-26:00"}})


def test_the_schedule_does_not_change_what_is_learned() -> None:
    assert build({"schedule": {"every": "7d"}}).config_hash == build({}).config_hash
