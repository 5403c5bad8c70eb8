"""What a candidate would gain in live traffic, from logs alone. In -> out: Logged*, Strata, Traffic -> Outlook.

    lift      units of both arms with their propensities -> gain, by three estimators
    expected  held-out users and how the cluster's users react -> gain, before anybody has seen the candidate
    outlook   a gain and the traffic -> users and days that a live test needs, or that it can never show it

Outcomes are 0 bad .. 1 good, a gain is candidate minus base, -1..1. Units are independent (one a user).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import scipy

from logtune.errors import InputError
from logtune.statistics import Estimate, Floats, paired_difference, wilson

Method = Literal["ips", "snips", "dr"]
SEQUENTIAL = 2.0  # users of a test that may be looked at at every moment, as a multiple of one with a fixed end
LEAST_USERS = 20  # of each arm, below which weights say nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """One unit of a live test."""

    candidate: bool  # which arm it was drawn into
    propensity: float  # chance of the candidate's arm when it was drawn, above 0 and below 1
    outcome: float
    expected: tuple[float, float] | None = None  # outcome with base and candidate, by a model; None: the arms' means


@dataclass(frozen=True, slots=True, kw_only=True)
class Lift:
    """The gain by one estimator."""

    method: Method
    estimate: Estimate
    effective: tuple[float, float]  # units of base and candidate that equal weights would need (Kish 1965)


def lift(units: Sequence[Logged], confidence: float = 0.95) -> list[Lift]:
    """The gain if all traffic went to the candidate instead of the base, by inverse propensity (Horvitz and Thompson
    1952), the same self-normalised (Swaminathan and Joachims 2015) and doubly robust (Robins et al. 1994; Dudík et al.
    2011). A ramp draws early units with another chance than late ones, so plain means would compare unlike times.

    Raises InputError for a propensity of 0 or 1, and where an arm has fewer than LEAST_USERS units.
    """
    took = np.array([unit.candidate for unit in units], dtype=bool)
    chance = np.array([unit.propensity for unit in units], dtype=np.float64)
    y = np.array([unit.outcome for unit in units], dtype=np.float64)
    if len(units) and not (chance.min() > 0 and chance.max() < 1):
        raise InputError(
            f"propensities reach from {chance.min()} to {chance.max()}",
            "leave out the units that could be in one arm only: they compare nothing",
        )
    if min(took.sum(), (~took).sum()) < LEAST_USERS:
        counts = f"{(~took).sum()} units of the base and {took.sum()} of the candidate"
        raise InputError(f"{counts} are too few to weigh", f"wait for {LEAST_USERS} of each, or see the gate's outlook")
    weights = took / chance, ~took / (1 - chance)  # candidate, base
    effective = _kish(weights[1]), _kish(weights[0])
    found = ((name, terms(y, weights, units)) for name, terms in METHODS)
    return [Lift(method=name, estimate=_around(each, confidence), effective=effective) for name, each in found]


Weights = tuple[Floats, Floats]
Terms = Callable[[Floats, Weights, Sequence[Logged]], Floats]  # one number a unit, whose mean is the gain


def _ips(y: Floats, weights: Weights, _: Sequence[Logged]) -> Floats:
    return (weights[0] - weights[1]) * y


def _snips(y: Floats, weights: Weights, _: Sequence[Logged]) -> Floats:
    """The linearised ratio of both means (delta method)."""
    parts = [weight / weight.mean() * (y - _weighted(weight, y)) + _weighted(weight, y) for weight in weights]
    return np.asarray(parts[0] - parts[1])


def _dr(y: Floats, weights: Weights, units: Sequence[Logged]) -> Floats:
    """Predictions, corrected by what was seen; without a model the means of the other half of the units."""
    base, ours = _predicted(y, weights, units)
    return np.asarray(ours - base + weights[0] * (y - ours) - weights[1] * (y - base))


METHODS: Sequence[tuple[Method, Terms]] = (("ips", _ips), ("snips", _snips), ("dr", _dr))


def _predicted(y: Floats, weights: Weights, units: Sequence[Logged]) -> tuple[Floats, Floats]:
    base, ours = np.empty(len(y)), np.empty(len(y))
    even = np.arange(len(y)) % 2 == 0
    for half in (even, ~even):
        base[half] = _weighted(weights[1][~half], y[~half])
        ours[half] = _weighted(weights[0][~half], y[~half])
    for number, unit in enumerate(units):
        if unit.expected is not None:
            base[number], ours[number] = unit.expected
    return base, ours


def _weighted(weight: Floats, y: Floats) -> float:
    total = float(weight.sum())
    return float((weight * y).sum()) / total if total else float(y.mean())


def _kish(weight: Floats) -> float:
    return float(weight.sum() ** 2 / (weight**2).sum())


def _around(terms: Floats, confidence: float) -> Estimate:
    mean, error = float(terms.mean()), float(terms.std(ddof=1)) / math.sqrt(len(terms))
    half = float(scipy.stats.t.ppf((1 + confidence) / 2, len(terms) - 1)) * error
    return Estimate(mean, max(-1.0, mean - half), min(1.0, mean + half))


# --- before anybody has seen the candidate ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Strata:
    """Held-out users whose right answer is known, and whether each side gave it: (candidate, baseline)."""

    corrected: Sequence[tuple[bool, bool]]  # they were not content with what they got
    praised: Sequence[tuple[bool, bool]]  # they were
    dissatisfied: int  # users of the cluster who were not content with some answer
    users: int  # all of them


def expected(strata: Strata, confidence: float = 0.95) -> Estimate | None:
    """The gain in content users: what becomes of those who were not, and of those who were, by their shares.

    A direct estimate: the candidate has no traffic yet, so there is nothing to weigh. Users who said nothing count as
    content and are taken to fare like those who praised; where nobody praised, as unchanged. The bounds are the worst
    over the intervals of all three parts, each at a third of the error. None: no corrected user is held out.
    """
    if not strata.corrected or not strata.users:
        return None
    level = 1 - (1 - confidence) / 3
    share, bounds = strata.dissatisfied / strata.users, wilson(strata.dissatisfied, strata.users, level)
    bad, good = _gained(strata.corrected, level), _gained(strata.praised, level)
    corners = [
        (at * first + (1 - at) * second)
        for at in (bounds.low, bounds.high)
        for first in (bad.low, bad.high)
        for second in (good.low, good.high)
    ]
    return Estimate(share * bad.mean + (1 - share) * good.mean, min(corners), max(corners))


def _gained(right: Sequence[tuple[bool, bool]], level: float) -> Estimate:
    if not right:
        return Estimate(0.0, 0.0, 0.0)
    return paired_difference([float(ours) for ours, _ in right], [float(base) for _, base in right], level)


# --- what a live test would take ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What comes to a cluster."""

    users_per_day: float
    content: float  # share of its users now, 0..1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What a live test of a candidate would take."""

    gain: float
    low: float
    high: float
    users: int | None  # of both arms; None: no gain is expected
    days: float | None
    least_gain: float | None  # that the traffic can show within the time there is; None: there is none, or not known
    possible: bool
    reason: str


