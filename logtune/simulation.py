"""A live test played many times on users who are made up, or drawn from logs, by the rules of the real one.

World, ExperimentSettings -> Played: promotions and rollbacks by mistake, users until a decision, users exposed

All runs are played at once, a row each; those that have decided leave. The draw, the ramp, the bets and the decision
are the functions that the loop of `logtune serve` calls. An outcome is known a window after its user came, and until
then others come: how many, the traffic says. Nobody comes twice.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from logtune.config_experiment import ExperimentSettings
from logtune.records import Json
from logtune.sequential import Bools, Units, advance, begin
from logtune.stages.live import decided
from logtune.stages.lots import chance_at, compared, next_share, worth
from logtune.statistics import Floats

ROWS, STEP = 400, 64  # runs and users in one piece: a few megabytes
LEAST_STEP = 8  # users that come within a window at least: a window may be longer than it is, never shorter
Ints = npt.NDArray[np.int64]
Kind = Literal["binary", "rate", "real", "logged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What users are like. Effects are of the mean, in points of 0..1."""

    kind: Kind = "binary"  # thumbs; the share of a user's requests; a number such as an edit distance; as in the logs
    mean: float = 0.6
    effect: float = 0.0
    spread: float = 0.25  # standard deviation between users, of rates and numbers
    requests: float = 4.0  # mean of a user, of rates
    drift: float = 0.0  # by how much the mean swings, as between day and night
    period: int = 1000  # users
    traffic: float = 150.0  # users a day
    logged: tuple[float, ...] = ()  # outcomes of real users, in place of the above


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What became of the runs."""

    world: World
    runs: int
    promoted: float  # share of the runs
    rolled_back: float
    undecided: float
    waiting: int  # users who come within a window: so many of the following were drawn, but not known yet
    users: Mapping[str, float | None]  # until the decision, quantiles; None: so many runs never decided
    exposed: Mapping[str, float | None]  # users who had the candidate until the test's end
    peeked: float = 0.0  # share of the runs that a z-test, looked at as often, would have decided
    counts: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _Came:
    """Users who came one after the other, a row a run. Each shape (R, T)."""

    candidate: Bools
    share: Floats
    compared: Bools
    had: Ints  # users with the candidate after each


@dataclass(frozen=True, slots=True, eq=False)
class _Runs:
    """The runs that go on. Each shape (R,)."""

    index: Ints
    share: Floats
    had: Ints
    told: Floats  # what the units tell that were compared so far


def _kept(record: Any, rows: Bools) -> Any:
    """The same of some rows."""
    return type(record)(*(getattr(record, each.name)[rows] for each in fields(record)))


def play(world: World, settings: ExperimentSettings, *, runs: int, seed: int = 0, every: int = 1) -> Played:
    """Play `runs` tests, each looked at after `every` users, until it decides or `max_users` or `max_days` are over."""
    parts = [
        _piece(world, settings, min(ROWS, runs - start), np.random.default_rng([seed, start]), every)
        for start in range(0, runs, ROWS)
    ]
    verdict, users, exposed, peeked = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Played(
        world=world, runs=runs, promoted=float((verdict > 0).mean()), rolled_back=float((verdict < 0).mean()),
        undecided=float((verdict == 0).mean()), waiting=math.prod(_window(world, settings)),
        users=_quantiles(users, verdict != 0), exposed=_quantiles(exposed, np.ones(runs, dtype=bool)),
        peeked=float(peeked.mean()),
        counts={"promoted": int((verdict > 0).sum()), "rolled_back": int((verdict < 0).sum())},
    )  # fmt: skip


def fixed_horizon(world: World, power: float = 0.8, confidence: float = 0.95) -> int:
    """Users, in even arms, of a two-sided z-test of `power` that is looked at once, at the end."""
    z = [-_ndtri((1 - confidence) / 2), _ndtri(power)]
    rng = np.random.default_rng(0)
    one = np.ones((1, 200_000), dtype=bool)
    spreads = [float(_values(world, rng, arm, 0).var()) for arm in (one, ~one)]
    return math.ceil(2 * sum(z) ** 2 * sum(spreads) / world.effect**2)


def _ndtri(share: float) -> float:
    import scipy

    return float(scipy.special.ndtri(share))


def _window(world: World, settings: ExperimentSettings) -> tuple[int, int]:
    """How many pieces of how many users come within a window."""
    users = max(LEAST_STEP, round(world.traffic * settings.window_hours / 24))
    pieces = math.ceil(users / STEP)
    return pieces, math.ceil(users / pieces)


def _piece(
    world: World, settings: ExperimentSettings, rows: int, rng: np.random.Generator, every: int
) -> tuple[Ints, Ints, Ints, Bools]:
    verdict, users, exposed = (np.zeros(rows, dtype=np.int64) for _ in range(3))
    peeked, sums, capital = np.zeros(rows, dtype=bool), np.zeros((rows, 6)), begin(rows)
    on = _Runs(np.arange(rows), np.zeros(rows), np.zeros(rows, dtype=np.int64), np.zeros(rows))
    (pieces, step), waiting, start = _window(world, settings), deque[_Came](), 0
    nothing = np.zeros((rows, step), dtype=np.int64)
    for _ in range(pieces):  # the first window: nothing is known
        came, on = _arrive(settings, on, rng, nothing, nothing == 0, pieces * step)
        waiting.append(came)
    while on.index.size:
        known, last = waiting.popleft(), settings.ramp[-1]
        units = Units(
            known.candidate, chance_at(known.share, last), _values(world, rng, known.candidate, start), known.compared
        )
        capital, course = advance(capital, units)
        came, after = _arrive(settings, on, rng, known.had, course.up >= course.down, pieces * step)
        told = on.told[:, None] + np.cumsum(worth(units.chance) * units.counted, axis=1)
        now = pieces * step + start + np.arange(step) + 1
        ruled = decided(course.up, course.down, settings.confidence) * (now % every == 0)
        over = (ruled != 0) | (told >= settings.max_users) | (now >= settings.max_days * world.traffic)
        peeked[on.index] |= _peek(sums, on.index, units, settings.confidence)
        at, pick, goes_on = over.argmax(axis=1), np.arange(len(over)), ~over.any(axis=1)
        at[goes_on] = step - 1
        verdict[on.index], users[on.index], exposed[on.index] = ruled[pick, at], now[at], came.had[pick, at]
        on = _kept(_Runs(after.index, after.share, after.had, told[:, -1]), goes_on)
        waiting.append(came)
        if not goes_on.all():
            capital, waiting = _kept(capital, goes_on), deque(_kept(each, goes_on) for each in waiting)
        start += step
    return verdict, users, exposed, peeked


def _arrive(
    settings: ExperimentSettings, on: _Runs, rng: np.random.Generator, known: Ints, leads: Bools, active: int
) -> tuple[_Came, _Runs]:
    """The next users of each run, with what is known as each of them comes, each shape (R, T)."""
    allowed = np.maximum(next_share(settings, known, leads, active), on.share[:, None])
    share = np.maximum.accumulate(allowed, axis=1)
    lots = rng.random(share.shape)
    candidate = lots < share
    had = on.had[:, None] + np.cumsum(candidate, axis=1)
    came = _Came(candidate, share, compared(lots, share, settings.ramp[-1]), had)
    return came, _Runs(on.index, share[:, -1], had[:, -1], on.told)


def _values(world: World, rng: np.random.Generator, candidate: Bools, start: int) -> Floats:
    """Outcomes of users, shape of `candidate`."""
    made: Mapping[Kind, Callable[[Floats], Floats]] = {
        "binary": lambda means: (rng.random(means.shape) < means).astype(np.float64),
        "rate": lambda means: _rates(world, rng, means),
        "real": lambda means: _beta(rng, means, world.spread),
    }
    if world.kind == "logged":
        drawn = rng.choice(np.asarray(world.logged), candidate.shape)
        return _shifted(rng, drawn, np.where(candidate, world.effect, 0.0), float(np.mean(world.logged)))
    swing = world.drift * np.sin(2 * np.pi * (start + np.arange(candidate.shape[1])) / world.period)
    return made[world.kind](np.clip(world.mean + swing + np.where(candidate, world.effect, 0.0), 0.001, 0.999))


def _beta(rng: np.random.Generator, means: Floats, spread: float) -> Floats:
    """Numbers in 0..1 with these means and about this standard deviation."""
    weight = np.maximum(means * (1 - means) / spread**2 - 1, 0.05)
    return np.asarray(rng.beta(means * weight, (1 - means) * weight))


def _rates(world: World, rng: np.random.Generator, means: Floats) -> Floats:
    """Each user has a rate of their own and makes some requests: of the same user, outcomes are alike."""
    requests = 1 + rng.poisson(world.requests - 1, means.shape)
    return np.asarray(rng.binomial(requests, _beta(rng, means, world.spread)) / requests)


def _shifted(rng: np.random.Generator, values: Floats, effects: Floats, mean: float) -> Floats:
    """Outcomes of which some became the best, or the worst, so that the mean moves by the effect."""
    share = np.where(effects > 0, effects / max(1 - mean, 1e-9), -effects / max(mean, 1e-9))
    return np.where(rng.random(values.shape) < share, (effects > 0).astype(np.float64), values)


def _peek(sums: Floats, index: Ints, units: Units, confidence: float) -> Bools:
    """Whether a plain z-test of the difference, done after every user, would have called one out."""
    parts: list[Floats] = []
    for number, arm in enumerate((units.candidate, ~units.candidate)):
        seen = (arm & units.counted).astype(np.float64)
        for power in range(3):
            total = np.cumsum(seen * units.value**power, axis=1) + sums[index, 3 * number + power][:, None]
            sums[index, 3 * number + power] = total[:, -1]
            parts.append(total)
    count = np.minimum(parts[0], parts[3])
    with np.errstate(divide="ignore", invalid="ignore"):
        means = parts[1] / parts[0], parts[4] / parts[3]
        variance = (parts[2] / parts[0] - means[0] ** 2) / parts[0] + (parts[5] / parts[3] - means[1] ** 2) / parts[3]
        z = np.abs(means[0] - means[1]) / np.sqrt(variance)
    return np.asarray(((count >= 10) & (z > -_ndtri((1 - confidence) / 2)) & np.isfinite(z)).any(axis=1))


def _quantiles(values: Ints, decided_: Bools) -> dict[str, float | None]:
    """Over all runs; those that never decided are beyond every number."""
    known = np.where(decided_, values, np.inf).astype(np.float64)
    found = {f"q{share}": float(np.quantile(known, share / 100, method="higher")) for share in (10, 50, 80, 90)}
    return {name: None if math.isinf(value) else value for name, value in found.items()}
