"""What answers with a critic took in serving, against the single call that their draft was.

LogRecord* -> Reflective*, one a cluster
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, median

from logtune.records import Json, LogRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Reflective:
    """Answers of a cluster that took several calls."""

    cluster: str
    answers: int
    calls: float  # mean an answer
    latency_ms: float  # median, to the last byte
    latency_ratio: float | None  # median of each answer's time over its draft's; None: not measured
    tokens: float | None  # mean, prompt and completion; None: no model server counted them all
    tokens_ratio: float | None  # over those of the drafts


def reflective(logs: Iterable[LogRecord]) -> tuple[Reflective, ...]:
    """By cluster name; logs that took one call, or failed, do not count."""
    found: dict[str, list[LogRecord]] = {}
    for log in logs:
        if log.error is None and isinstance(log.usage.get("draft"), dict):
            found.setdefault(log.cluster or "none", []).append(log)
    return tuple(_of(name, items) for name, items in sorted(found.items()))


def _of(cluster: str, logs: list[LogRecord]) -> Reflective:
    times = [(log.latency_ms or 0.0, _number(_draft(log).get("latency_ms"))) for log in logs]
    ratios = [whole / draft for whole, draft in times if draft]
    counted = [log for log in logs if not log.usage.get("uncounted")]
    tokens = fmean(map(_tokens, (log.usage for log in counted))) if counted else None
    drafts = fmean(map(_tokens, map(_draft, counted))) if counted else 0.0
    return Reflective(
        cluster=cluster, answers=len(logs), calls=fmean(_number(log.usage.get("calls")) for log in logs),
        latency_ms=median(whole for whole, _ in times), latency_ratio=median(ratios) if ratios else None,
        tokens=tokens, tokens_ratio=tokens / drafts if tokens and drafts else None,
    )  # fmt: skip


def _draft(log: LogRecord) -> Mapping[str, Json]:
    draft = log.usage.get("draft")
    return draft if isinstance(draft, dict) else {}


def _tokens(usage: Mapping[str, Json]) -> float:
    return _number(usage.get("prompt_tokens")) + _number(usage.get("completion_tokens"))


def _number(value: Json) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0
