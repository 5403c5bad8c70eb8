"""What users made of the arms of a live test. In -> out: LogRecord*, Feedback* -> Unit*, oldest first.

A unit (user, else session, else request) counts once, by what happened within its window: from its first request in
the test on, so that nothing that comes later can change what was counted. Guards have a shorter window. A unit is known
by its lot. Every outcome is 0 bad .. 1 good; None where a unit says nothing.
"""

import difflib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from logtune.config import SignalSettings
from logtune.config_experiment import Metric
from logtune.records import Draw, Feedback, Interaction, LogRecord, Signal
from logtune.stages.behaviour import refuses
from logtune.stages.experiment import BASE, CANDIDATE
from logtune.stages.interactions import answer_text, join
from logtune.stages.signals import read
from logtune.statistics import unit_of

GUARD_S = 1800.0  # window of the guards
COMPLAINTS = ("complaint", "correction")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request of a unit."""

    arm: str
    at: float
    failed: bool
    latency_ms: float | None
    length: int | None  # characters of the answer; None: there is none
    refused: bool
    complained: bool  # within the window of the guards
    good: float | None  # by the metric, within the unit's window


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Who was drawn, and what they asked in their window."""

    lot: float
    share: float  # of the candidate when they were first seen
    first_at: float
    last_at: float  # of its last request, after the window too
    arms: frozenset[str]  # ever seen, after the window too
    asked: tuple[Asked, ...]
    early: tuple[Asked, ...]  # those in the window of the guards

    @property
    def candidate(self) -> bool:
        """Whether it is in the candidate arm."""
        return self.lot < self.share

    @property
    def value(self) -> float | None:
        """The mean over its requests that say something."""
        found = [item.good for item in self.asked if item.good is not None]
        return sum(found) / len(found) if found else None


def units(
    logs: Sequence[LogRecord], feedback: Sequence[Feedback], experiment: str, since: float, metric: Metric,
    window_s: float,
) -> list[Unit]:  # fmt: skip
    """The units of a test since a moment; `logs`: all since then, as follow-ups may have gone elsewhere.

    Who came first when a gateway had ended the test already, and the store did not know it yet, was in no lottery.
    """
    drawn: dict[float, list[tuple[LogRecord, Draw]]] = defaultdict(list)
    for log in logs:
        if log.draw is not None and log.draw.experiment == experiment and log.at >= since:
            drawn[log.draw.lot].append((log, log.draw))
    reader = _Reader.of(logs, feedback, metric, window_s)
    found = (_unit(mine, reader, window_s) for mine in drawn.values())
    return sorted((unit for unit in found if 0 < unit.share < 1), key=lambda unit: (unit.first_at, unit.lot))


def history(
    logs: Sequence[LogRecord], feedback: Sequence[Feedback], metric: Metric, window_s: float
) -> list[float]:  # fmt: skip
    """Outcomes of all users of the logs who say something, as a test would count them."""
    by_user: dict[str, list[LogRecord]] = defaultdict(list)
    for log in logs:
        by_user[unit_of(log.user, log.session, log.id)].append(log)
    alone = Draw(experiment="", unit="user", lot=0.0, propensity=1.0)
    reader = _Reader.of(logs, feedback, metric, window_s)
    found = (_unit([(log, alone) for log in mine], reader, window_s).value for mine in by_user.values())
    return [value for value in found if value is not None]


@dataclass(frozen=True, slots=True)
class _Reader:
    """What is looked up of a request."""

    joined: Mapping[str, Interaction]  # by log id
    feedback: Mapping[str, Feedback]
    when: Mapping[str, float]  # log id -> its time
    metric: Metric
    window_s: float

    @classmethod
    def of(
        cls, logs: Sequence[LogRecord], feedback: Sequence[Feedback], metric: Metric, window_s: float
    ) -> "_Reader":  # fmt: skip
        """All of it made ready."""
        joined = {item.log_id: item for item in join(logs, feedback)}
        given = {item.id: item for item in feedback}
        return cls(joined, given, {log.id: log.at for log in logs}, metric, window_s)

    def asked(self, log: LogRecord, first_at: float) -> Asked:
        """One request, as far as its unit's window reaches."""
        text = answer_text(log.response)
        signals = self._signals(log, first_at + self.window_s)
        early = self._signals(log, first_at + GUARD_S) if log.at < first_at + GUARD_S else ()
        return Asked(
            arm=log.arm or BASE, at=log.at, failed=log.error is not None, latency_ms=log.latency_ms,
            length=None if text is None else len(text), refused=text is not None and refuses(text),
            complained=any(_complains(signal) for signal in early),
            good=GOOD[self.metric](text, signals) if log.error is None else 0.0 if self.metric == "satisfied" else None,
        )  # fmt: skip

    def _signals(self, log: LogRecord, until: float) -> tuple[Signal, ...]:
        item = self.joined.get(log.id)
        if item is None:
            return ()
        given = [self.feedback[name] for name in item.feedback_ids if self.feedback[name].at <= until]
        said = tuple(turn for turn in item.follow_ups if self.when.get(turn.log_id, 0.0) <= until)
        return read(replace(item, follow_ups=said), given, SignalSettings())


def _unit(found: Sequence[tuple[LogRecord, Draw]], reader: _Reader, window_s: float) -> Unit:
    found = sorted(found, key=lambda pair: (pair[0].at, pair[0].id))
    first, draw = found[0]
    asked = [reader.asked(log, first.at) for log, _ in found if log.at <= first.at + window_s]
    share = draw.propensity if first.arm == CANDIDATE else 1 - draw.propensity
    return Unit(
        lot=draw.lot, share=round(share, 9), first_at=first.at, last_at=found[-1][0].at,
        arms=frozenset(log.arm or BASE for log, _ in found), asked=tuple(asked),
        early=tuple(item for item in asked if item.at <= first.at + GUARD_S),
    )  # fmt: skip


def _complains(signal: Signal) -> bool:
    return signal.kind in COMPLAINTS or (signal.kind == "rating" and signal.polarity < 0)


def _satisfied(_: str | None, signals: Iterable[Signal]) -> float | None:
    return 0.0 if any(signal.polarity < 0 for signal in signals) else 1.0


def _thumbs(_: str | None, signals: Iterable[Signal]) -> float | None:
    rated = [signal.polarity for signal in signals if signal.kind == "rating"]
    return (1 + sum(rated) / len(rated)) / 2 if rated else None


def _not_reasked(_: str | None, signals: Iterable[Signal]) -> float | None:
    return 0.0 if any(signal.kind in ("reask", "regenerate") for signal in signals) else 1.0


def _kept(text: str | None, signals: Iterable[Signal]) -> float | None:
    """How much of the answer is left in what the user made of it: 1 less the edit distance, as a share."""
    taken = [signal for signal in signals if signal.kind in ("edit", "accept", "copy")]
    if text is None or not taken:
        return None
    edited = next((signal.correction for signal in taken if signal.correction), text)
    return difflib.SequenceMatcher(None, text[:4000], edited[:4000], autojunk=False).ratio()


GOOD = {"satisfied": _satisfied, "thumbs": _thumbs, "reask": _not_reasked, "edit": _kept}
