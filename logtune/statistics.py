"""Numbers in, numbers out: intervals, paired tests, power, the hash that draws lots.

The gate (`stages.evaluate`) and the live test (`stages.experiment`) both stand on it. An interval of `confidence` 0.95
is two-sided: each of its ends is wrong about 2.5% of the time. SciPy does the distributions; what it lacks is written
here from the paper named in the docstring and checked by enumeration and simulation in `tests/test_statistics.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy  # its submodules load at first use: importing this module stays cheap

from logtune.errors import InputError
from logtune.ids import digest

Floats = npt.NDArray[np.float64]
MAX_CASES = 20_000  # a test that needs more is reported as out of reach


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, in the unit of what it bounds."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its confidence interval."""

    mean: float
    low: float
    high: float


def uniform(*parts: str) -> float:
    """A number in [0, 1) that depends on `parts` alone: the same on every machine, in every run (SHA-256, 52 bits)."""
    return int(digest(list(parts), 13), 16) / 16**13


def unit_of(user: str | None, session: str | None, request: str) -> str:
    """Who has a vote and who is drawn: `user:ID`, where it is unknown `session:ID`, at last `request:ID`."""
    return f"user:{user}" if user else f"session:{session}" if session else f"request:{request}"


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval (1927) of a share; 0..1 when n is 0."""
    _counts(successes, n - successes)
    if n == 0:
        return Interval(0.0, 1.0)
    found = scipy.stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Interval(float(found.low), float(found.high))


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """The exact interval of a share (Clopper and Pearson 1934): covers `confidence` at least; 0..1 when n is 0."""
    _counts(successes, n - successes)
    tail = (1 - confidence) / 2
    low = float(scipy.special.betaincinv(successes, n - successes + 1, tail)) if successes else 0.0
    high = float(scipy.special.betainccinv(successes + 1, n - successes, tail)) if successes < n else 1.0
    return Interval(low, high)


@lru_cache(maxsize=4096)  # searched for, and asked again by every guard and simulation
def win_rate_interval(wins: int, ties: int, losses: int, confidence: float = 0.95) -> Interval:
    """Interval of P(win) + P(tie) / 2 from independent paired comparisons; 0..1 when there are none.

    The envelope of two intervals. (1) Tango's score interval of P(win) - P(loss) (Statistics in Medicine 17, 1998),
    which knows that the share of ties is uncertain too. (2) The exact interval of P(win | decided), scaled by the share
    of decided cases: it lies above 0.5 only where the exact sign test rejects, so a candidate no better than its
    baseline gets a lower bound above 0.5 with probability (1 - confidence) / 2 at most, whatever n and the ties.
    """
    _counts(wins, ties, losses)
    n, decided = wins + ties + losses, wins + losses
    if n == 0:
        return Interval(0.0, 1.0)
    exact = clopper_pearson(wins, decided, confidence) if decided else Interval(0.5, 0.5)
    low = min(0.5 + _tango_low(wins, losses, n, confidence) / 2, 0.5 + (exact.low - 0.5) * decided / n)
    high = max(0.5 - _tango_low(losses, wins, n, confidence) / 2, 0.5 + (exact.high - 0.5) * decided / n)
    return Interval(max(0.0, low), min(1.0, high))


def _tango_low(wins: int, losses: int, n: int, confidence: float) -> float:
    """Lower end of Tango's interval of P(win) - P(loss), in -1..1."""
    if losses == n:
        return -1.0
    z = float(scipy.special.ndtri((1 + confidence) / 2))
    seen = (wins - losses) / n

    def excess(difference: float) -> float:
        return tango_statistic(wins, losses, n, difference) - z

    return float(scipy.optimize.brentq(excess, -1 + 1e-12, seen, xtol=1e-10))


