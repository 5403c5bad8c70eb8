"""Rows of `proof.py` on live tests: errors, users needed and exposed, the split; with a real gateway, rollbacks."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import cast

import numpy as np
import proof_gateway
from proof import Measured, Row

from logtune.config_experiment import ExperimentSettings
from logtune.records import Json
from logtune.simulation import Ints, Played, World, fixed_horizon, play
from logtune.stages.lots import chance_at, next_share
from logtune.stages.split import Split, looked, mismatched, no_looks
from logtune.statistics import Floats

RUNS, QUICK = 10_000, 20
WORLDS: Mapping[str, World] = {
    "thumbs": World(kind="binary", mean=0.6),
    "thumbs_rare": World(kind="binary", mean=0.95),
    "rates": World(kind="rate", mean=0.7, spread=0.25, requests=4),
    "real": World(kind="real", mean=0.8, spread=0.2),
    "thumbs_day_and_night": World(kind="binary", mean=0.6, drift=0.2, period=500),
}
TRAFFIC = 150.0  # users a day, where nothing else is said
HORIZON = 4_000  # users of an A/A test
BUSY = {50: 5_000, 100: 5_000, 150: 5_000, 500: 5_000, 1_000: 5_000, 10_000: 1_000}  # users a day -> runs
SLOW = ExperimentSettings(max_days=365)  # for few users a day
SRM_USERS, SRM_RUNS, SRM_STEP = 20_000, 50_000, 25


def aa_false_rate(quick: bool) -> Measured:
    """The share of A/A tests that are promoted or rolled back, by metric."""
    settings = ExperimentSettings(max_users=HORIZON)
    played = {name: play(world, settings, runs=_runs(quick), seed=1) for name, world in WORLDS.items()}
    details: dict[str, Json] = {
        "runs": _runs(quick), "users": HORIZON, "looked_at_after": "every user", "users_a_day": TRAFFIC,
        "z_test_looked_at_as_often": {name: round(found.peeked, 4) for name, found in played.items()},
        "promoted": {name: round(found.promoted, 4) for name, found in played.items()},
    }  # fmt: skip
    return Measured(value={name: round(1 - found.undecided, 4) for name, found in played.items()}, details=details)


def sample_ratio(quick: bool) -> Measured:
    """Users by whom 80% of our tests have promoted, by those of a fixed-horizon z-test with a power of 80%.

    Of either test those whose outcomes are in: the users of the last window come on top, in both.
    """
    world, power, runs = World(mean=0.6, effect=0.05, traffic=TRAFFIC), 0.8, _runs(quick) // 2
    fixed = fixed_horizon(world, power)
    played = play(world, ExperimentSettings(), runs=runs, seed=2)
    even = play(world, ExperimentSettings(ramp=(0.5,), ramp_users=()), runs=runs, seed=2)
    others = {
        str(traffic): _ratio(play(replace(world, traffic=traffic), SLOW, runs=runs // 5, seed=2), fixed)
        for traffic in (50, 300, 1_000)
    }
    details: dict[str, Json] = {
        "fixed_horizon_users": fixed, "users_q80": played.users["q80"], "users_q50": played.users["q50"],
        "users_whose_outcomes_are_not_in": played.waiting, "without_ramp": _ratio(even, fixed),
        "promoted": played.promoted, "users_a_day": TRAFFIC, "at_other_users_a_day": cast("Json", others),
    }  # fmt: skip
    return Measured(value=_ratio(played, fixed), details=details)


def _ratio(played: Played, fixed: int) -> float | None:
    needed = played.users["q80"]
    return round((needed - played.waiting) / fixed, 3) if needed else None


def users_exposed(quick: bool) -> Measured:
    """Users who had an arm that is 10 points worse before it was rolled back, median, by users a day."""
    played = {
        str(traffic): play(
            World(mean=0.6, effect=-0.1, traffic=traffic),
            ExperimentSettings(),
            runs=runs // (QUICK if quick else 1),
            seed=3,
        )
        for traffic, runs in BUSY.items()
    }
    details: dict[str, Json] = {"by_users_a_day": {name: _told(found) for name, found in played.items()}}
    medians = cast("dict[str, float]", {name: found.exposed["q50"] for name, found in played.items()})
    return Measured(value=medians, details=details)


def srm_power(quick: bool) -> Measured:
    """The share of splits of 52:48 that are found out by the end of a ramped test of 20,000 users."""
    return _srm(quick, 52 / 48)


def srm_false(quick: bool) -> Measured:
    """The share of fair splits that are called a mismatch by then."""
    return _srm(quick, 1.0)


def _srm(quick: bool, odds: float) -> Measured:
    """A ramped test, checked after every so many users until it has the users that it may; `odds`: by how much those
    of the candidate arm are beyond what they should be.
    """
    runs, rng = SRM_RUNS // (QUICK if quick else 1), np.random.default_rng(int(1000 * odds))
    settings, leads, window = ExperimentSettings(max_users=SRM_USERS), rng.random(runs) < 0.5, round(TRAFFIC)
    shares, over, seen = _shares(settings, window), np.zeros(runs, dtype=bool), 0
    chance, split, looks = chance_at(shares, shares[-1]), _no_units(runs, shares), no_looks(runs)
    found, before_last, ends, came = over.copy(), over.copy(), np.zeros(runs), np.zeros((window // SRM_STEP, runs))
    while not over.all():
        known = came[seen // SRM_STEP % len(came)].astype(np.int64)  # candidates a window ago
        column = np.searchsorted(shares, next_share(settings, known, leads, window) - 1e-9)
        units = rng.binomial(SRM_STEP, shares[column] + 1 - shares[-1])
        wrong = chance[column] * odds / (chance[column] * odds + 1 - chance[column])
        ours = rng.binomial(units, wrong) * ~over
        before, split = split, _with(split, column, ours, units * ~over - ours)
        looks = looked(looks, before, split, SRM_USERS)
        found |= mismatched(split, looks, SRM_USERS)
        came[seen // SRM_STEP % len(came)] = split.candidate.sum(axis=1)
        seen += SRM_STEP
        before_last |= found & np.isnan(looks[:, -1])
        ends, over = np.where(over, ends, seen), over | (split.variance() >= SRM_USERS / 4)
    details: dict[str, Json] = {
        "runs": runs, "users_of_even_arms": SRM_USERS, "users_drawn_median": float(np.median(ends)),
        "odds": round(odds, 4), "users_a_day": TRAFFIC, "shares": [float(share) for share in shares],
        "found_before_the_last_look": int(before_last.sum()),
    }  # fmt: skip
    return Measured(value=round(float(found.mean()), 5), details=details)


def _shares(settings: ExperimentSettings, active: int) -> Floats:
    """All that a ramp can have at this traffic."""
    known = np.arange(settings.max_users)
    ahead = (next_share(settings, known, np.full(known.shape, leads), active) for leads in (True, False))
    return np.unique(np.concatenate(list(ahead)))


def _no_units(runs: int, shares: Floats) -> Split:
    none = np.zeros((runs, len(shares)))
    return Split(none, none.copy(), np.tile(chance_at(shares, shares[-1]), (runs, 1)))


def _with(split: Split, column: Ints, ours: Ints, others: Ints) -> Split:
    """The split with some units more, in one column a run."""
    one, other, rows = split.candidate.copy(), split.base.copy(), np.arange(len(column))
    one[rows, column] += ours
    other[rows, column] += others
    return Split(one, other, split.chance)


def _runs(quick: bool) -> int:
    return RUNS // QUICK if quick else RUNS


def _told(played: Played) -> dict[str, Json]:
    return cast("dict[str, Json]", {**asdict(played), "world": asdict(played.world)})


ROWS = [
    Row(key="aa_false_rate", what="A/A tests promoted or rolled back, by metric", side="at most", aim=0.05,
        measure=aa_false_rate),
    Row(key="sample_ratio", what="users needed at +5 points on 60%, by a fixed-horizon test's, 150 new users a day",
        side="at most", aim=2.0, measure=sample_ratio),
    Row(key="users_exposed", what="users exposed to an arm 10 points worse, median, by users a day", side="at most",
        aim=400, measure=users_exposed),
    Row(key="srm_power", side="at least", aim=0.99, measure=srm_power,
        what="splits of 52:48 found out by the end of a ramped test of 20,000 users, counted as of even arms"),
    Row(key="srm_false", what="fair splits called a mismatch by then", side="at most", aim=0.001, measure=srm_false),
    Row(key="mixed_users", what="users who saw two arms and were not moved by the ramp", side="at most", aim=0,
        measure=proof_gateway.mixed_users),
    Row(key="rollback_s", what="seconds from a breach to base serving, under load", side="at most", aim=2.0,
        measure=proof_gateway.rollback_s),
]  # fmt: skip
