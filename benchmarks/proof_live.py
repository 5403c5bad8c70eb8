"""Rows of `proof.py` on live tests: errors, users needed and exposed, the split; with a real gateway, rollbacks."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import cast

import numpy as np
import proof_gateway
from proof import Measured, Row

from logtune.config_experiment import ExperimentSettings
from logtune.records import Json
from logtune.simulation import Played, World, fixed_horizon, play
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
HORIZON = 4_000  # users of an A/A test
SRM_USERS, SRM_RUNS, SRM_STEP = 20_000, 50_000, 25


def aa_false_rate(quick: bool) -> Measured:
    """The share of A/A tests that are promoted or rolled back, by metric."""
    settings = ExperimentSettings(max_users=HORIZON)
    played = {name: play(world, settings, runs=_runs(quick), seed=1) for name, world in WORLDS.items()}
    details: dict[str, Json] = {
        "runs": _runs(quick), "users": HORIZON, "looked_at_after": "every user",
        "z_test_looked_at_as_often": {name: round(found.peeked, 4) for name, found in played.items()},
        "promoted": {name: round(found.promoted, 4) for name, found in played.items()},
    }  # fmt: skip
    return Measured(value={name: round(1 - found.undecided, 4) for name, found in played.items()}, details=details)


def sample_ratio(quick: bool) -> Measured:
    """Users by whom 80% of our tests have promoted, by those of a fixed-horizon z-test with a power of 80%."""
    world, power = World(mean=0.6, effect=0.05), 0.8
    played = play(world, ExperimentSettings(max_users=20_000), runs=_runs(quick) // 2, seed=2)
    even = play(world, ExperimentSettings(ramp=(0.5,), ramp_users=()), runs=_runs(quick) // 2, seed=2)
    fixed = fixed_horizon(world, power)
    needed, needed_even = played.users["q80"], even.users["q80"]
    details: dict[str, Json] = {
        "fixed_horizon_users": fixed, "users_q80": needed, "users_q50": played.users["q50"],
        "without_ramp": needed_even / fixed if needed_even else None, "promoted": played.promoted,
    }  # fmt: skip
    return Measured(value=round(needed / fixed, 3) if needed else None, details=details)


def users_exposed(quick: bool) -> Measured:
    """Users who had an arm that is 10 points worse before it was rolled back, median."""
    played = play(World(mean=0.6, effect=-0.1), ExperimentSettings(), runs=_runs(quick) // 2, seed=3)
    return Measured(value=played.exposed["q50"], details=_told(played))


def srm_power(quick: bool) -> Measured:
    """The share of splits of 52:48 that are found out within 20,000 users."""
    return _srm(quick, 0.52)


def srm_false(quick: bool) -> Measured:
    """The share of fair splits that are called a mismatch within 20,000 users."""
    return _srm(quick, 0.5)


def _srm(quick: bool, share: float) -> Measured:
    """Checked after every so many users, up to 20,000."""
    runs, rng = SRM_RUNS // (QUICK if quick else 1), np.random.default_rng(int(1000 * share))
    found, early, looks = np.zeros(runs, dtype=bool), 0, no_looks(runs)
    split = _split(np.zeros(runs), 0)
    for seen in range(SRM_STEP, SRM_USERS + 1, SRM_STEP):
        before, split = split, _split(split.candidate[:, 0] + rng.binomial(SRM_STEP, share, runs), seen)
        looks = looked(looks, before, split, SRM_USERS)
        found |= mismatched(split, looks, SRM_USERS)
        early = int(found.sum()) if seen < SRM_USERS else early
    details: dict[str, Json] = {"runs": runs, "users": SRM_USERS, "share": share, "found_before_the_last_look": early}
    return Measured(value=round(float(found.mean()), 5), details=details)


def _split(candidate: Floats, seen: int) -> Split:
    return Split(candidate[:, None], seen - candidate[:, None], np.full((len(candidate), 1), 0.5))


def _runs(quick: bool) -> int:
    return RUNS // QUICK if quick else RUNS


def _told(played: Played) -> dict[str, Json]:
    return cast("dict[str, Json]", {**asdict(played), "world": asdict(played.world)})


ROWS = [
    Row(key="aa_false_rate", what="A/A tests promoted or rolled back, by metric", side="at most", aim=0.05,
        measure=aa_false_rate),
    Row(key="sample_ratio", what="users needed at +5 points on 60%, by a fixed-horizon test's", side="at most", aim=2.0,
        measure=sample_ratio),
    Row(key="users_exposed", what="users exposed to an arm 10 points worse, median", side="at most", aim=400,
        measure=users_exposed),
    Row(key="srm_power", what="splits of 52:48 found out at 20,000 users", side="at least", aim=0.99,
        measure=srm_power),
    Row(key="srm_false", what="fair splits called a mismatch", side="at most", aim=0.001, measure=srm_false),
    Row(key="mixed_users", what="users who saw two arms and were not moved by the ramp", side="at most", aim=0,
        measure=proof_gateway.mixed_users),
    Row(key="rollback_s", what="seconds from a breach to base serving, under load", side="at most", aim=2.0,
        measure=proof_gateway.rollback_s),
]  # fmt: skip
