"""What a live test would show before it begins: gain with interval, users and days, or that it never can.

store, Evaluation -> Estimated

The gain comes from real users where a test has drawn some for this very candidate (`offpolicy.lift` over the units of
`stages.outcomes`), else from the held-out users of its gate. The traffic is what came to the cluster; a cluster that
nothing was ever routed to has the gate's estimate of that.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from logtune.config_experiment import ExperimentSettings
from logtune.edges.experiments import ENDS, Experiments, Led
from logtune.errors import InputError
from logtune.records import DAY_S, Evaluation, Experiment, Feedback, Json, LogRecord
from logtune.stages import offpolicy
from logtune.stages.live import telling
from logtune.stages.lots import chance_at
from logtune.stages.outcomes import Unit, history, units
from logtune.statistics import Estimate, unit_of

if TYPE_CHECKING:
    from logtune.edges.store import Store

LOOKED_BACK_S = 28 * DAY_S
BUSY_S = 7 * DAY_S  # a week has its quiet days
ALMOST_ALL = 0.99  # a share of content users of 1 leaves nothing to gain, and comes from few users


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimated:
    """What is expected of a live test."""

    cluster: str  # its name
    evaluation: str  # id
    candidate: str
    source: str  # outcomes: units of earlier tests; gate: held-out users; nothing
    units: int  # that the gain rests on, where they are of a test
    lifts: tuple[offpolicy.Lift, ...]
    users_per_day: float | None  # measured; None: nothing was ever routed there
    content: float | None  # share of its users now
    outlook: offpolicy.Outlook | None  # None: nothing is known of the gain
    reason: str


def of(store: "Store", evaluation: Evaluation, cluster: str, settings: ExperimentSettings, now: float) -> Estimated:
    """The estimate for a candidate that has passed its gate."""
    logs, feedback = list(store.logs(now - LOOKED_BACK_S)), list(store.feedback())
    found, lifts, why = _lifted(store, evaluation, cluster, settings, (logs, feedback, now))
    gain, source = (lifts[-1].estimate, "outcomes") if lifts else (_of_gate(evaluation), "gate")
    traffic = _traffic(logs, feedback, cluster, settings, now)
    outlook = _outlook(gain, traffic, evaluation, settings, measured=bool(lifts))
    return Estimated(
        cluster=cluster, evaluation=evaluation.id, candidate=evaluation.candidate,
        source=source if outlook else "nothing", units=len(found) if lifts else 0, lifts=tuple(lifts),
        users_per_day=traffic.users_per_day if traffic else None, content=traffic.content if traffic else None,
        outlook=outlook,
        reason=outlook.reason if outlook else "no held-out user corrected an answer, so nothing tells the gain" + why,
    )  # fmt: skip


def busiest(store: "Store", cluster: str, settings: ExperimentSettings, now: float) -> int:
    """Units that came to the cluster within one window, the most of the last week.

    A cluster that nothing was routed to then gets no more than what came to all of them.
    """
    window = _window(settings)
    logs = list(store.logs(now - max(window, BUSY_S)))
    mine = [log for log in logs if log.cluster == cluster] or logs
    came: dict[int, set[str]] = defaultdict(set)
    for log in mine:
        came[int((now - log.at) // window)].add(unit_of(log.user, log.session, log.id))
    return max(map(len, came.values()), default=0)


def unprovable(measured: Estimated) -> str:
    """Why a live test must not begin, since it can't show the gain that is expected; "": it may.

    Where no gain is expected the wait after lost tests decides.
    """
    outlook = measured.outlook
    if outlook is None or outlook.possible or outlook.users is None:
        return ""
    return f'{outlook.reason}; experiment.mode = "off" serves without one'


Read = tuple[Sequence[LogRecord], Sequence[Feedback], float]  # and the present


def _lifted(
    store: "Store", evaluation: Evaluation, cluster: str, settings: ExperimentSettings, read: Read
) -> tuple[list[offpolicy.Logged], list[offpolicy.Lift], str]:
    """By all three estimators, from every test of this candidate; nothing and why where its units are too few."""
    tests = [led for led in Experiments(store).of_cluster(cluster) if _same(led[0], evaluation)]
    found = [unit for led in tests for unit in _drawn(led, settings, read)]
    if not found:
        return [], [], ""
    try:
        return found, offpolicy.lift(found, settings.confidence), ""
    except InputError as error:
        return found, [], f"; {error.what}"


def _drawn(led: Led, settings: ExperimentSettings, read: Read) -> list[offpolicy.Logged]:
    """The units of a test until it was decided: from then on everybody has the same, or nearly everybody."""
    (test, steps), (logs, feedback, now) = led, read
    over = min([now, *(step.since for step in steps if step.action in ("promote", *ENDS))])
    mine = [log for log in logs if log.at <= over]
    found = units(mine, feedback, test.id, test.at, settings.metric, _window(settings))
    return logged(found, settings, over, ExperimentSettings.model_validate(test.plan).ramp[-1])


def logged(found: Sequence[Unit], settings: ExperimentSettings, now: float, last: float) -> list[offpolicy.Logged]:
    """The units that the test itself compares, with their chance among these; `last`: the share its ramp ends with.

    Whom the ramp moves is known by the lot. Those who were moved and came back must not be told by their two arms:
    who comes back may be happier than who does not.
    """
    compared = [unit for unit in telling(found, settings, now, last) if 0 < unit.share <= last]
    chances = chance_at(np.array([unit.share for unit in compared]), last)
    return [
        offpolicy.Logged(candidate=unit.candidate, propensity=float(chance), outcome=unit.value)
        for unit, chance in zip(compared, chances, strict=True)
        if unit.value is not None
    ]


def _same(test: Experiment, evaluation: Evaluation) -> bool:
    return test.evaluation_id == evaluation.id or (
        test.adapter_id is not None and test.adapter_id == evaluation.adapter_id
    )


def _window(settings: ExperimentSettings) -> float:
    return 3600 * settings.window_hours


def _of_gate(evaluation: Evaluation) -> Estimate | None:
    told = evaluation.guards.get("outlook")
    if not isinstance(told, dict):
        return None
    gain, low, high = (cast("float", told[name]) for name in ("gain", "low", "high"))
    return Estimate(gain, low, high)


def _traffic(
    logs: Sequence[LogRecord], feedback: Sequence[Feedback], cluster: str, settings: ExperimentSettings, now: float
) -> offpolicy.Traffic | None:
    """What came to the cluster; None where nothing was ever routed there."""
    mine = [log for log in logs if log.cluster == cluster]
    said = history(mine, feedback, settings.metric, _window(settings))
    if not mine or not said:
        return None
    users = {unit_of(log.user, log.session, log.id) for log in mine}
    days = max(1.0, (now - min(log.at for log in mine)) / DAY_S)
    return offpolicy.Traffic(
        users_per_day=round(len(users) / days, 3), content=min(ALMOST_ALL, round(sum(said) / len(said), 4))
    )


def _outlook(
    gain: Estimate | None, traffic: offpolicy.Traffic | None, evaluation: Evaluation, settings: ExperimentSettings,
    *, measured: bool,
) -> offpolicy.Outlook | None:  # fmt: skip
    if gain is None:
        return None
    if traffic is not None:
        within = min(settings.max_days, settings.max_users / max(traffic.users_per_day, 1e-9))
        return offpolicy.outlook(gain, traffic, within, settings.confidence)
    told = cast("Mapping[str, Json]", evaluation.guards.get("outlook") or {})
    if measured or not told:
        return None
    found = offpolicy.Outlook(**cast("dict[str, float]", dict(told)))  # type: ignore[arg-type]
    return offpolicy.within(found, settings.max_days, settings.max_users)
