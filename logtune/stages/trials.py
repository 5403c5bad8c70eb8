"""A live test as a whole. In -> out: Experiment, Step*, LogRecord*, Feedback* -> Trial -> Step, Verdict.

Where it stands, what that decides (`stages.live`, `stages.shadow`), and the records that say so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from logtune.config_experiment import ExperimentSettings
from logtune.ids import digest, identified
from logtune.records import (
    DAY_S,
    SHADOW,
    Evaluation,
    Experiment,
    Feedback,
    Json,
    LogRecord,
    Step,
    StepAction,
    Verdict,
)
from logtune.stages import live
from logtune.stages.choice import CALLS
from logtune.stages.experiment import BASE, CANDIDATE, Decision, arms
from logtune.stages.outcomes import Unit, units
from logtune.stages.shadow import Shadowed, percent, shadowed


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A test, where it is, and what its users made of it."""

    test: Experiment
    steps: tuple[Step, ...]
    settings: ExperimentSettings
    units: tuple[Unit, ...]  # since its phase began
    state: live.State
    shadow: Shadowed | None = None  # of a candidate that answers unseen
    counted: bool = True  # False: its logs were not read, so units, state and shadow say nothing

    @property
    def now(self) -> Step:
        """The newest step."""
        return self.steps[-1]

    @property
    def watched(self) -> bool:
        """Whether the candidate was promoted and is watched."""
        return self.now.action == "promote"

    @property
    def last(self) -> float:
        """The share with which this phase ends."""
        return self.now.share if self.watched else self.settings.ramp[-1]


def standing(
    test: Experiment, steps: tuple[Step, ...], logs: Sequence[LogRecord], feedback: Sequence[Feedback], now: float
) -> Trial:
    """Where a test stands."""
    settings = ExperimentSettings.model_validate(test.plan)
    promoted = next((step for step in steps if step.action == "promote"), None)
    since = promoted.since if promoted else steps[0].since
    last = promoted.share if promoted else settings.ramp[-1]
    served = [log for log in logs if log.source != SHADOW]
    hidden = settings.mode == "shadow" and promoted is None
    found = [] if hidden else units(served, feedback, test.id, since, settings.metric, 3600 * settings.window_hours)
    calls = CALLS[test.candidate]
    return Trial(
        test=test, steps=steps, settings=settings, units=tuple(found),
        state=live.state(found, settings, now, last, settings.slow_factor * calls),
        shadow=shadowed(logs, test.id, settings, calls) if hidden else None,
    )  # fmt: skip


def ruling(at: Trial, now: float) -> tuple[live.Ruling, str]:
    """What to do with it now, and the code of why."""
    days = (now - at.steps[0].since) / DAY_S
    if at.watched:
        watched = (now - at.now.since) / DAY_S
        return live.watch_ruling(at.state, at.settings, days=watched)
    if at.shadow is not None:
        return at.shadow.ruling(at.settings, days)
    return live.ruling(at.state, at.settings, days=days, share=at.now.share)


def step_of(
    at: Trial, action: StepAction, share: float, since: float, *, by: str, reason: str, now: float,
    verdict: Verdict | None = None,
) -> Step:  # fmt: skip
    """The next step of a test, with the verdict that it rests on."""
    return numbered(at.test, len(at.steps), Step(
        id="", experiment_id="", number=0, action=action, share=share, since=since,
        verdict_id=verdict.id if verdict else None, by=by, reason=reason, at=now, code=verdict.code if verdict else "",
    ))  # fmt: skip


def numbered(test: Experiment, number: int, step: Step) -> Step:
    """The step with its place in a test."""
    return replace(step, id=f"step-{digest([test.id, number])}", experiment_id=test.id, number=number)


def verdict_of(
    evaluation: Evaluation, at: Trial, decision: Decision, code: str, reason: str,
    gateway: Mapping[str, Json] | None = None,
) -> Verdict:  # fmt: skip
    """What a test decides, with all it rests on; `gateway`: the guard that a gateway saw broken, with its numbers."""
    sides, means = arms(evaluation), at.state.means
    for name, side in sides.items():
        assert isinstance(side, dict)
        side |= {"units": at.state.units.get(name, 0), "mean": means.get(name)} if at.counted else {}
    ours, base = means.get(CANDIDATE), means.get(BASE)
    return identified(
        Verdict(
            id="", cluster_id=at.test.cluster_id, evaluation_id=at.test.evaluation_id, adapter_id=at.test.adapter_id,
            arms=sides, effect=None if ours is None or base is None else round(ours - base, 6),
            lower=round(at.state.interval.low, 6) if at.counted else None,
            upper=round(at.state.interval.high, 6) if at.counted else None,
            decision=decision, reason=reason, code=code, experiment_id=at.test.id,
            receipt={
                "metric": at.settings.metric, "plan": dict(at.test.plan), "config_hash": at.test.config_hash,
                "phase": "watch" if at.watched else "test", "share": at.now.share, "counted": at.counted,
                **(at.state.numbers() if at.counted else {}),
                **({"shadow": at.shadow.numbers()} if at.shadow and at.counted else {}),
                **({"gateway": dict(gateway)} if gateway else {}),
            },
        )
    )  # fmt: skip


def words(at: Trial, code: str) -> str:
    """A reason in a sentence, with its numbers."""
    state, total = at.state, sum(at.state.units.values())
    broken = [name for name, guard in state.guards.items() if guard.broken]
    if at.shadow is not None:
        return f"{live.CODES[code]}: {at.shadow.words()}"
    if code == "guard" and broken:
        guard = state.guards[broken[0]]
        return f"the guard '{broken[0]}' was broken: {percent(guard.candidate)} against {percent(guard.base)}"
    return (
        f"{live.CODES[code]}: after {total} users the difference ({at.settings.metric}) lies between "
        f"{100 * state.interval.low:+.1f} and {100 * state.interval.high:+.1f} points, at every moment; "
        f"{state.exposed} users had the candidate"
    )
