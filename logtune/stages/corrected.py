"""A win rate that a judge has told, corrected by what users have told: numbers in, an estimate with its interval out.

    prediction_powered   users and judge on the same comparisons, the judge alone on more: any errors of the judge
    through_agreement    the judge alone, and how often it agrees with users elsewhere: errors that favour no side

Both intervals are wider than the judge's own would be: they hold the judge's errors too.
"""

import math
from collections.abc import Sequence

import numpy as np
import scipy

from logtune.errors import InputError
from logtune.statistics import Estimate, Floats, Interval, win_rate_interval

FEWEST_BOTH = 10  # comparisons told by users and judge, below which their difference can't be estimated
Counts = tuple[int, int, int]  # wins, ties, losses; or same, undecided, other


def prediction_powered(
    both: Sequence[tuple[float, float]], judged: Sequence[float], confidence: float = 0.95
) -> Estimate:  # fmt: skip
    """The mean of what users say, 0..1; `both`: (user, judge) of each comparison, `judged`: the judge's on others.

    Prediction-powered inference with the weight of the judge estimated (Angelopoulos, Duchi and Zrnic 2023, "PPI++"):
    mean(user) + w (mean(judge, others) - mean(judge, both)). The interval is Student's, with two pseudo-comparisons of
    each kind added, one won and one lost, of which the judge knows nothing (after Agresti and Caffo 2000): without them
    it covers 62% in small and one-sided samples, with them 94% at least in the simulated ones.
    """
    if len(both) < 2 or not judged:
        raise InputError(
            f"{len(both)} comparisons of users and {len(judged)} of the judge alone correct nothing",
            "it takes two of users and one of the judge alone",
        )
    users, seen, others = np.array([y for y, _ in both]), np.array([f for _, f in both]), np.array(judged)
    mean = _powered(users, seen, others, _weight(users, seen, others))
    padded = np.append(users, (1.0, 0.0)), np.append(seen, (0.5, 0.5)), np.append(others, (1.0, 0.0))
    weight = _weight(*padded)
    rest = padded[0] - weight * padded[1]
    error = math.sqrt(rest.var(ddof=1) / len(rest) + weight**2 * padded[2].var(ddof=1) / len(padded[2]))
    half = float(scipy.special.stdtrit(len(rest) - 1, (1 + confidence) / 2)) * error
    centre = _powered(*padded, weight)
    return _within(mean, centre - half, centre + half)


def _powered(users: Floats, seen: Floats, others: Floats, weight: float) -> float:
    return float(users.mean() + weight * (others.mean() - seen.mean()))


def _weight(users: Floats, seen: Floats, others: Floats) -> float:
    """How far the judge is listened to, 0..1: what makes the estimate's variance least."""
    spread = float(np.append(seen, others).var(ddof=1))
    if spread <= 0:
        return 0.0
    together = float(((users - users.mean()) * (seen - seen.mean())).sum()) / (len(users) - 1)
    return min(1.0, max(0.0, together / spread / (1 + len(users) / len(others))))


def through_agreement(votes: Counts, agreement: Counts, confidence: float = 0.95) -> Estimate | None:
    """The win rate behind the judge's `votes`; `agreement`: how often it agrees with users elsewhere.

    A judge that agrees with probability a, whichever side is better, pulls a win rate towards one half:
    judged - 1/2 = (2a - 1) (true - 1/2) (Rogan and Gladen 1978, with both errors alike). The bounds are the worst of
    both intervals, each at half the error (Bonferroni). None: the judge agrees no better than chance.
    """
    level = (1 + confidence) / 2
    same, judged = win_rate_interval(*agreement, level), win_rate_interval(*votes, level)
    if same.low <= 0.5:
        return None
    rate, agreed = _share(votes), _share(agreement)
    low, high = (_stretched(bound, same, outwards) for bound, outwards in ((judged.low, -1), (judged.high, 1)))
    return _within(0.5 + (rate - 0.5) / (2 * agreed - 1), low, high)


def _stretched(bound: float, same: Interval, outwards: int) -> float:
    """The true rate behind a judged one, at the agreement that moves it furthest `outwards` (-1 down, 1 up)."""
    away = bound - 0.5
    agreed = same.low if away * outwards > 0 else same.high
    return 0.5 + away / (2 * agreed - 1)


def pooled(parts: Sequence[tuple[Estimate, int]]) -> Estimate:
    """The estimate over groups of so many; its bounds hold where each part's holds at its share of the error."""
    total = sum(count for _, count in parts)
    mean, low, high = (
        sum(getattr(part, name) * count for part, count in parts) / total for name in ("mean", "low", "high")
    )
    return Estimate(mean, low, high)


def _share(counts: Counts) -> float:
    return (counts[0] + counts[1] / 2) / max(1, sum(counts))


def _within(mean: float, low: float, high: float) -> Estimate:
    mean = min(1.0, max(0.0, mean))
    return Estimate(mean, max(0.0, min(low, mean)), min(1.0, max(high, mean)))
