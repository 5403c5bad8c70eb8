"""Interaction*, LogRecord*, Feedback* -> Act*, Signal*: what users did after an answer without a word about it.

A copy, a regeneration, an edited request, a session that ends, haste, a long session: each may say something of the
answer. How much is measured on this deployment, against what users said explicitly (`reliability`), and until there is
enough of that it is next to nothing. Acts are recorded and weighed beside explicit feedback; alone they teach nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import beta

from logtune.ids import digest, identified
from logtune.records import Feedback, Interaction, LogRecord, Message, Signal, SignalKind
from logtune.stages.interactions import SAME_TALK_S, request_messages

VERSION = "1"
DETECTOR = "act."  # how the names of detectors of acts begin
# What an act is taken to say, -1 bad .. 1 good. Where a deployment's users mean the opposite its weight becomes 0.
POLARITY: Mapping[SignalKind, float] = {
    "copy": 0.3, "accept": 0.5, "regenerate": -0.5, "resend": -0.4, "abandon": -0.2, "quick_turn": -0.2,
    "long_session": -0.2,
}  # fmt: skip
# How much more an act is assumed to tell than chance, 0..1, before anything was measured.
ASSUMED: Mapping[SignalKind, float] = {
    "copy": 0.2, "accept": 0.3, "regenerate": 0.3, "resend": 0.2, "abandon": 0.05, "quick_turn": 0.05,
    "long_session": 0.05,
}  # fmt: skip
PRIOR = 20.0  # interactions that the assumption is worth
CHANCE_PRIOR = 10.0  # and an even share of good and bad
READING_WORDS_PER_S = 6.0  # faster than people read: a turn that comes sooner was not written after reading
LEAST_WORDS = 30  # of an answer that takes time to read
LONG = 0.9  # quantile of the deployment's sessions above which one is long
LEAST_LONG = 6  # turns of a session that can be long
FEW_SESSIONS = 20  # fewer say nothing of what is usual


class Act(NamedTuple):
    """Something that was done after an answer."""

    kind: SignalKind
    what: str  # in words, with its numbers
    feedback_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """How far one kind of act agrees with what the same users said explicitly, on this deployment."""

    kind: SignalKind
    seen: int  # interactions with the act
    judged: int  # of those, with explicit feedback too
    agreed: int  # of those, with the sign that the act is taken for
    chance: float  # 0..1, how often explicit feedback has that sign anyway
    estimate: float  # 0..1, of agreement, shrunk towards what is assumed
    lower: float  # of its 90% interval
    upper: float
    weight: float  # 0 no better than chance .. 1 always right


Acts = Mapping[str, Sequence[Act]]  # interaction id -> what was done after its answer


# --- what was done ---


def acts_of(
    items: Sequence[Interaction], logs: Mapping[str, LogRecord], feedback: Mapping[str, Feedback]
) -> dict[str, tuple[Act, ...]]:
    """Interaction id -> its acts; those without one are left out. `logs` in the order of time."""
    of_log: dict[str, list[Act]] = defaultdict(list)
    for log_id, act in (*_asked_again(logs.values()), *_sessions(logs.values())):
        of_log[log_id].append(act)
    found = {
        item.id: (
            *_clicks(feedback[name] for name in item.feedback_ids if name in feedback),
            *of_log.get(item.log_id, ()),
            *_haste(item, logs),
        )
        for item in items
    }
    return {key: tuple({act.kind: act for act in acts}.values()) for key, acts in found.items() if acts}


def _clicks(feedback: Iterable[Feedback]) -> Iterator[Act]:
    items = list(feedback)
    replaced = {item.supersedes for item in items if item.supersedes}
    for item in items:
        if item.kind in ("copy", "accept", "regenerate", "abandon") and not item.revoked and item.id not in replaced:
            yield Act(item.kind, item.kind, item.id)


def _asked_again(logs: Iterable[LogRecord]) -> Iterator[tuple[str, Act]]:
    """The same request sent again, and one sent again with its last message changed."""
    before: dict[tuple[str, str], tuple[LogRecord, str]] = {}
    for log in logs:
        messages = tuple(m for m in request_messages(log.request) if m.role != "system")
        owner = log.user or log.session
        if not owner or not messages or messages[-1].role != "user":
            continue
        earlier, last = before.get((owner, _digest(messages[:-1])), (None, ""))
        if earlier is not None and log.at - earlier.at <= SAME_TALK_S:
            seconds = f"after {log.at - earlier.at:.0f} s"
            if last == messages[-1].content:
                yield earlier.id, Act("regenerate", f"the same request again {seconds}")
            elif len(messages) > 1:  # without a history another first message is another conversation
                yield earlier.id, Act("resend", f"the request edited and sent again {seconds}")
        before[owner, _digest(messages[:-1])] = (log, messages[-1].content)


def _digest(messages: Sequence[Message]) -> str:
    return digest([[m.role, m.content] for m in messages])


def _sessions(logs: Iterable[LogRecord]) -> Iterator[tuple[str, Act]]:
    """The last answer of a session that is over, and every answer of one that is long for this deployment."""
    found: dict[tuple[str | None, str], list[LogRecord]] = defaultdict(list)
    for log in logs:
        if log.session and log.response is not None:
            found[log.user, log.session].append(log)
    newest = max((log.at for rows in found.values() for log in rows), default=0.0)
    lengths = [len(rows) for rows in found.values()]
    usual = float(np.quantile(lengths, LONG)) if len(lengths) >= FEW_SESSIONS else float("inf")
    for rows in found.values():
        if len(rows) > 1 and newest - rows[-1].at > SAME_TALK_S:
            yield rows[-1].id, Act("abandon", f"the session ended with this answer, its {len(rows)}th")
        if len(rows) > max(usual, LEAST_LONG):
            for log in rows:
                yield log.id, Act("long_session", f"{len(rows)} turns in the session, more than {LONG:.0%} have")


def _haste(item: Interaction, logs: Mapping[str, LogRecord]) -> Iterator[Act]:
    """A next turn that came sooner than the answer can be read."""
    log, words = logs.get(item.log_id), len(item.answer.split())
    times = [logs[follow.log_id].at for follow in item.follow_ups if follow.log_id in logs]
    if log is None or not times or words < LEAST_WORDS:
        return
    waited = min(times) - log.at - (log.latency_ms or 0.0) / 1000
    if 0 <= waited < words / READING_WORDS_PER_S:
        yield Act("quick_turn", f"the next turn came {waited:.0f} s after an answer of {words} words")


# --- how far acts can be trusted ---


def reliability(acts: Acts, said: Mapping[str, Sequence[Signal]]) -> tuple[Reliability, ...]:
    """Of each kind of act; `said`: interaction id -> its signals, of which those from acts are left out."""
    signs = {key: sign for key, signals in said.items() if (sign := _sign(signals))}
    good = (sum(sign > 0 for sign in signs.values()) + CHANCE_PRIOR / 2) / (len(signs) + CHANCE_PRIOR)
    rows: dict[SignalKind, list[int]] = {kind: [] for kind in POLARITY}
    seen: dict[SignalKind, int] = dict.fromkeys(POLARITY, 0)
    for key, done in acts.items():
        for act in done:
            seen[act.kind] += 1
            if key in signs:
                rows[act.kind].append(int(signs[key] * POLARITY[act.kind] > 0))
    return tuple(_measured(kind, seen[kind], rows[kind], good if POLARITY[kind] > 0 else 1 - good) for kind in POLARITY)


def _sign(signals: Sequence[Signal]) -> int:
    """Of what was said explicitly: 1 good, -1 bad, 0 nothing or both alike."""
    net = sum(signal.polarity * signal.confidence for signal in signals if not is_act(signal))
    return (net > 0) - (net < 0)


def _measured(kind: SignalKind, seen: int, agreements: Sequence[int], chance: float) -> Reliability:
    """Beta posterior of agreement; the prior's mean lies as much above chance as is assumed."""
    judged, agreed = len(agreements), sum(agreements)
    assumed = chance + (1 - chance) * ASSUMED[kind]
    right, wrong = PRIOR * assumed + agreed, PRIOR * (1 - assumed) + judged - agreed
    estimate = right / (right + wrong)
    lower, upper = (float(beta.ppf(at, right, wrong)) for at in (0.05, 0.95))
    # What goes beyond chance, of all that could. Where chance alone agrees nearly always, little can, and the
    # assumption is worth as much as at even chances: else any agreement would look like certainty.
    prior = PRIOR * max(0.5, 1 - chance)
    weight = max(0.0, (prior * ASSUMED[kind] + agreed - judged * chance) / (prior + judged * (1 - chance)))
    return Reliability(
        kind=kind, seen=seen, judged=judged, agreed=agreed, chance=round(chance, 4), estimate=round(estimate, 4),
        lower=round(lower, 4), upper=round(upper, 4), weight=round(weight, 2),
    )  # fmt: skip


