"""A candidate in the shadow: it answers the same requests unseen. In -> out: LogRecord* -> Shadowed.

Each of its answers is paired with the one that was served. Nobody reacts to what nobody saw, so only the guards can
speak: a guard is broken where the candidate's share of bad answers is surely higher by more than the margin, whenever
one looks and however often (`sequential.paired`).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from logtune.config_experiment import ExperimentSettings
from logtune.records import SHADOW, Json, LogRecord
from logtune.sequential import paired
from logtune.stages.behaviour import refuses
from logtune.stages.interactions import answer_text
from logtune.stages.live import Ruling
from logtune.stages.live_guards import HIGHEST, QUANTILE_EVERY, QUANTILE_FROM, Guarded, margins

ERROR = 0.01  # chance that a candidate at every margin is stopped, ever; the guards share it
UNSEEN = ("errors", "slow", "odd_length", "refusals")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadowed:
    """Where it stands."""

    answers: int
    guards: dict[str, Guarded]

    def ruling(self, settings: ExperimentSettings, days: float) -> tuple[Ruling, str]:
        """Stop where a guard is broken, promote after enough answers."""
        if any(guard.broken for guard in self.guards.values()):
            return "stop", "guard"
        if self.answers >= settings.shadow_answers:
            return "promote", "shadowed"
        return ("stop", "undecided") if days >= settings.max_days else ("extend", "open")

    def words(self) -> str:
        """What was seen."""
        told = (
            f"{name} {percent(guard.candidate)} against {percent(guard.base)}" for name, guard in self.guards.items()
        )
        return f"{self.answers} answers in the shadow; {', '.join(told)}"

    def numbers(self) -> dict[str, Json]:
        """All of it."""
        return {"answers": self.answers, "guards": {name: asdict(guard) for name, guard in self.guards.items()}}


def shadowed(logs: Sequence[LogRecord], experiment: str, settings: ExperimentSettings, calls: int) -> Shadowed:
    """The pairs of a test so far; `calls`: that the candidate takes for an answer."""
    served = {log.id: log for log in logs if log.source != SHADOW}
    mine = [log for log in logs if log.source == SHADOW and log.draw and log.draw.experiment == experiment]
    pairs = [(served[log.traces[0]], log) for log in mine if log.traces and log.traces[0] in served]
    base = [log for log, _ in pairs]
    slow = _limits([log.latency_ms for log in base], settings.slow_factor * calls)
    long = _limits([_length(log) for log in base], settings.long_factor)
    allowed = margins(settings)
    found = {}
    for name in UNSEEN:
        sides = [
            [_bad(name, log, *limits) for log, *limits in zip(side, slow, long, strict=True)]
            for side in (base, [log for _, log in pairs])
        ]
        found[name] = _guard(sides, allowed[name])
    return Shadowed(answers=len(pairs), guards=found)


def _limits(sizes: Sequence[float | None], factor: float) -> list[float]:
    """Before each pair, `factor` times the 95th percentile of the base's answers until then; none for the first few."""
    limits, known, limit = list[float](), list[float](), float("inf")
    for number, size in enumerate(sizes):
        if number % QUANTILE_EVERY == 0 or number == QUANTILE_FROM:
            limit = factor * float(np.percentile(known, 95)) if len(known) >= QUANTILE_FROM else limit
        limits.append(limit)
        known += [] if size is None else [size]
    return limits


def _guard(sides: Sequence[Sequence[float]], margin: float) -> Guarded:
    base, ours = sides
    if not base:
        return Guarded(capital=1.0, base=None, candidate=None, broken=False)
    capital = float(min(paired(np.array(ours) - np.array(base), margin).max(), HIGHEST))
    return Guarded(
        capital=capital, base=sum(base) / len(base), candidate=sum(ours) / len(ours),
        broken=capital >= len(UNSEEN) / ERROR,
    )  # fmt: skip


def _bad(name: str, log: LogRecord, slow: float, long: float) -> float:
    text = answer_text(log.response)
    bad = {
        "errors": log.error is not None, "slow": (log.latency_ms or 0.0) > slow,
        "odd_length": log.error is None and (not text or len(text) > long),
        "refusals": text is not None and refuses(text),
    }  # fmt: skip
    return float(bad[name])


def _length(log: LogRecord) -> float | None:
    text = answer_text(log.response)
    return None if text is None else float(len(text))


def percent(share: float | None) -> str:
    """A share in words."""
    return "nothing" if share is None else f"{100 * share:.1f}%"
