"""Anytime-valid tests: against formulas and enumeration, and by simulation with a look after every unit."""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st

from logtune import sequential
from logtune.sequential import Units, advance, begin, bounds, crossing, due, split_boundary, split_capital


def units(rng, rows: int, length: int, base: float, candidate: float, chance=0.5) -> Units:
    chances = np.broadcast_to(np.asarray(chance, dtype=float), (rows, length))
    ours = rng.random((rows, length)) < chances
    value = (rng.random((rows, length)) < np.where(ours, candidate, base)).astype(float)
    return Units(ours, chances, value, np.ones(ours.shape, dtype=bool))


def test_a_bet_by_hand():
    """Two units, one gambler's capital worked out from the definition."""
    told = Units(np.array([[True, False]]), np.array([[0.2, 0.2]]), np.array([[1.0, 0.0]]), np.ones((1, 2), dtype=bool))
    after, _ = advance(begin(), told)
    size, weight = sequential.SIZES[3], sequential.WEIGHTS[3]
    first_x = (1.0 - 0.5) / 0.2
    first = 1 + min(size / (0.25 / 0.16), 0.8 / (0.5 / 0.2)) * first_x
    mean, spread = 1.5 / 2, (0.25 + 0.25) / 2
    second_x = -(0.0 - mean) / 0.8
    second = 1 + min(size / (spread / 0.16), 0.8 / max(mean / 0.2, (1 - mean) / 0.8)) * second_x
    assert after.up[0, 3] == pytest.approx(weight * first * second)


