"""Off-policy estimates: against simulated worlds whose gain is known, and the sentence on traffic."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.errors import InputError
from logtune.stages.offpolicy import Logged, Strata, Traffic, expected, lift, outlook, users_needed
from logtune.statistics import Estimate

RAMP = (0.05, 0.2, 0.5)


def world(seed: int, users: int = 900, gain: float = 0.08, drift: float = 0.3, modelled: bool = False) -> list[Logged]:
    """A ramp while outcomes drift: late users, of whom more get the candidate, are happier whatever they get."""
    drawn = np.random.default_rng(seed)
    found = []
    for number in range(users):
        share = RAMP[min(2, 3 * number // users)]
        ours = bool(drawn.random() < share)
        base = 0.4 + drift * number / users
        outcome = float(drawn.random() < base + gain * ours)
        found.append(
            Logged(
                candidate=ours, propensity=share, outcome=outcome, expected=(base, base + gain) if modelled else None
            )
        )
    return found


@pytest.mark.parametrize("modelled", [False, True])
def test_every_estimator_covers_the_true_gain_and_plain_means_do_not(modelled: bool) -> None:
    runs, covered, sums, plain = 400, [0, 0, 0], [0.0, 0.0, 0.0], 0.0
    for seed in range(runs):
        units = world(seed, modelled=modelled)
        for number, found in enumerate(lift(units)):
            covered[number] += found.estimate.low <= 0.08 <= found.estimate.high
            sums[number] += found.estimate.mean / runs
        ours = [unit.outcome for unit in units if unit.candidate]
        base = [unit.outcome for unit in units if not unit.candidate]
        plain += (np.mean(ours) - np.mean(base)) / runs
    assert all(count / runs >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / runs) for count in covered)
    assert sums == pytest.approx([0.08] * 3, abs=0.02)
    assert plain > 0.12  # the drift, taken for a gain


def test_a_good_model_narrows_the_doubly_robust_interval() -> None:
    by_method = {found.method: found.estimate for found in lift(world(1, drift=0.5, modelled=True))}
    width = {name: found.high - found.low for name, found in by_method.items()}
    assert width["dr"] < width["snips"] < width["ips"]


def test_against_the_formula_by_hand() -> None:
    units = [
        Logged(candidate=number // 2 % 2 == 0, propensity=0.5, outcome=float(number // 2 % 4 == 0))
        for number in range(80)
    ]
    ips, snips, dr = lift(units)
    assert ips.estimate.mean == pytest.approx(0.5)  # half of the candidate's outcomes are good, none of the base's
    assert snips.estimate.mean == pytest.approx(0.5)
    assert dr.estimate.mean == pytest.approx(0.5)
    assert ips.effective == (40.0, 40.0)


def test_what_cannot_be_weighed() -> None:
    with pytest.raises(InputError, match="too few to weigh"):
        lift([])
    with pytest.raises(InputError, match="propensities reach from"):
        lift([Logged(candidate=False, propensity=0.0, outcome=1.0)] * 50)


def test_the_expected_gain_weighs_those_who_were_content_and_those_who_were_not() -> None:
    strata = Strata(
        corrected=[(True, False)] * 8 + [(False, False)] * 2, praised=[(True, True)] * 9 + [(False, True)],
        dissatisfied=30, users=100,
    )  # fmt: skip
    found = expected(strata)
    assert found is not None
    assert found.mean == pytest.approx(0.3 * 0.8 - 0.7 * 0.1)
    assert found.low < found.mean < found.high
    alone = expected(Strata(corrected=strata.corrected, praised=[], dissatisfied=30, users=100))
    assert alone is not None
    assert alone.mean == pytest.approx(0.24)
    assert expected(Strata(corrected=[], praised=strata.praised, dissatisfied=30, users=100)) is None


def test_the_expected_gain_covers_the_true_one() -> None:
    drawn, runs, covered = np.random.default_rng(4), 400, 0
    for _ in range(runs):
        fixed, broken = drawn.random(25) < 0.6, drawn.random(15) < 0.05
        found = expected(
            Strata(
                corrected=[(bool(each), False) for each in fixed],
                praised=[(not each, True) for each in broken],
                dissatisfied=int(drawn.binomial(300, 0.25)),
                users=300,
            )
        )
        assert found is not None
        covered += found.low <= 0.25 * 0.6 - 0.75 * 0.05 <= found.high
    assert covered / runs >= 0.95


def test_users_needed_against_the_published_formula() -> None:
    """Fleiss, Levin and Paik, table of 60% against 65%: 1,471 a group at 5% and 80% (without continuity correction)."""
    assert users_needed(0.6, 0.05) == pytest.approx(2 * 2 * 1471, rel=0.01)
    assert users_needed(0.6, 0.0) is None
    assert users_needed(1.0, 0.05) is None


def test_the_outlook_is_a_sentence() -> None:
    gain = Estimate(0.05, 0.01, 0.09)
    fine = outlook(gain, Traffic(users_per_day=200, content=0.6), max_days=56)
    assert fine.possible
    assert fine.reason.startswith("expected gain +5.0 points of content users (+1.0 to +9.0), 200.0 users a day")
    assert fine.days == pytest.approx(29.4, abs=0.5)
    slow = outlook(gain, Traffic(users_per_day=3, content=0.6), max_days=56)
    assert not slow.possible
    assert "not enough traffic to ever prove this" in slow.reason
    assert slow.least_gain is not None
    assert slow.least_gain > 0.2
    assert "none come" in outlook(gain, Traffic(users_per_day=0, content=0.6), max_days=56).reason
    assert "no gain to show" in outlook(Estimate(-0.1, -0.2, 0.0), Traffic(users_per_day=9, content=0.6), 56).reason


@given(st.floats(0, 1), st.floats(0.001, 0.5), st.floats(0, 1e5))
def test_a_larger_gain_never_needs_more_users(content: float, gain: float, users: float) -> None:
    small, large = (users_needed(content, size) for size in (gain, 1.5 * gain))
    assert small is None or (large is not None and large <= small + 1)
    found = outlook(Estimate(gain, 0.0, 1.0), Traffic(users_per_day=users, content=content), 56)
    assert not found.possible or (found.days is not None and found.days <= 56.1)