def outlook(gain: Estimate, traffic: Traffic, max_days: float, confidence: float = 0.95, power: float = 0.8) -> Outlook:
    """Users and days until a live test would show the gain, or why it never would."""
    users = users_needed(traffic.content, gain.mean, confidence, power)
    days = users / traffic.users_per_day if users and traffic.users_per_day > 0 else None
    least = _least_gain(traffic, max_days, confidence, power)
    possible = days is not None and days <= max_days
    return Outlook(
        gain=round(gain.mean, 6), low=round(gain.low, 6), high=round(gain.high, 6), users=users,
        days=None if days is None else round(days, 1), least_gain=least, possible=possible,
        reason=_said(gain, traffic, max_days, (users, days, least), possible=possible),
    )  # fmt: skip


def within(found: Outlook, max_days: float, max_users: int) -> Outlook:
    """The outlook where a test may take other days, or fewer users, than it was made for."""
    fits = found.days is not None and found.days <= max_days and (found.users or 0) <= max_users
    if fits == found.possible or found.users is None:
        return found
    told = f"expected gain {100 * found.gain:+.1f} points ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
    takes = f"about {found.users} users" + (f", {_days(found.days)}" if found.days is not None else "")
    reason = (
        f"{told}: a live test needs {takes}"
        if fits
        else f"{told}: not enough to prove this within {max_days:g} days and {max_users:,} users ({takes})"
    )
    return replace(found, possible=fits, least_gain=None, reason=reason)


def users_needed(content: float, gain: float, confidence: float = 0.95, power: float = 0.8) -> int | None:
    """Users of two even arms that show a difference of two shares at every moment (SEQUENTIAL times the fixed number).

    None where nothing is gained.
    """
    if gain <= 0:
        return None
    better = min(1.0, content + gain)
    z = float(scipy.special.ndtri((1 + confidence) / 2) + scipy.special.ndtri(power))
    spread = content * (1 - content) + better * (1 - better)
    moved = better - content
    if moved <= 0:
        return None
    return math.ceil(2 * SEQUENTIAL * max(z * z * spread / moved**2, 5 / moved))  # small shares: five events at least


def _least_gain(traffic: Traffic, max_days: float, confidence: float, power: float) -> float | None:
    """The smallest gain that the traffic can show in time, to a tenth of a point."""
    can = traffic.users_per_day * max_days
    for step in range(1, 1001):
        if traffic.content + step / 1000 > 1:
            return None
        needed = users_needed(traffic.content, step / 1000, confidence, power)
        if needed is not None and needed <= can:
            return step / 1000
    return None


def _said(
    gain: Estimate, traffic: Traffic, max_days: float, needed: tuple[int | None, float | None, float | None],
    *, possible: bool,
) -> str:  # fmt: skip
    users, days, least = needed
    told = (
        f"expected gain {100 * gain.mean:+.1f} points of content users "
        f"({100 * gain.low:+.1f} to {100 * gain.high:+.1f}), {traffic.users_per_day:.1f} users a day"
    )
    if users is None:
        return f"{told}: no gain to show"
    if possible and days is not None:
        return f"{told}: a live test needs about {users} users, {_days(days)}"
    time = f"about {users} users, {_days(days)}" if days is not None else f"about {users} users, and none come"
    shown = f"in {max_days:.0f} days it can show {100 * least:.1f} points or more" if least else "it can show none"
    return f"{told}: not enough traffic to ever prove this ({time}; {shown})"


def _days(days: float) -> str:
    return "a day" if days <= 1.5 else f"{days:.0f} days"