# --- signals ---


def signals_of_acts(item: Interaction, acts: Sequence[Act], measured: Sequence[Reliability]) -> tuple[Signal, ...]:
    """A signal an act, as sure as its kind is on this deployment."""
    weights = {row.kind: row.weight for row in measured}
    return tuple(
        identified(
            Signal(
                id="", interaction_id=item.id, feedback_id=act.feedback_id, kind=act.kind,
                polarity=POLARITY[act.kind], confidence=weights[act.kind], evidence=act.what, correction=None,
                detector=f"{DETECTOR}{act.kind}@{VERSION}",
            )
        )
        for act in acts
    )  # fmt: skip


def is_act(signal: Signal) -> bool:
    """Whether a signal was read from what a user did, not from what was said."""
    return signal.detector.startswith(DETECTOR)


def recorded_acts(signals: Iterable[Signal]) -> Acts:
    """The acts that signals were made from."""
    found: dict[str, list[Act]] = defaultdict(list)
    for signal in filter(is_act, signals):
        found[signal.interaction_id].append(Act(signal.kind, signal.evidence, signal.feedback_id))
    return found


def weighty(signals: Mapping[str, Sequence[Signal]]) -> dict[str, Sequence[Signal]]:
    """Without the interactions about which nobody said anything: acts alone teach nothing."""
    return {key: found for key, found in signals.items() if not all(is_act(signal) for signal in found)}