def tango_statistic(wins: int, losses: int, n: int, difference: float) -> float:
    """Tango's z for the hypothesis P(win) - P(loss) = difference; at 0 it is McNemar's (Tango 1998)."""
    b = -wins - losses + (2 * n - wins + losses) * difference
    c = -losses * difference * (1 - difference)
    loss_share = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)  # most likely P(loss) under the hypothesis
    variance = n * (2 * loss_share + difference * (1 - difference))
    gain = wins - losses - n * difference
    return gain / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, gain) if gain else 0.0


def sign_test(wins: int, losses: int) -> float:
    """One-sided p of the exact sign test: the chance of at least `wins` among the decided when both sides are equal."""
    _counts(wins, losses)
    return float(scipy.stats.binomtest(wins, wins + losses, alternative="greater").pvalue) if wins + losses else 1.0


def paired_difference(a: Sequence[float], b: Sequence[float], confidence: float = 0.95, seed: int = 0) -> Estimate:
    """Mean of a - b over paired values with its interval; raises InputError when nothing can be paired.

    Values that are all 0 or 1 (right or wrong): the interval of `win_rate_interval`, exact at 0. Others: the BCa
    bootstrap (Efron 1987; 9999 resamples drawn with `seed`) of two pairs or more; without any spread, no width.
    """
    if len(a) != len(b) or not len(a):
        raise InputError(
            f"{len(a)} values cannot be paired with {len(b)}", "give two lists of the same length, one pair or more"
        )
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    differences = first - second
    mean = float(differences.mean())
    if np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all():
        wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
        share = win_rate_interval(wins, len(a) - wins - losses, losses, confidence)
        return Estimate(mean, 2 * share.low - 1, 2 * share.high - 1)
    if len(a) < 2:
        raise InputError("one pair of real values has no interval", "give at least two pairs")
    if np.ptp(differences) == 0:
        return Estimate(mean, mean, mean)
    found = scipy.stats.bootstrap(
        (differences,), np.mean, confidence_level=confidence, method="BCa", rng=seed, batch=1000
    )
    return Estimate(mean, float(found.confidence_interval.low), float(found.confidence_interval.high))


def two_sided(one_sided: float) -> float:
    """The confidence of the interval each of whose ends, taken alone, has the given one."""
    return 2 * one_sided - 1


@lru_cache(maxsize=4096)
def power(n: int, win_rate: float, tie_share: float, confidence: float = 0.95, least: float = 0.5) -> float:
    """Chance that n cases put the lower end of `win_rate_interval` above 0.5 and the win rate at `least` or above.

    `win_rate` counts ties half; computed exactly: for each number of decided cases, the sign test's critical count.
    """
    if n < 1:
        return 0.0
    given = min(1.0, max(0.0, 0.5 + (win_rate - 0.5) / max(1e-12, 1 - tie_share)))  # P(win | decided)
    decided = np.arange(n + 1)
    needed = scipy.stats.binom.isf((1 - confidence) / 2, decided, 0.5) + 1
    needed = np.maximum(needed, np.ceil(least * n - (n - decided) / 2 - 1e-9))
    chance = scipy.stats.binom.pmf(decided, n, 1 - tie_share) * scipy.stats.binom.sf(needed - 1, decided, given)
    return float(chance.sum())


@lru_cache(maxsize=4096)
def needed_cases(
    win_rate: float, tie_share: float, confidence: float = 0.95, target: float = 0.8, least: float = 0.5
) -> int | None:
    """Cases for which `power` reaches `target`; None: no number up to MAX_CASES does.

    Doubles, then bisects: discreteness makes power saw-toothed, so the answer is right to within a few cases.
    """
    low, high = 0, 4
    while power(high, win_rate, tie_share, confidence, least) < target:
        low, high = high, high * 2
        if low >= MAX_CASES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        reached = power(middle, win_rate, tie_share, confidence, least) >= target
        low, high = (low, middle) if reached else (middle, high)
    return high


def _counts(*values: int) -> None:
    if any(value < 0 for value in values):
        raise InputError(f"counts {values} are negative somewhere", "successes lie in 0..n, and no count is below 0")
