"""Old evidence weighs less, in training and in whose word holds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.config_trust import TrustSettings
from logtune.records import DAY_S
from logtune.stages import trust
from logtune.stages.decay import unfaded, weight

TIMES = st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.floats(0, 1000), max_size=40)


def test_a_half_life_halves() -> None:
    assert weight(0, 30) == 1
    assert weight(30 * DAY_S, 30) == pytest.approx(0.5)
    assert weight(90 * DAY_S, 30) == pytest.approx(0.125)
    assert weight(1e12, 0) == 1
    assert weight(-5, 30) == 1


def test_of_old_evidence_a_share_trains_that_is_its_weight() -> None:
    said_at = {f"old-{n}": 0.0 for n in range(4000)} | {f"new-{n}": 60 * DAY_S for n in range(100)}
    kept = unfaded(said_at, 30, always=0, most=10_000)
    assert sum(name.startswith("new") for name in kept) == 100
    assert sum(name.startswith("old") for name in kept) == pytest.approx(1000, abs=100)


def test_few_lessons_never_fade_and_of_too_many_the_newer_ones_are_likelier() -> None:
    said_at = {f"old-{n}": 0.0 for n in range(400)} | {f"new-{n}": 60 * DAY_S for n in range(400)}
    assert unfaded(said_at, 30, always=800, most=10_000) == set(said_at)
    kept = unfaded(said_at, 30, always=800, most=200)
    assert len(kept) == 200
    assert sum(name.startswith("new") for name in kept) > 120


@given(TIMES, st.integers(0, 50), st.integers(1, 50))
def test_what_trains_is_within_its_limits(days: dict[str, float], always: int, most: int) -> None:
    said_at = {name: day * DAY_S for name, day in days.items()}
    kept = unfaded(said_at, 30, always=always, most=most)
    assert kept <= set(said_at)
    assert min(len(said_at), always, most) <= len(kept) <= most
    assert unfaded(said_at, 0, always=0, most=100) == set(said_at)


@given(TIMES, st.floats(1, 500))
def test_time_alone_changes_nothing_and_what_has_faded_does_not_come_back(days: dict[str, float], later: float) -> None:
    said_at = {name: day * DAY_S for name, day in days.items()}
    kept = unfaded(said_at, 30, always=0, most=100)
    assert unfaded({name: at + 1e9 for name, at in said_at.items()}, 30, always=0, most=100) == kept
    newest = max(said_at.values(), default=0.0) + later * DAY_S
    assert unfaded({**said_at, "new": newest}, 30, always=0, most=100) - {"new"} <= kept


@pytest.mark.parametrize(("half_life", "held"), [(0.0, "new"), (30.0, "old")])
def test_the_newer_word_outweighs_an_older_one_that_more_have_said(half_life: float, held: str) -> None:
    """Twelve users said A two years ago, seven say B today about the very same request: too few for a changed fact."""
    old = [trust.Claim(id=f"old-{n}", user=f"o{n}", answer="a", at=float(n)) for n in range(12)]
    day = 730 * DAY_S
    new = [trust.Claim(id=f"new-{n}", user=f"n{n}", answer="b", at=day + n) for n in range(7)]
    vectors = np.ones((19, 1), dtype=np.float32)
    settings = TrustSettings(
        half_life_days=half_life, heard=0.5, neighbours=18, unheard=18, change_users=50, burst_users=50
    )
    doubts = trust.weigh([*old, *new], vectors, settings).doubts
    assert {name.split("-")[0] for name in doubts} == {held}
