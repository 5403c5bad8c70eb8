"""The guards of a live test: is the candidate worse by more than a margin? In -> out: Unit* -> Guarded.

errors, slow answers, odd lengths, refusals, complaints: of each unit the share of its requests that are bad, in the
short window of the guards, so that a breach shows long before the outcomes do.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from logtune.config_experiment import ExperimentSettings
from logtune.sequential import Units, advance, begin
from logtune.stages.lots import chance_at
from logtune.stages.outcomes import Asked, Unit

GUARDS = ("errors", "slow", "odd_length", "refusals", "complaints")
QUANTILE_FROM, QUANTILE_EVERY = 20, 50  # requests of the base before its percentile is used; units between two looks
HIGHEST = 1e12  # capital beyond it is not told apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """How a guard stands."""

    capital: float  # of a gambler who bets that the candidate is worse by more than the margin
    base: float | None  # share of what is bad, 0..1
    candidate: float | None
    broken: bool


def margins(settings: ExperimentSettings) -> dict[str, float]:
    """Guard -> by how much of 0..1 the candidate may be worse."""
    return {
        "errors": settings.max_error_rate, "slow": settings.max_slow_rate, "odd_length": settings.max_odd_length,
        "refusals": settings.max_refusals, "complaints": settings.max_complaints,
    }  # fmt: skip


def guard(
    name: str, found: Sequence[Unit], settings: ExperimentSettings, last: float, error: float, slow_factor: float
) -> Guarded:
    """How one guard stands; `error`: with which chance it may break by mistake."""
    margin, bad = margins(settings)[name], _bad(name, found, settings, slow_factor)
    if not found:
        return Guarded(capital=1.0, base=None, candidate=None, broken=False)
    share = np.array([[unit.share for unit in found]])
    ours = np.array([[unit.candidate for unit in found]])
    values = 1 - np.array([bad])
    told = Units(ours, chance_at(share, last), values, np.ones(ours.shape, dtype=bool))
    capital = float(min(advance(begin(), told, null_down=-margin)[1].down.max(), HIGHEST))
    means = [float(1 - values[arm].mean()) if arm.any() else None for arm in (~ours, ours)]
    return Guarded(capital=capital, base=means[0], candidate=means[1], broken=capital >= 1 / error)


def _bad(name: str, found: Sequence[Unit], settings: ExperimentSettings, slow_factor: float) -> list[float]:
    """Of each unit, the share of its requests in the window of the guards that are bad."""
    if name == "slow":
        return _beyond(found, lambda item: item.latency_ms, slow_factor, empty=0.0)
    if name == "odd_length":
        return _beyond(found, lambda item: item.length, settings.long_factor, empty=1.0)
    flag = {"errors": "failed", "refusals": "refused", "complaints": "complained"}[name]
    return [sum(bool(getattr(item, flag)) for item in unit.early) / max(len(unit.early), 1) for unit in found]


def _beyond(found: Sequence[Unit], size: Callable[[Asked], float | None], factor: float, empty: float) -> list[float]:
    """Share of requests beyond `factor` times the 95th percentile of the base's before; none until it has some."""
    base: list[float] = []
    most, bad = math.inf, list[float]()
    for number, unit in enumerate(found):
        if number % QUANTILE_EVERY == 0 and len(base) >= QUANTILE_FROM:
            most = factor * float(np.percentile(base, 95))
        sizes = [size(item) for item in unit.early if not item.failed]
        bad.append(sum(empty if not value else float(value > most) for value in sizes) / max(len(sizes), 1))
        base += [] if unit.candidate else [value for value in sizes if value]
    return bad
