"""Live tests that are played: the rules hold what they promise, in few runs here and in many in benchmarks/proof.py."""

import numpy as np
import pytest
import scipy

from logtune.config_experiment import ExperimentSettings
from logtune.simulation import World, fixed_horizon, play

SHORT = ExperimentSettings(max_users=1500)


@pytest.mark.parametrize("world", [World(), World(kind="rate"), World(kind="real", mean=0.8, spread=0.2)])
def test_equal_arms_are_rarely_told_apart(world):
    played = play(world, SHORT, runs=300, seed=1)
    assert played.promoted + played.rolled_back <= scipy.stats.binom.ppf(0.9999, 300, 0.05) / 300
    assert played.peeked > played.promoted + played.rolled_back  # what a z-test looked at as often does


def test_a_worse_arm_is_rolled_back_before_many_had_it():
    played = play(World(effect=-0.2), SHORT, runs=100, seed=2)
    assert played.rolled_back > 0.9
    exposed, users = played.exposed["q50"], played.users["q50"]
    assert exposed is not None
    assert users is not None
    assert exposed < users / 2  # the ramp gave it to fewer than half of them


@pytest.mark.parametrize(("traffic", "window"), [(150, 24.0), (1000, 24.0), (4000, 6.0)])
def test_traffic_exposes_no_more_than_it_must(traffic, window):
    """A window's users come before the first outcome is known; how many of them have the candidate is limited."""
    rules = ExperimentSettings(window_hours=window)
    played = play(World(effect=-0.1, traffic=traffic), rules, runs=200, seed=2)
    assert played.rolled_back > 0.98
    assert played.waiting == pytest.approx(traffic * window / 24, rel=0.02)
    exposed, users = played.exposed["q50"], played.users["q10"]
    assert exposed is not None
    assert users is not None
    assert exposed < 450
    assert users > played.waiting


def test_a_test_ends_when_its_days_are_over():
    played = play(World(effect=0.02, traffic=50), ExperimentSettings(max_days=10), runs=30, seed=3)
    assert played.undecided > 0.8
    assert (played.exposed["q90"] or 1e9) < 300


def test_users_of_a_small_share_count_for_less():
    """So a test of a busy cluster, which begins with a hundredth, is not over before it has compared anybody."""
    busy = play(World(effect=0.2, traffic=6000), ExperimentSettings(max_users=5000), runs=40, seed=3)
    assert busy.promoted > 0.9
    assert (busy.users["q10"] or 0) > 5000


def test_a_better_arm_is_promoted():
    assert play(World(effect=0.2), SHORT, runs=60, seed=3).promoted > 0.9


def test_the_same_seed_plays_the_same():
    assert play(World(effect=0.1), SHORT, runs=30, seed=4) == play(World(effect=0.1), SHORT, runs=30, seed=4)


def test_looking_rarely_decides_late():
    often, rarely = (play(World(effect=-0.2), SHORT, runs=60, seed=5, every=every) for every in (1, 500))
    assert {rarely.users[name] for name in ("q10", "q50")} <= {500.0, 1000.0, 1500.0}
    assert (rarely.users["q50"] or 0) > (often.users["q50"] or 0)


def test_outcomes_of_logs_are_drawn_and_shifted():
    world = World(kind="logged", logged=(0.0, 0.5, 1.0, 1.0), effect=0.15)
    played = play(world, SHORT, runs=60, seed=6)
    assert played.promoted > 0.5
    assert played.rolled_back == 0


def test_the_fixed_horizon_is_that_of_the_textbook():
    """Users a arm: (z + z)^2 (p q + p' q') / d^2."""
    z = scipy.stats.norm.isf(0.025) + scipy.stats.norm.isf(0.2)
    expected = 2 * z**2 * (0.6 * 0.4 + 0.65 * 0.35) / 0.05**2
    assert fixed_horizon(World(effect=0.05)) == pytest.approx(expected, rel=0.01)


def test_what_is_made_up_has_the_mean_it_should():
    from logtune.simulation import _values

    rng, ours = np.random.default_rng(7), np.array([[True, False] * 20_000])
    for world in (World(effect=0.1), World(kind="rate", effect=0.1), World(kind="real", effect=0.1),
                  World(kind="logged", logged=(0.2, 1.0), effect=0.1)):  # fmt: skip
        values = _values(world, rng, ours, 0)
        assert values.min() >= 0
        assert values.max() <= 1
        assert values[ours].mean() == pytest.approx(0.7, abs=0.01)
        assert values[~ours].mean() == pytest.approx(0.6, abs=0.01)
