"""Live tests are led: look at what users made of the arms, decide, write it down; gateways follow the store.

store, now -> look -> Step*, Verdict*, Deployment*        begin: a test, for what passed its gate; promote, end: by hand

Looking changes nothing unless a decision is due, so it may be done at any time, by several processes at once: of two
that decide the same, the second one finds the step taken.
"""

import getpass
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from logtune import estimates, holdings
from logtune.config_experiment import ExperimentSettings
from logtune.edges.experiments import ENDS, Experiments, Led
from logtune.edges.live_logs import LiveLogs
from logtune.errors import InputError
from logtune.ids import identified
from logtune.records import DAY_S, Adapter, Deployment, Evaluation, Experiment, Json, Step, StepAction
from logtune.stages import deploy, live
from logtune.stages.experiment import GATE_PASSED, Decision
from logtune.stages.plan import Serving, promotion
from logtune.stages.trials import Trial, numbered, ruling, standing, step_of, verdict_of, words

if TYPE_CHECKING:
    from logtune.config import Config
    from logtune.edges.store import Store

LOADING_S = 30.0  # until a test comes into force: its candidate has to be loaded by then
AHEAD_S = 3.0  # beyond the poll of the gateways, until a larger share comes into force: all know it by then
MOST_COUNTED = 1000  # logs since a test began, where somebody waits for its end: half a second


def begin(
    store: "Store", evaluation: Evaluation, cluster_name: str, config: "Config", now: float
) -> tuple[Experiment | None, str]:
    """Begin the test of a candidate that has passed its gate; None and why, where it may not begin now."""
    tests, settings = Experiments(store), config.experiment
    history = tests.of_cluster(cluster_name)
    if reason := _hindered(tests, history, cluster_name, settings, now):
        return None, reason
    if not settings.begin_unprovable:
        measured = estimates.of(store, evaluation, cluster_name, settings, now)
        if reason := estimates.unprovable(measured):
            return None, reason
    current = store.deployments().get(cluster_name)
    test = identified(
        Experiment(
            id="", cluster_id=evaluation.cluster_id, evaluation_id=evaluation.id, adapter_id=evaluation.adapter_id,
            baseline_id=current.id if current else None, cluster_name=cluster_name, candidate=evaluation.candidate,
            attempt=len(history) + 1, plan=settings.model_dump(mode="json"), config_hash=config.config_hash, at=now,
        )
    )  # fmt: skip
    active = estimates.busiest(store, cluster_name, settings, now) if settings.mode == "ab" else 0
    share = live.first_share(settings, active)
    since = now + config.serve.poll_s + LOADING_S
    first = Step(
        id="", experiment_id="", number=0, action="start", share=share, since=since, verdict_id=None, by="loop",
        reason="the gate was passed", at=now, code=GATE_PASSED,
    )  # fmt: skip
    begun = tests.begin(test, numbered(test, 0, first))
    return (test, "") if begun else (None, "a live test of this cluster is running already")


def _hindered(tests: Experiments, history: list[Led], name: str, settings: ExperimentSettings, now: float) -> str:
    paused = [control for control in tests.paused() if control.name in ("", name)]
    if paused:
        return f"paused by {paused[0].by}: {paused[0].reason}"
    ended = [steps[-1] for _, steps in history]
    if ended and ended[-1].action not in ENDS:
        return "a live test of this cluster is running already"
    days = live.backoff_days([step.action for step in ended], settings)
    left = (ended[-1].at + days * DAY_S - now) / DAY_S if days else 0.0
    return f"its last live test was lost; the next one may begin in {left:.1f} days" if left > 0 else ""


def look(
    store: "Store", config: "Config", now: float, base_parameters: int | None = None, seen: LiveLogs | None = None
) -> list[tuple[Experiment, Step]]:
    """Lead every running test as far as its users' outcomes allow; the steps that were taken.

    `seen`: what earlier looks at this store have read.
    """
    running = Experiments(store).running()
    if not running:
        return []
    since = min(test.at for test, _ in running.values())
    logs, feedback = (seen or LiveLogs()).read(store, since, now)
    taken = [
        (led[0], _lead(store, standing(*led, logs, feedback, now), config, now, base_parameters))
        for led in running.values()
    ]
    return [(test, step) for test, step in taken if step is not None]


