"""Rule*, doubts, reliability of users -> Standing*: which lessons may be used, and on how many users each rests.

Interactions whose claim is doubted are held, and count for no rule. Of the rest each merged rule has its distinct
users: too few and it is held; against an opposed rule for requests of the same kind the one with more behind it wins,
and where neither clearly has both are held. What an operator has pinned stands.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt

from logtune.config_trust import TrustSettings
from logtune.ids import identified
from logtune.ports import Vectors
from logtune.records import Rule, Standing
from logtune.stages import trust
from logtune.stages.opposed import opposed
from logtune.stages.prompted import in_words

REASONS: Mapping[str, str] = {
    **trust.REASONS,
    "trusted": "Nothing speaks against it.",
    "pinned": "An operator pinned it.",
    "vetoed": "An operator vetoed it.",
    "expired": "An operator ended it.",
    "nobody": "Everybody behind it is held back.",
    "too_few_users": "Fewer distinct users than trust.min_users_trained stand behind it.",
    "outvoted": "It contradicts a rule with clearly more behind it.",
    "contested": "It contradicts a rule with about as much behind it: both wait for more users.",
    "known_already": "The base model gives this answer by itself: there is nothing to train.",
    "stranger": "Its request is like no topic here, no more than everyday ones: what is trained would not get it.",
    "over_cap": "Its user already teaches this cluster as much as one user may.",
}
State = Literal["trusted", "held"]
MOST_COMPARED = 400  # rules of most users that are compared with each other: it takes time by their square


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What standings rest on."""

    users: Mapping[str, str]  # interaction id -> user
    weighed: trust.Weighed
    repeats: frozenset[str]  # interactions that are not the first of their burst: one voice is heard already
    requests: Mapping[str, int]  # interaction id -> row of `vectors`
    vectors: Vectors


def held(doubts: Mapping[str, trust.Doubt]) -> list[Standing]:
    """Interactions that are held back; those without a standing are trusted."""
    return [_standing(name, "held", doubt.reason, 0, doubt.scores) for name, doubt in doubts.items()]


def of_rules(rules: Sequence[Rule], evidence: Evidence, settings: TrustSettings) -> list[Standing]:
    """One standing for each merged rule."""
    behind = {rule.id: _behind(rule, evidence) for rule in rules}
    against = _contradictions(rules, behind, evidence, settings)
    return [_of_rule(rule, behind[rule.id], against.get(rule.id), evidence, settings) for rule in rules]


def _behind(rule: Rule, evidence: Evidence) -> set[str]:
    """The distinct users who are believed."""
    believed = (i for i in rule.interaction_ids if i not in evidence.weighed.doubts and i not in evidence.repeats)
    return {evidence.users.get(name, name) for name in believed}


def _of_rule(
    rule: Rule, users: set[str], against: tuple[str, Mapping[str, float]] | None, evidence: Evidence,
    settings: TrustSettings,
) -> Standing:  # fmt: skip
    spread = {"users": float(len(users)), "largest_share": _largest_share(rule, evidence)}
    if rule.state != "active":
        state: State = "trusted" if rule.state == "pinned" else "held"
        return _standing(rule.id, state, rule.state, len(users), spread)
    if not users:
        return _standing(rule.id, "held", "nobody", 0, spread)
    if len(users) < settings.min_users_trained:
        return _standing(rule.id, "held", "too_few_users", len(users), spread)
    if against is not None:
        return _standing(rule.id, "held", against[0], len(users), {**spread, **against[1]})
    return _standing(rule.id, "trusted", "trusted", len(users), spread)


def _largest_share(rule: Rule, evidence: Evidence) -> float:
    """Share of the evidence that the loudest user gave."""
    counts: dict[str, int] = defaultdict(int)
    for name in rule.interaction_ids:
        counts[evidence.users.get(name, name)] += 1
    return round(max(counts.values()) / len(rule.interaction_ids), 4)


# --- rules that contradict each other ---


def _contradictions(
    rules: Sequence[Rule], behind: Mapping[str, set[str]], evidence: Evidence, settings: TrustSettings
) -> dict[str, tuple[str, Mapping[str, float]]]:
    """Rule id -> why it is held, and the numbers."""
    found: dict[str, tuple[str, Mapping[str, float]]] = {}
    for one, other in _opposed(rules, behind, evidence, settings):
        weights = {rule.id: _weight(behind[rule.id], evidence, settings) for rule in (one, other)}
        total = sum(weights.values())
        for rule, rival in ((one, other), (other, one)):
            share = weights[rule.id] / total if total else 0.0
            scores = {"share": round(share, 4), "opposed_users": float(len(behind[rival.id]))}
            pinned = rival.state == "pinned" and rule.state != "pinned"
            if pinned or (share <= 1 - settings.agreement + 1e-9 and len(behind[rival.id]) >= settings.min_users):
                found[rule.id] = ("outvoted", scores)
            elif share < settings.agreement - 1e-9 or len(behind[rule.id]) < settings.min_users:
                found.setdefault(rule.id, ("contested", scores))
    return found


def _opposed(
    rules: Sequence[Rule], behind: Mapping[str, set[str]], evidence: Evidence, settings: TrustSettings
) -> Iterator[tuple[Rule, Rule]]:
    worded = [r for r in rules if in_words(r) and behind[r.id] and r.state in ("active", "pinned")]
    worded.sort(key=lambda rule: (-len(behind[rule.id]), rule.id))
    centres = {rule.id: _centre(rule, evidence) for rule in worded[:MOST_COMPARED]}
    for one, other in combinations(worded[:MOST_COMPARED], 2):
        if opposed(one.text, other.text) and float(centres[one.id] @ centres[other.id]) >= settings.related:
            yield one, other


def _centre(rule: Rule, evidence: Evidence) -> npt.NDArray[np.float32]:
    """Where the requests of a rule lie, a unit vector."""
    mean = evidence.vectors[[evidence.requests[name] for name in rule.interaction_ids]].mean(axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), dtype=np.float32)


def _weight(users: set[str], evidence: Evidence, settings: TrustSettings) -> float:
    known = evidence.weighed.reliability
    return sum(trust.weight(known.get(user, settings.prior), settings) for user in users)


def _standing(lesson: str, state: State, reason: str, users: int, scores: Mapping[str, float]) -> Standing:
    return identified(Standing(id="", lesson_id=lesson, state=state, reason=reason, users=users, scores=dict(scores)))


def left_out(lessons: Sequence[str], reason: str) -> list[Standing]:
    """Lessons that are held back, one user each, whatever others say; `reason`: a code of REASONS."""
    return [_standing(name, "held", reason, 1, {}) for name in lessons]
