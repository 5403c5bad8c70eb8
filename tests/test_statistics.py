"""Intervals and tests against published numbers, by exact enumeration where that is possible, else by simulation."""

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import multinomial

from logtune import statistics
from logtune.errors import InputError

counts = st.integers(0, 60)
SIZES, TIE_SHARES = (8, 12, 20, 40, 100), (0.0, 0.3, 0.8)


@cache
def outcomes(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All (wins, ties, losses) of n comparisons with both ends of their intervals."""
    every = [(wins, ties, n - wins - ties) for wins in range(n + 1) for ties in range(n - wins + 1)]
    found = [statistics.win_rate_interval(*each) for each in every]
    return np.array(every), np.array([each.low for each in found]), np.array([each.high for each in found])


def chances(n: int, win_rate: float, tie_share: float) -> np.ndarray:
    decided = 1 - tie_share
    win = decided / 2 + win_rate - 0.5
    return np.asarray(multinomial.pmf(outcomes(n)[0], n, [win, tie_share, decided - win]))


# win_rate_interval


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("tie_share", TIE_SHARES)
def test_a_null_candidate_rarely_gets_a_lower_bound_above_a_half(n, tie_share):
    _, low, _ = outcomes(n)
    assert chances(n, 0.5, tie_share)[low > 0.5].sum() <= 0.025


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("tie_share", TIE_SHARES)
def test_the_interval_covers_the_true_win_rate(n, tie_share):
    _, low, high = outcomes(n)
    for win_rate in np.arange(0.5, 1 - tie_share / 2, 0.02):
        chance = chances(n, win_rate, tie_share)
        assert chance[(low <= win_rate) & (win_rate <= high)].sum() >= 0.93
        assert chance[low > win_rate].sum() <= 0.05


@pytest.mark.parametrize("n", [8, 37, 200])
@pytest.mark.parametrize("tie_share", [0.0, 0.5, 0.9])
def test_null_error_by_simulation(n, tie_share):
    rng = np.random.default_rng(n)
    half = (1 - tie_share) / 2
    drawn = rng.multinomial(n, [half, tie_share, half], size=4000)
    found = {tuple(each): statistics.win_rate_interval(*map(int, each)).low > 0.5 for each in np.unique(drawn, axis=0)}
    assert np.mean([found[tuple(each)] for each in drawn]) <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / 4000)


@given(wins=counts, ties=counts, losses=counts)
@settings(max_examples=200, deadline=None)
def test_the_interval_holds_the_estimate_and_mirrors(wins, ties, losses):
    found = statistics.win_rate_interval(wins, ties, losses)
    n = wins + ties + losses
    assert 0 <= found.low <= ((wins + ties / 2) / n if n else 0.5) <= found.high <= 1
    mirrored = statistics.win_rate_interval(losses, ties, wins)
    assert found.low == pytest.approx(1 - mirrored.high, abs=1e-8)


@given(wins=counts, ties=counts, losses=counts)
@settings(max_examples=200, deadline=None)
def test_the_lower_bound_is_above_a_half_exactly_where_the_sign_test_rejects(wins, ties, losses):
    rejected = statistics.sign_test(wins, losses) <= 0.025
    assert (statistics.win_rate_interval(wins, ties, losses).low > 0.5) == rejected


def test_without_comparisons_everything_is_possible():
    assert statistics.win_rate_interval(0, 0, 0) == statistics.Interval(0, 1)


def test_tango_against_published_intervals():
    # Fagerland, Lydersen and Laake (2014), table 6, after Bentur et al. (2009): 1 and 7 discordant of 21.
    low, high = statistics._tango_low(1, 7, 21, 0.95), -statistics._tango_low(7, 1, 21, 0.95)
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)


@given(wins=st.integers(0, 30), ties=counts, losses=st.integers(0, 30), percent=st.integers(-90, 90))
@settings(max_examples=60, deadline=None)
def test_tango_against_a_numeric_maximum_of_the_likelihood(wins, ties, losses, percent):
    n, difference = wins + ties + losses, percent / 100
    assume(n)

    def minus_likelihood(loss_share):
        shares = (loss_share + difference, loss_share, 1 - 2 * loss_share - difference)
        pairs = zip((wins, losses, ties), shares, strict=True)
        return -sum(count * math.log(max(share, 1e-300)) for count, share in pairs if count)

    bounds = (max(0.0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12)
    best = minimize_scalar(minus_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-10}).x
    variance = n * (2 * best + difference * (1 - difference))
    expected = (wins - losses - n * difference) / math.sqrt(variance)
    assert statistics.tango_statistic(wins, losses, n, difference) == pytest.approx(expected, rel=1e-3, abs=1e-3)


# shares


def test_wilson_and_clopper_pearson_against_published_values():
    # Newcombe (1998), Statistics in Medicine 17, 857-872, table I: 81 of 263 and 0 of 20.
    wilson, none = statistics.wilson(81, 263), statistics.wilson(0, 20)
    assert (round(wilson.low, 4), round(wilson.high, 4)) == (0.2553, 0.3662)
    assert (round(none.low, 4), round(none.high, 4)) == (0.0, 0.1611)
    exact = statistics.clopper_pearson(81, 263)
    assert (round(exact.low, 4), round(exact.high, 4)) == (0.2527, 0.3676)
    assert round(statistics.clopper_pearson(0, 20).high, 4) == 0.1684
    assert statistics.wilson(0, 0) == statistics.clopper_pearson(0, 0) == statistics.Interval(0, 1)


def test_negative_counts_are_errors():
    with pytest.raises(InputError, match="negative"):
        statistics.wilson(5, 3)
    with pytest.raises(InputError, match="negative"):
        statistics.win_rate_interval(-1, 0, 0)


def test_sign_test():
    assert statistics.sign_test(8, 0) == pytest.approx(1 / 256)
    assert statistics.sign_test(7, 1) == pytest.approx(9 / 256)
    assert statistics.sign_test(0, 0) == 1.0


# paired_difference


def test_paired_difference_of_right_and_wrong_answers():
    after, before = [1.0] * 18 + [0.0] * 2, [0.0] * 20
    found = statistics.paired_difference(after, before)
    share = statistics.win_rate_interval(18, 2, 0)
    assert found.mean == pytest.approx(0.9)
    assert (found.low, found.high) == pytest.approx((2 * share.low - 1, 2 * share.high - 1))
    assert statistics.paired_difference([1.0], [0.0]).low < 0 < 1 == statistics.paired_difference([1.0], [0.0]).high


def test_paired_difference_of_real_values_depends_on_the_seed_alone():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.3, 1, 60).tolist(), rng.normal(0, 1, 60).tolist()
    found = statistics.paired_difference(a, b, seed=7)
    assert found == statistics.paired_difference(a, b, seed=7)
    assert found != statistics.paired_difference(a, b, seed=8)
    assert found.low < found.mean < found.high
    assert found.mean == pytest.approx(np.mean(np.subtract(a, b)))


def test_bootstrap_interval_covers():
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(120):
        a = rng.beta(2, 1, 40)
        found = statistics.paired_difference(a.tolist(), [0.5] * 40, seed=trial)
        hits += found.low <= 2 / 3 - 0.5 <= found.high
    assert hits / 120 >= 0.89  # 95% nominal, less three standard errors


def test_paired_difference_of_odd_input():
    assert statistics.paired_difference([0.5, 0.5], [0.2, 0.2]) == statistics.Estimate(0.3, 0.3, 0.3)
    for a, b in (([], []), ([1.0], [1.0, 2.0]), ([0.5], [0.2])):
        with pytest.raises(InputError):
            statistics.paired_difference(a, b)


# power


@pytest.mark.parametrize(("win_rate", "tie_share"), [(0.5, 0.0), (0.5, 0.6), (0.65, 0.3), (0.8, 0.0)])
@pytest.mark.parametrize("n", [8, 20, 40])
def test_power_is_the_chance_of_passing(n, win_rate, tie_share):
    every, low, _ = outcomes(n)
    rates = (every[:, 0] + every[:, 1] / 2) / n
    for least in (0.5, 0.6):
        passed = chances(n, win_rate, tie_share)[(low > 0.5) & (rates >= least)].sum()
        assert statistics.power(n, win_rate, tie_share, least=least) == pytest.approx(passed, abs=1e-9)


def test_needed_cases_reach_the_power_and_hardly_more():
    for win_rate, tie_share in ((0.6, 0.3), (0.75, 0.0), (0.9, 0.2)):
        needed = statistics.needed_cases(win_rate, tie_share)
        assert statistics.power(needed, win_rate, tie_share) >= 0.8
        assert statistics.power(needed // 2, win_rate, tie_share) < 0.8
    # Noether (1987): (1.96 + 0.84)^2 / (4 (0.75 - 0.5)^2) = 31.4.
    assert 31 <= statistics.needed_cases(0.75, 0.0) <= 36  # the exact test asks for a few more


def test_what_no_number_of_cases_can_prove():
    assert statistics.needed_cases(0.5, 0.2) is None
    assert statistics.needed_cases(0.501, 0.0) is None
    assert statistics.power(0, 0.9, 0.0) == 0.0


# uniform, unit_of


def test_uniform_is_stable_and_even():
    assert statistics.uniform("salt", "user:1") == 0.9521513460658442  # a changed hash would move every user
    places = np.array([statistics.uniform("salt", f"user:{number}") for number in range(4000)])
    assert places.min() >= 0
    assert places.max() < 1
    filled = np.histogram(places, 20, (0, 1))[0]
    assert ((filled - 200) ** 2 / 200).sum() < 43.8  # chi-square with 19 degrees of freedom, p 0.001
    assert statistics.uniform("a", "bc") != statistics.uniform("ab", "c")


def test_unit_of_says_which_unit_was_used():
    assert statistics.unit_of("u", "s", "r") == "user:u"
    assert statistics.unit_of(None, "s", "r") == statistics.unit_of("", "s", "r") == "session:s"
    assert statistics.unit_of(None, None, "r") == "request:r"
