"""Tests that may be looked at after every unit and stopped at once: two arms compared, and the split between them.

Arms, their chances, outcomes in 0..1 -> Capital, one row an experiment        counts of arms -> mismatch of the split

The comparison rests on the draw alone. A unit came into the candidate arm with a known chance p, whatever its outcome
y, so x = (y - m) (1/p for the candidate, -1/(1-p) for the base) has the arms' difference as its mean, for any m that
was fixed before (inverse propensity weights around a running mean: Waudby-Smith, Wu, Ramdas, Karampatziakis and
Mineiro, Anytime-valid off-policy inference for contextual bandits, 2022). Chances may change from unit to unit, as in a
ramp, and so may what outcomes are like, as from day to night. Gamblers bet on x, each for another size of the effect;
their capital is a nonnegative martingale where there is no effect, so it reaches 1/alpha with a chance of alpha at
most, ever (Ville 1939; bets and mixtures: Waudby-Smith and Ramdas, Estimating means of bounded random variables by
betting, JRSS B 2024). Nothing here is asymptotic.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import scipy

from logtune.statistics import Floats, Interval

Bools = npt.NDArray[np.bool_]
SIZES = np.geomspace(0.01, 0.5, 10)  # of effects that gamblers bet on
TYPICAL = 0.07  # effects beyond it are expected ever more rarely
STAKE = 0.8  # largest share of its capital that a gambler may lose on one unit
PRIOR_MEAN, PRIOR_VARIANCE = 0.5, 0.25  # of outcomes before the first; they count as one unit
SRM_PRIOR = 200.0  # units that the prior of a split is worth: deviations of some points are expected
SRM_EARLY = 0.02  # share of the error that the check at every moment may spend; the looks get the rest
SRM_LOOKS = 4
CELLS = 501  # of the grid on which a boundary's chance is computed
BISECTIONS = 14  # of a bound in -1..1: exact to 0.0002


def _weights() -> Floats:
    """Of the gamblers: half-normal over the sizes, which are spread evenly by their logarithm."""
    found = SIZES * np.exp(-0.5 * (SIZES / TYPICAL) ** 2)
    return np.asarray(found / found.sum())


WEIGHTS = _weights()


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """Units in the order in which their outcomes became known, a row an experiment. Each shape (R, T)."""

    candidate: Bools  # whether the unit is in the candidate arm
    chance: Floats  # with which it came there, known before its outcome; in (0, 1)
    value: Floats  # its outcome, 0 bad .. 1 good
    counted: Bools  # False: it says nothing


@dataclass(frozen=True, slots=True, eq=False)
class Capital:
    """What gamblers own who bet that the candidate is better, or worse, and what they know of outcomes so far."""

    up: Floats  # shape (R, K), a gambler a column
    down: Floats
    units: Floats  # shape (R,), with those of the prior
    total: Floats  # of the outcomes
    spread: Floats  # of their squared distances from the running mean


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """The capital after each unit, shape (R, T); 1 at the beginning. 1 / capital is an anytime-valid p."""

    up: Floats
    down: Floats


def begin(rows: int = 1) -> Capital:
    """Before the first unit."""
    one = np.ones(rows)
    start = np.tile(WEIGHTS, (rows, 1))
    return Capital(start, start.copy(), one, PRIOR_MEAN * one, PRIOR_VARIANCE * one)


def advance(capital: Capital, units: Units, null_up: float = 0.0, null_down: float = 0.0) -> tuple[Capital, Course]:
    """The capital after some units more, and on the way there.

    `up` grows where the candidate's mean outcome is higher by more than `null_up`, `down` where it is higher by less
    than `null_down` (-0.02: where it is more than 2 points worse).
    """
    bets, told = _bets(capital, units)
    up = _grown(capital.up, bets.x - null_up, _stakes(bets.scale, bets.fall + max(null_up, 0.0)))
    down = _grown(capital.down, null_down - bets.x, _stakes(bets.scale, bets.rise + max(-null_down, 0.0)))
    after = Capital(up[:, -1], down[:, -1], *told)
    return after, Course(up.sum(axis=2), down.sum(axis=2))


@dataclass(frozen=True, slots=True, eq=False)
class _Bets:
    """What is bet on. Each shape (R, T)."""

    x: Floats  # its mean is the difference of the arms
    scale: Floats  # the variance of x as foreseen
    fall: Floats  # how far x may fall below 0
    rise: Floats  # and rise above it


def _bets(capital: Capital, units: Units) -> tuple[_Bets, tuple[Floats, Floats, Floats]]:
    """Each bet uses what was known before its unit alone; and what is known after the last."""
    y, p = units.value, units.chance
    seen = units.counted.astype(np.float64)
    count = _before(capital.units, seen)
    total = _before(capital.total, seen * y)
    mean = total[:, :-1] / count[:, :-1]
    away = y - mean
    spread = _before(capital.spread, seen * away**2)
    x = np.where(units.candidate, away / p, -away / (1 - p)) * seen
    scale = spread[:, :-1] / count[:, :-1] / (p * (1 - p))
    fall, rise = np.maximum(mean / p, (1 - mean) / (1 - p)), np.maximum((1 - mean) / p, mean / (1 - p))
    return _Bets(x, scale, fall, rise), (count[:, -1], total[:, -1], spread[:, -1])


def _before(start: Floats, steps: Floats) -> Floats:
    """Running sums before each unit, and after the last. Shape (R, T + 1)."""
    return np.asarray(np.cumsum(np.concatenate((start[:, None], steps), axis=1), axis=1))


def _stakes(scale: Floats, most: Floats) -> Floats:
    """Share of its capital that each gambler puts on a point of x, shape (R, T, K): no bet can ruin it."""
    return np.minimum(SIZES / scale[:, :, None], (STAKE / most)[:, :, None])


def _grown(start: Floats, x: Floats, stakes: Floats) -> Floats:
    factors = 1 + stakes * x[:, :, None]
    factors[:, 0] *= start
    return np.asarray(np.cumprod(factors, axis=1))


# pairs


def paired(differences: Floats, null: float) -> Floats:
    """The capital after each pair, shape (T,), of gamblers who bet that differences in -1..1 have a mean above `null`.

    As in `advance`, where each unit has both sides: there is nothing to weigh.
    """
    x = differences[None]
    count = np.arange(1.0, x.shape[1] + 1)[None]
    away = x - _before(np.zeros(1), x)[:, :-1] / count
    scale = _before(np.full(1, PRIOR_VARIANCE), away**2)[:, :-1] / count
    stakes = _stakes(scale, np.full(x.shape, 1 + null))
    logs = np.cumsum(np.log1p(stakes * (x - null)[:, :, None]), axis=1)[0]
    return np.asarray(np.exp(np.minimum(np.logaddexp.reduce(logs + np.log(WEIGHTS), axis=1), 700.0)))


# the confidence sequence


def bounds(units: Units, alpha: float, at: Sequence[int]) -> list[Interval]:
    """The difference of the arms lies within all of these at once with confidence 1 - `alpha`; units of one row.

    Bounds after the first `at` units each, ascending: what neither side's gamblers have ruled out by 2 / alpha. Each is
    also held against the ones before. A lower bound above 0 is the moment at which `advance` says so.
    """
    bets, _ = _bets(begin(), units)
    found: list[Interval] = []
    low, high = -1.0, 1.0
    for count in at:
        low = max(low, _bound(_cut(bets, count), 2 / alpha))
        high = min(high, -_bound(_mirrored(_cut(bets, count)), 2 / alpha))
        found.append(Interval(low, high))
    return found


def _bound(bets: _Bets, needed: float) -> float:
    """The largest difference that those who bet on more have ruled out; -1 at least."""
    low, high = -1.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _log_capital(bets, middle) >= math.log(needed) else (low, middle)
    return low


def _log_capital(bets: _Bets, null: float) -> float:
    stakes = _stakes(bets.scale, bets.fall + max(null, 0.0))
    logs = np.log1p(stakes * (bets.x - null)[:, :, None]).sum(axis=1)[0]
    return float(np.logaddexp.reduce(logs + np.log(WEIGHTS)))


def _cut(bets: _Bets, count: int) -> _Bets:
    return _Bets(bets.x[:, :count], bets.scale[:, :count], bets.fall[:, :count], bets.rise[:, :count])


def _mirrored(bets: _Bets) -> _Bets:
    return _Bets(-bets.x, bets.scale, bets.rise, bets.fall)


# the split between the arms


def split_capital(candidate: Floats, base: Floats, chance: Floats) -> Floats:
    """Capital of a gambler who bets that units reach the candidate arm with another chance than they should.

    A nonnegative martingale where they do as they should: the Bayes factor of a beta prior around `chance`
    (Lindon and Malek, Anytime-valid inference for multinomial count data, NeurIPS 2022, for two arms).
    """
    a, b = SRM_PRIOR * chance, SRM_PRIOR * (1 - chance)
    logs = scipy.special.betaln(a + candidate, b + base) - scipy.special.betaln(a, b)
    return np.asarray(np.exp(np.minimum(logs - candidate * np.log(chance) - base * np.log1p(-chance), 700.0)))


def split_mismatch(capital: Floats, looks: Floats, planned: float, alpha: float) -> Bools:
    """Whether a split is not what it should be, at a total error of `alpha`; shape (R,).

    Large mismatches show at every moment, by the `split_capital` (R,). Small ones need every unit: at set `looks`
    (R, SRM_LOOKS), each a quarter of the `planned` variance further, the units in the candidate arm beyond those
    expected are held against one boundary (O'Brien and Fleming 1979); NaN where a look has not come yet.
    """
    edge = split_boundary((1 - SRM_EARLY) * alpha) * math.sqrt(planned)
    return np.asarray((capital >= 1 / (SRM_EARLY * alpha)) | (np.abs(np.nan_to_num(looks)) > edge).any(axis=1))


def due(before: Floats, after: Floats, planned: float) -> Bools:
    """Which looks fall between two sums of the variance, shape (R, SRM_LOOKS)."""
    marks = planned * (np.arange(SRM_LOOKS) + 1) / SRM_LOOKS - 1e-9
    return np.asarray((before[:, None] < marks) & (after[:, None] >= marks))


@cache
def split_boundary(alpha: float) -> float:
    """What the largest of |W(1/4)|, |W(2/4)| .. |W(1)| of Brownian motion W exceeds with a chance of `alpha`."""
    return float(scipy.optimize.brentq(lambda edge: crossing(edge) - alpha, 1.0, 9.0, xtol=1e-6))


def crossing(edge: float, drift: float = 0.0, looks: int = SRM_LOOKS) -> float:
    """Chance that Brownian motion with `drift` is beyond +-`edge` at one of `looks` even looks in 0..1.

    The density of paths that stayed inside, from look to look (Armitage, McPherson and Rowe 1969), by Simpson's rule.
    """
    grid = np.linspace(-edge, edge, CELLS)
    weight = np.full(CELLS, 2.0)
    weight[1::2], weight[[0, -1]] = 4.0, 1.0
    weight *= (grid[1] - grid[0]) / 3
    sd, step = math.sqrt(1 / looks), drift / looks
    kernel = _normal(grid[:, None] - grid[None, :] - step, sd) * weight[None, :]
    inside = _normal(grid - step, sd)
    for _ in range(looks - 1):
        inside = kernel @ inside
    return float(1 - weight @ inside)


def _normal(x: Floats, sd: float) -> Floats:
    return np.asarray(np.exp(-0.5 * (x / sd) ** 2) / (sd * math.sqrt(2 * math.pi)))