def _lead(store: "Store", at: Trial, config: "Config", now: float, base_parameters: int | None) -> Step | None:
    if moved := _moved(store, at):
        return end(store, at, "stop", "moved", moved, by="loop", now=now)
    what, code = ruling(at, now)
    paused = any(control.name in ("", at.test.cluster_name) for control in Experiments(store).paused())
    if code == "open" or (paused and what != "rollback"):
        return None
    if what == "promote":
        return promote(store, at, code, words(at, code), config, now=now, base_parameters=base_parameters)
    if code == "ramp":
        return _ramp(store, at, config, now)
    return end(store, at, "rollback" if what == "rollback" else "stop", code, words(at, code), by="loop", now=now)


def _moved(store: "Store", at: Trial) -> str:
    """Why the arms of a test are not any more what they were; "": they are."""
    current = store.deployments().get(at.test.cluster_name)
    if at.watched:
        verdict = at.now.verdict_id
        same = current is not None and current.verdict_id == verdict
    else:
        same = (current.id if current else None) == at.test.baseline_id
    serves = current.id if current and current.candidate != "base" else "the base model"
    return "" if same else f"{at.test.cluster_name} is served by {serves} now"


def _ramp(store: "Store", at: Trial, config: "Config", now: float) -> Step | None:
    share = live.allowed(at.state, at.settings)
    since = now + config.serve.poll_s + AHEAD_S
    reason = words(at, "ramp")
    verdict = verdict_of(_evaluation(store, at), at, "extend", "ramp", reason)
    step = step_of(at, "ramp", share, since, by="loop", reason=reason, now=now, verdict=verdict)
    return step if Experiments(store).take(step, verdict) else None


def promote(
    store: "Store", at: Trial, code: str, reason: str, config: "Config", *, by: str = "loop", now: float,
    base_parameters: int | None = None,
) -> Step | None:  # fmt: skip
    """Let the candidate serve, at first with a hold-back; a watch that is over ends the test."""
    if at.watched:
        return end(store, at, "end", code, reason, by=by, now=now)
    verdict = verdict_of(_evaluation(store, at), at, "promote", code, reason)
    current = store.deployments()
    coming = {at.test.adapter_id: [at.test.cluster_name]} if at.test.adapter_id else {}
    adapters = store.load(Adapter, sorted({*deploy.live_adapters(current), *coming}))
    limits = holdings.outside(store, config, base_parameters, now, coming) if base_parameters is not None else None
    others = {name: test.adapter_id for name, (test, _) in Experiments(store).running().items() if test.adapter_id}
    others.pop(at.test.cluster_name, None)
    adapters += store.load(Adapter, sorted(set(others.values()) - {each.id for each in adapters}))
    serving = Serving(
        current=current, adapters={each.id: each for each in adapters}, now=now, limits=limits, tested=others
    )
    changes = promotion(verdict, at.test.cluster_name, serving)
    if changes[-1].action == "keep":
        return end(store, at, "stop", code, changes[-1].reason, by=by, now=now)
    ends = at.settings.hold_back == 0
    action: StepAction = "end" if ends else "promote"
    share = 1 - at.settings.hold_back
    step = step_of(at, action, share, now, by=by, reason=reason, now=now, verdict=verdict)
    return step if Experiments(store).take(step, verdict, changes) else None


