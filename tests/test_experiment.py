"""Sticky assignment, and what a candidate's evidence decides."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logtune.errors import InputError
from logtune.records import Evaluation, identified
from logtune.stages.experiment import EVEN, Observation, assign, decide, live

USERS = [f"user:{number}" for number in range(3000)]


def evaluation(outcome="passed", **fields) -> Evaluation:
    given_fields = {
        "id": "", "cluster_id": "clu-1", "candidate": "expert", "adapter_id": "ada-1", "baseline": "base",
        "interaction_ids": ("int-1",), "cases": 20, "wins": 15, "ties": 2, "win_rate": 0.8, "lower": 0.6, "upper": 0.92,
        "guards": {}, "outcome": outcome, "reason": "won 15 of 20",
    }  # fmt: skip
    return identified(Evaluation(**{**given_fields, **fields}))


def observations(rng, units: int, base: float, candidate: float) -> list[Observation]:
    """Thumbs of `units` users, evenly assigned."""
    rates = {"base": base, "candidate": candidate}
    arms = ["base" if draw else "candidate" for draw in rng.integers(0, 2, units)]
    return [
        Observation(unit=f"user:{number}", arm=arm, value=float(rng.random() < rates[arm]))
        for number, arm in enumerate(arms)
    ]


# assign


def test_assignment_is_sticky_and_salted():
    first = [assign(user, "exp-1", EVEN) for user in USERS]
    assert first == [assign(user, "exp-1", dict(reversed(EVEN.items()))) for user in USERS]
    other = [assign(user, "exp-2", EVEN) for user in USERS]
    assert 0.45 < np.mean([a == b for a, b in zip(first, other, strict=True)]) < 0.55


def test_a_known_assignment_stays_what_it_is():
    """A changed hash would move every user to another arm in the middle of a test."""
    known = ["base", "candidate", "candidate", "base", "candidate", "candidate"]
    assert [assign(f"user:{number}", "salt", EVEN) for number in range(6)] == known


@pytest.mark.parametrize(
    "shares", [{"base": 0.95, "candidate": 0.05}, {"a": 0.2, "b": 0.3, "c": 0.5}, {"base": 1.0, "x": 0.0}]
)
def test_arms_get_their_shares(shares):
    counts = Counter(assign(user, "even", shares) for user in USERS)
    for arm, share in shares.items():
        assert counts[arm] / len(USERS) == pytest.approx(
            share, abs=3.5 * np.sqrt(share * (1 - share) / len(USERS)) + 1e-9
        )


def test_a_ramp_moves_units_to_the_growing_arm_alone():
    ramp = [
        [assign(user, "ramp", {"base": 1 - share, "candidate": share}) for user in USERS] for share in (0.05, 0.2, 0.5)
    ]
    for before, after in pairwise(ramp):
        moved = {(a, b) for a, b in zip(before, after, strict=True) if a != b}
        assert moved == {("base", "candidate")}


@given(st.text(max_size=20), st.text(max_size=10), st.floats(0.01, 0.99))
@settings(max_examples=60, deadline=None)
def test_any_unit_gets_one_of_the_arms(unit, salt, share):
    shares = {"base": 1 - share, "candidate": share}
    assert assign(unit, salt, shares) in shares
    assert assign(unit, salt, shares) == assign(unit, salt, shares)


@pytest.mark.parametrize("shares", [{}, {"a": 0.5}, {"a": -0.1, "b": 1.1}, {"a": float("nan"), "b": 1.0}, {"a": 2.0}])
def test_bad_shares_are_errors(shares):
    with pytest.raises(InputError, match="no shares of one whole"):
        assign("user:1", "s", shares)


# decide without a live test


def test_a_passed_gate_promotes():
    verdict = decide(evaluation(), live_test=False)
    assert (verdict.decision, verdict.adapter_id, verdict.cluster_id) == ("promote", "ada-1", "clu-1")
    assert verdict.evaluation_id == evaluation().id
    assert (verdict.effect, verdict.lower, verdict.upper) == pytest.approx((0.6, 0.2, 0.84))
    assert verdict.arms == {"base": {"serves": "base"}, "candidate": {"serves": "ada-1", "kind": "expert"}}
    assert "won 15 of 20" in verdict.reason
    assert verdict == decide(evaluation(), live_test=False)


@pytest.mark.parametrize("live_test", [False, True])
def test_what_did_not_pass_is_never_promoted(live_test):
    failed = decide(evaluation("failed"), live_test=live_test)
    assert (failed.decision, failed.reason) == ("stop", "won 15 of 20")
    waiting = decide(evaluation("not_enough_data", win_rate=None, lower=None, upper=None), live_test=live_test)
    assert (waiting.decision, waiting.effect, waiting.lower) == ("extend", None, None)


def test_a_candidate_without_an_adapter():
    verdict = decide(evaluation(candidate="rules", adapter_id=None), live_test=False)
    assert verdict.arms["candidate"] == {"serves": "rules", "kind": "rules"}


# decide with a live test


def test_a_live_test_starts_by_extending():
    verdict = decide(evaluation(), live_test=True)
    assert (verdict.decision, verdict.effect, verdict.lower, verdict.upper) == ("extend", None, -1.0, 1.0)
    assert "after 0 units" in verdict.reason


@pytest.mark.parametrize(
    ("base", "candidate", "decision"), [(0.4, 0.7, "promote"), (0.7, 0.4, "rollback"), (0.6, 0.6, "extend")]
)
def test_the_live_difference_decides(base, candidate, decision):
    verdict = decide(
        evaluation(), live_test=True, outcomes=observations(np.random.default_rng(1), 800, base, candidate)
    )
    assert verdict.decision == decision
    assert verdict.effect == pytest.approx(candidate - base, abs=0.1)
    assert verdict.lower < verdict.effect < verdict.upper
    assert verdict.arms["base"]["units"] + verdict.arms["candidate"]["units"] == 800
    assert verdict.arms["left_out"] == 0
    assert "at every moment" in verdict.reason


def test_units_that_saw_both_arms_are_left_out():
    seen = [Observation(unit="user:1", arm=arm, value=1.0) for arm in ("base", "candidate")]
    state = live([*seen, Observation(unit="user:2", arm="base", value=0.0)], EVEN)
    assert (state.mixed, state.units) == (1, {"base": 1, "candidate": 0})
    assert state.means == {"base": 0.0, "candidate": None}


def test_a_unit_counts_once_with_its_first_outcome():
    state = live([Observation(unit="user:1", arm="base", value=value) for value in (1.0, 0.0, 0.0)], EVEN)
    assert state.means["base"] == 1.0


def test_a_sample_ratio_mismatch_stops():
    found = observations(np.random.default_rng(2), 600, 0.4, 0.8)
    kept = [item for number, item in enumerate(found) if item.arm == "base" or number % 2]
    verdict = decide(evaluation(), live_test=True, outcomes=kept)
    assert verdict.decision == "stop"
    assert "other shares than they were sent (base" in verdict.reason


def test_an_arm_nobody_was_sent_to_is_an_error():
    with pytest.raises(InputError, match="without a share: ghost"):
        live([Observation(unit="user:1", arm="ghost", value=1.0)], EVEN)


def test_equal_arms_are_rarely_told_apart_however_often_one_looks():
    """A/A: decided after the last of 300 users; the bounds only ever tighten, so this is any moment before, too."""
    rng = np.random.default_rng(3)
    decisions = Counter(
        decide(evaluation(), live_test=True, outcomes=observations(rng, 300, 0.6, 0.6)).decision for _ in range(60)
    )
    assert decisions["promote"] + decisions["rollback"] <= 60 * 0.05 + 3 * np.sqrt(60 * 0.05 * 0.95)
