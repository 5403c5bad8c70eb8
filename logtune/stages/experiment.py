"""From proof to decision. In -> out: Evaluation, Observation* -> Verdict; sticky assignment of units to arms.

Without a live test a passed gate promotes. With one, the candidate must also beat the base arm on real users: each unit
gives one outcome in 0..1, and the confidence sequences of both arms hold at every moment, so the test may be looked at
after every user and stopped at once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from logtune.errors import InputError
from logtune.records import Evaluation, Json, Verdict, identified
from logtune.statistics import Interval, confidence_sequence, sample_ratio_p, uniform

BASE, CANDIDATE = "base", "candidate"
EVEN = {BASE: 0.5, CANDIDATE: 0.5}
MISMATCH_P = (
    0.001  # sample-ratio mismatch: as low as this is customary because the check is repeated (Fabijan et al. 2019)
)

Decision = Literal["promote", "extend", "stop", "rollback"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What one unit made of the arm it saw."""

    unit: str  # statistics.unit_of: user, else session, else request
    arm: str
    value: float  # 0 bad .. 1 good


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveTest:
    """Where a live test stands."""

    units: Mapping[str, int]  # an arm's units
    means: Mapping[str, float | None]
    difference: Interval  # candidate minus base, -1..1
    mixed: int  # units that saw more than one arm: left out
    mismatch_p: float


def assign(unit_id: str, salt: str, shares: Mapping[str, float]) -> str:
    """The arm of a unit (`statistics.unit_of` makes its id and says what it is): the same for the same salt and shares.

    Weighted rendezvous hashing (Schindelhauer and Schomaker 2005): exact shares for any number of arms, and a share
    that grows takes units from others but gives none away: a ramp moves no one back. Raises InputError on bad shares.
    """
    if any(not 0 <= share <= 1 for share in shares.values()) or not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
        raise InputError(f"shares {dict(shares)} are no shares of one whole", "each lies in 0..1 and they add up to 1")
    open_arms = [arm for arm in sorted(shares) if shares[arm] > 0]
    return min(open_arms, key=lambda arm: -math.log1p(-uniform("arm", salt, arm, unit_id)) / shares[arm])


def decide(
    evaluation: Evaluation,
    *,
    live_test: bool,
    outcomes: Sequence[Observation] = (),
    shares: Mapping[str, float] = EVEN,
    confidence: float = 0.95,
) -> Verdict:
    """The verdict on a candidate. Effect and bounds are candidate minus baseline, -1..1: before a live test the share
    of votes won less the share lost, in one the difference of the arms' mean outcomes.

    Not passed: stop, or extend where only data are missing. Passed: promote, with `live_test` once the live difference
    is surely above 0; rollback once it is surely below; extend in between; stop when units reached the arms in other
    shares than they were sent.
    """
    if evaluation.outcome != "passed":
        decision: Decision = "stop" if evaluation.outcome == "failed" else "extend"
        return _verdict(evaluation, decision, evaluation.reason)
    if not live_test:
        return _verdict(
            evaluation, "promote", f"the gate was passed and no live test is asked for: {evaluation.reason}"
        )
    state = live(outcomes, shares, confidence)
    return _verdict(evaluation, *_read(state, confidence), state)


def live(outcomes: Sequence[Observation], shares: Mapping[str, float], confidence: float = 0.95) -> LiveTest:
    """Where a live test stands after `outcomes`, oldest first.

    A unit counts once, with its first outcome (a mean that moves later would break the sequence); units that saw two
    arms are left out. The bounds of the difference are those of both arms at half the error each (union bound).
    """
    seen: dict[str, set[str]] = {}
    first: dict[str, Observation] = {}
    for item in outcomes:
        seen.setdefault(item.unit, set()).add(item.arm)
        first.setdefault(item.unit, item)
    clean = [item for unit, item in first.items() if len(seen[unit]) == 1]
    values = {arm: [item.value for item in clean if item.arm == arm] for arm in shares}
    bands = {arm: confidence_sequence(values.get(arm, ()), (1 + confidence) / 2).last for arm in (BASE, CANDIDATE)}
    ours, base = bands[CANDIDATE], bands[BASE]
    units = {arm: len(found) for arm, found in values.items()}
    stray = {item.arm: 1 for item in clean if item.arm not in shares}
    return LiveTest(
        units=units,
        means={arm: sum(found) / len(found) if found else None for arm, found in values.items()},
        difference=Interval(ours.low - base.high, ours.high - base.low),
        mixed=len(first) - len(clean),
        mismatch_p=sample_ratio_p({**units, **stray}, shares),
    )


def _read(state: LiveTest, confidence: float) -> tuple[Decision, str]:
    total = sum(state.units.values())
    found = (
        f"after {total} units the live difference lies between {100 * state.difference.low:+.1f} and "
        f"{100 * state.difference.high:+.1f} points ({100 * confidence:.0f}%, at every moment)"
    )
    if state.mismatch_p < MISMATCH_P:
        counts = ", ".join(f"{arm} {count}" for arm, count in state.units.items())
        return (
            "stop",
            f"units reached the arms in other shares than they were sent ({counts}; p {state.mismatch_p:.1g})",
        )
    if state.difference.low > 0:
        return "promote", found
    if state.difference.high < 0:
        return "rollback", found
    return "extend", found


def _verdict(evaluation: Evaluation, decision: Decision, reason: str, state: LiveTest | None = None) -> Verdict:
    effect, low, high = _effect(evaluation, state)
    return identified(
        Verdict(
            id="",
            cluster_id=evaluation.cluster_id,
            evaluation_id=evaluation.id,
            adapter_id=evaluation.adapter_id,
            arms=_arms(evaluation, state),
            effect=effect,
            lower=low,
            upper=high,
            decision=decision,
            reason=reason,
        )
    )


def _effect(evaluation: Evaluation, state: LiveTest | None) -> tuple[float | None, float | None, float | None]:
    if state is None:
        found = (evaluation.win_rate, evaluation.lower, evaluation.upper)
        effect, low, high = (None if value is None else round(2 * value - 1, 6) for value in found)
        return effect, low, high
    ours, base = state.means.get(CANDIDATE), state.means.get(BASE)
    mean = None if ours is None or base is None else round(ours - base, 6)
    return mean, round(state.difference.low, 6), round(state.difference.high, 6)


def _arms(evaluation: Evaluation, state: LiveTest | None) -> dict[str, Json]:
    """Both arms by name: what serves in each, and with a live test its units and mean outcome."""
    base: dict[str, Json] = {"serves": evaluation.baseline}
    candidate: dict[str, Json] = {"serves": evaluation.adapter_id or evaluation.candidate, "kind": evaluation.candidate}
    if state is not None:
        for name, arm in ((BASE, base), (CANDIDATE, candidate)):
            mean = state.means.get(name)
            arm["units"] = state.units.get(name, 0)
            arm["mean"] = None if mean is None else round(mean, 6)
    arms: dict[str, Json] = {BASE: base, CANDIDATE: candidate}
    return {**arms, "left_out": state.mixed} if state is not None else arms