def end(
    store: "Store", at: Trial, action: StepAction, code: str, reason: str, *, by: str, now: float,
    gateway: Mapping[str, Json] | None = None,
) -> Step | None:  # fmt: skip
    """End a test; a promoted candidate that is rolled back is replaced by what served before, while it still serves.

    `gateway`: the guard that a gateway saw broken, with its numbers.
    """
    back = at.watched and action == "rollback"
    if back and (moved := _moved(store, at)):
        back, reason = False, f"{reason}; nothing is put back: {moved}"
    decisions: dict[StepAction, Decision] = {"rollback": "rollback", "end": "promote"}
    decision = decisions.get(action, "stop")
    verdict = verdict_of(_evaluation(store, at), at, decision, code, reason, gateway)
    share = 1.0 if action == "end" else 0.0
    step = step_of(at, action, share, now, by=by, reason=reason, now=now, verdict=verdict)
    made: list[Deployment] = []
    if back:
        history = store.list(Deployment, limit=None)
        made = [deploy.rollback(at.test.cluster_name, history, now, f"{reason} ({verdict.id})")]
    return step if Experiments(store).take(step, verdict, made) else None


def _evaluation(store: "Store", at: Trial) -> Evaluation:
    return store.load(Evaluation, [at.test.evaluation_id])[0]


def break_guard(store: "Store", experiment: str, guard: str, numbers: Mapping[str, Json], now: float) -> Step | None:
    """Roll back a test whose guard a gateway saw broken; None: it was over already.

    Another step that was taken just then, as one of the ramp, ends nothing: the rollback follows it. Other gateways
    wait for it, so the logs of a large test are not counted first.
    """
    reason = f"the guard '{guard}' was broken: {', '.join(f'{name} {value}' for name, value in numbers.items())}"
    tests = Experiments(store)
    while led := next((led for led in tests.running().values() if led[0].id == experiment), None):
        at, seen = counted(store, led, now, most=MOST_COUNTED), {"guard": guard, **numbers}
        if step := end(store, at, "rollback", "guard", reason, by="guard", now=now, gateway=seen):
            return step
    return None


def stop_test(store: "Store", cluster_name: str, now: float) -> Step | None:
    """End the test that runs in a cluster, if one does, because what serves there is changed by hand."""
    led = Experiments(store).running().get(cluster_name)
    if led is None:
        return None
    at = counted(store, led, now, most=MOST_COUNTED)
    return end(store, at, "stop", "moved", "rolled back by hand", by=whoami(), now=now)


def counted(store: "Store", led: Led, now: float, most: int | None = None) -> Trial:
    """Where a test stands by all its logs; not counted, where there are more than `most` since it began."""
    logs = list(islice(store.logs(led[0].at, shadow=True), None if most is None else most + 1))
    if most is not None and len(logs) > most:
        return replace(standing(*led, (), (), now), counted=False)
    return standing(*led, logs, list(store.feedback(led[0].at)), now)


def find(store: "Store", wanted: str) -> Led:
    """The test with this id, or its beginning, or the newest one of a cluster; InputError where there is none."""
    tests, record = Experiments(store), store.get(wanted)
    if isinstance(record, Experiment):
        return record, tests.led(record)
    found = tests.of_cluster(wanted)
    if not found:
        raise InputError(f"there is no experiment '{wanted}'", "logtune experiments lists them")
    return found[-1]


def by_hand(store: "Store", wanted: str, action: str, reason: str, config: "Config", now: float) -> Step:
    """Stop, promote or roll back a test by hand; InputError where it is over. In the watch, a stop rolls back."""
    at = counted(store, find(store, wanted), now)
    if at.now.action in ENDS:
        raise InputError(
            f"{at.test.id} is over: {at.now.action}, by {at.now.by}",
            f"logtune rollback {at.test.cluster_name} restores what served before",
        )
    if action == "promote":
        step = promote(store, at, "by_hand", reason, config, by=whoami(), now=now)
    else:
        ends: StepAction = "stop" if action == "stop" and not at.watched else "rollback"
        step = end(store, at, ends, "by_hand", reason, by=whoami(), now=now)
    if step is None:
        raise InputError(f"another process led {at.test.id} on just now", "look at it again: logtune experiments show")
    return step


def whoami() -> str:
    """Who runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return "unknown"