@given(st.lists(st.tuples(st.booleans(), st.floats(0.02, 0.98), st.floats(0, 1)), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_capital_stays_positive_and_is_a_fair_game(items):
    """Under the null the next factor's mean over the draw of the arm is 1, whatever came before and comes now."""
    ours, chance, value = (np.array([column]) for column in zip(*items, strict=True))
    told = Units(ours, chance, value, np.ones(ours.shape, dtype=bool))
    before = begin()
    if len(items) > 1:
        before, _ = advance(before, Units(*(getattr(told, name)[:, :-1] for name in told.__slots__)))
    last = [
        Units(np.array([[arm]]), chance[:, -1:], value[:, -1:], np.ones((1, 1), dtype=bool)) for arm in (True, False)
    ]
    (win, _), (loss, _) = (advance(before, item) for item in last)
    p = chance[0, -1]
    for side in ("up", "down"):
        assert (getattr(win, side) > 0).all()
        mean = p * getattr(win, side) + (1 - p) * getattr(loss, side)
        assert mean == pytest.approx(getattr(before, side), rel=1e-9)


def test_pieces_and_the_whole_agree():
    told = units(np.random.default_rng(0), 3, 90, 0.6, 0.7, 0.3)
    whole, course = advance(begin(3), told)
    capital = begin(3)
    for start in range(0, 90, 37):
        part = Units(*(getattr(told, name)[:, start : start + 37] for name in told.__slots__))
        capital, piece = advance(capital, part)
        assert piece.up == pytest.approx(course.up[:, start : start + 37])
    assert capital.up == pytest.approx(whole.up)
    assert capital.down == pytest.approx(whole.down)


def test_units_that_do_not_count_change_nothing():
    told = units(np.random.default_rng(1), 1, 50, 0.5, 0.9)
    kept = np.arange(50) % 2 == 0
    half = Units(told.candidate, told.chance, told.value, kept[None])
    alone = Units(*(getattr(told, name)[:, kept] for name in told.__slots__))
    assert advance(begin(), half)[0].up == pytest.approx(advance(begin(), alone)[0].up)


@pytest.mark.parametrize("mean", [0.05, 0.6])
def test_equal_arms_are_rarely_told_apart_over_a_ramp_with_a_look_after_every_unit(mean):
    rows, length = 600, 600
    chance = np.where(np.arange(length) < 200, 1 / 11, np.where(np.arange(length) < 350, 2 / 7, 0.5))
    swinging = mean + 0.04 * np.sin(np.arange(length) / 30)  # what users are like may change with time
    told = units(np.random.default_rng(2), rows, length, swinging, swinging, chance)
    _, course = advance(begin(rows), told)
    for capital in (course.up, course.down):
        wrong = int((capital >= 40).any(axis=1).sum())
        assert wrong <= scipy.stats.binom.ppf(0.9999, rows, 1 / 40)


def test_margins_shift_what_is_asked():
    told = units(np.random.default_rng(3), 40, 1000, 0.6, 0.55)
    _, strict = advance(begin(40), told, null_down=0.0)
    _, lenient = advance(begin(40), told, null_down=-0.2)
    assert (lenient.down[:, -1] < strict.down[:, -1]).all()
    assert lenient.down.max() < 40  # 5 points worse is within 20
    _, sure = advance(begin(40), told, null_up=-0.2)
    assert (sure.up[:, -1] > 20).mean() > 0.9  # and surely not 20 worse


def test_bounds_say_what_the_capital_says():
    """The lower bound is above 0 from the moment at which the gamblers reach 2 / alpha."""
    told = units(np.random.default_rng(4), 1, 400, 0.3, 0.8)
    _, course = advance(begin(), told)
    first = int((course.up[0] >= 40).argmax()) + 1
    found = bounds(told, 0.05, [first - 1, first, 400])
    assert found[0].low <= 0 < found[1].low + 2.0**-sequential.BISECTIONS * 2
    assert found[2].low > 0
    assert all(item.low <= 0.5 <= item.high for item in found)


def test_bounds_cover_the_difference_at_every_look():
    rows, missed = 120, 0
    rng = np.random.default_rng(5)
    for _ in range(rows):
        told = units(rng, 1, 200, 0.4, 0.6, 0.3)
        found = bounds(told, 0.2, [50, 100, 150, 200])
        assert all(b.low >= a.low and b.high <= a.high for a, b in pairwise(found))
        missed += not found[-1].low <= 0.2 <= found[-1].high
    assert missed <= scipy.stats.binom.ppf(0.9999, rows, 0.2)


def test_mirrored_arms_give_mirrored_bounds():
    told = units(np.random.default_rng(6), 1, 150, 0.4, 0.6, 0.3)
    swapped = Units(~told.candidate, 1 - told.chance, told.value, told.counted)
    (found,), (other,) = bounds(told, 0.05, [150]), bounds(swapped, 0.05, [150])
    assert (other.low, other.high) == pytest.approx((-found.high, -found.low), abs=1e-3)


# the split


def test_split_capital_is_the_bayes_factor_of_a_beta_prior():
    n1, n0, p = 13.0, 7.0, 0.3
    a, b = sequential.SRM_PRIOR * p, sequential.SRM_PRIOR * (1 - p)
    likelihood, _ = scipy.integrate.quad(lambda q: scipy.stats.beta.pdf(q, a, b) * q**n1 * (1 - q) ** n0, 0, 1)
    assert split_capital(np.array(n1), np.array(n0), np.array(p)) == pytest.approx(likelihood / (p**n1 * (1 - p) ** n0))


def test_split_capital_is_a_fair_game():
    """Its mean over all outcomes of 12 fair units is 1, by enumeration."""
    heads = np.arange(13.0)
    capital = split_capital(heads, 12 - heads, np.full(13, 0.3))
    assert scipy.stats.binom.pmf(heads, 12, 0.3) @ capital == pytest.approx(1.0)


def test_the_chance_of_crossing_is_that_of_textbooks():
    assert crossing(1.959964, looks=1) == pytest.approx(0.05, abs=1e-6)
    assert crossing(1.977, looks=2) == pytest.approx(0.05, abs=2e-4)  # O'Brien-Fleming, Jennison and Turnbull table 2.3
    assert crossing(2.040, looks=5) == pytest.approx(0.05, abs=3e-4)
    assert crossing(1.959964, drift=3.0, looks=1) == pytest.approx(
        scipy.stats.norm.sf(1.959964 - 3) + scipy.stats.norm.cdf(-1.959964 - 3), abs=1e-6
    )
    assert crossing(split_boundary(0.01)) == pytest.approx(0.01, abs=1e-6)


def test_each_look_comes_once():
    marks = np.array([0.0, 24.9, 25.0, 60.0, 100.0, 130.0])
    found = due(marks[:-1], marks[1:], 100.0)
    assert found.sum(axis=0).tolist() == [1, 1, 1, 1]
    assert found[1].tolist() == [True, False, False, False]
    assert found[2].tolist() == [False, True, False, False]
    assert not found[4].any()


def test_no_bet_can_ruin_a_gambler():
    worst = Units(
        np.ones((1, 300), dtype=bool), np.full((1, 300), 0.02), np.zeros((1, 300)), np.ones((1, 300), dtype=bool)
    )
    after, _ = advance(begin(), worst)
    assert (after.up > 0).all()
    assert math.isfinite(after.down.sum())
