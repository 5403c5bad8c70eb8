"""Claim* -> Doubt*, reliability of users: whose word on a right answer holds, and whose is held back, and why.

A claim is a user's word that an answer is right for a request: an edit, a stated answer, praise. Claims about similar
requests are weighed against each other. A user has one voice around a request, less the more they say beyond what is
typical; it weighs by how often they agree with others (a Dawid-Skene estimate with one accuracy a user and a prior).
An answer given by nearly all alike since some day is a fact that has changed: then the older claims are out of date,
and nobody's reliability suffers.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy.stats import hypergeom

from logtune.config_trust import TrustSettings
from logtune.ports import Vectors
from logtune.records import DAY_S
from logtune.stages import decay
from logtune.stages.circles import Near, around

Floats = npt.NDArray[np.float64]
REASONS: Mapping[str, str] = {
    "contradicted": "Most others, weighed by how reliable they are, name another answer for such requests.",
    "unreliable": "Most of its user's words push one answer that loses against others': none is believed.",
    "brigade": "Several users push this answer against what most others say of such requests.",
    "outdated": "Since some day all name another answer for such requests: the facts have changed.",
    "burst": "Different users said the same words about nearly the same request within minutes: they count as one.",
}
ROUNDS = 20  # of the estimate
SETTLED = 1e-4  # by which no user's reliability moves any more
CHANGED = 0.8  # share of the claims since a change that must name the new answer
MOST_COMPARED = 1000  # requests of each of two answers that are compared with each other
MIXED = 0.7  # of the neighbours that name the other answer if both are given to the same requests
BY_CHANCE = 0.001  # a change must be less likely than this if nothing had changed
PUSHED = frozenset({"contradicted", "unreliable"})
LOSES = 1 / 3  # likelihood of being right below which a word loses
MOST_LOST = 2 / 3  # share of a user's words that push one answer and lose, before none is believed
BRIGADE = 3  # users who push one contradicted answer together
ROUNDING = 1e-6  # of a cosine
AGREEING = 2  # times the neighbours: the circle in which a user agrees with others or does not
UNSURE = 0.5  # voices added to both sides before they are compared
LEAST_WEIGHT = 0.25  # of old words: what many have said, however long ago, is not overturned by one who comes late
LEAST_VOICES = 1.0  # weight around a claim below which nothing can be said against it


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A user's word that an answer is right for a request."""

    id: str  # of the interaction
    user: str
    answer: str  # in its plain form: what is the same answer is equal here
    at: float
    words: str = ""  # how they said it


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why a claim is held back, and the numbers behind it."""

    reason: str  # a code of REASONS
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Weighed:
    """What came of weighing claims."""

    doubts: Mapping[str, Doubt]  # by claim id; the others hold
    reliability: Mapping[str, float]  # by user, 0..1
    unbelieved: Mapping[str, Doubt]  # users of whom nothing is believed
    bursts: Mapping[str, str]  # claim id -> the first claim of the burst it is in


@dataclass(frozen=True, slots=True)
class _Change:
    """An answer that took another's place."""

    since: float
    new: frozenset[int]  # rows that name the new answer where the old one held
    old: frozenset[int]  # rows of the old one, from before


def weigh(claims: Sequence[Claim], vectors: Vectors, settings: TrustSettings) -> Weighed:
    """Doubts about claims, and how reliable their users are; `vectors` (N, D): row i is the request of claims[i]."""
    together = bursts(claims, vectors, settings)
    voices = _voices(claims, together)
    near = around(vectors, [claim.user for claim in claims], max(settings.neighbours, settings.unheard))
    changes = _changes(claims, vectors, near, voices, settings)
    outdated = {row: change.since for change in changes for row in change.old}
    heard = [_since(row, near[row].rows, outdated, changes) for row in range(len(claims))]
    voices = voices * _faded(claims, settings)  # not before: a fact that changes slowly has changed all the same
    reliability = _reliability(claims, heard, voices, outdated, settings)
    weights = voices * np.array([weight(reliability[claim.user], settings) for claim in claims])
    unbelieved = _unbelieved(claims, heard, weights, outdated, settings)
    found: dict[int, Doubt] = {row: Doubt("outdated", {"since": since}) for row, since in outdated.items()}
    for row in range(len(claims)):
        doubt = _doubt(row, claims, heard[row], weights, settings) or unbelieved.get(claims[row].user)
        if doubt is not None:
            found.setdefault(row, doubt)
    for row, size in _repeats(together).items():
        found.setdefault(row, Doubt("burst", {"users": float(size)}))
    return Weighed(
        {claims[row].id: doubt for row, doubt in _named(claims, heard, found).items()}, reliability, unbelieved,
        {claims[row].id: claims[first].id for row, first in enumerate(together) if first >= 0},
    )  # fmt: skip


# --- who has how much of a voice ---


def _voices(claims: Sequence[Claim], bursts: Sequence[int]) -> Floats:
    """Weight of each claim before anything is known of its user: less beyond what is typical, and in bursts."""
    counts = Counter(claim.user for claim in claims)
    typical = float(np.median(list(counts.values()))) if counts else 1.0
    sizes = Counter(burst for burst in bursts if burst >= 0)
    shared = np.array([1.0 / sizes[burst] if burst >= 0 else 1.0 for burst in bursts])
    own = np.array([min(1.0, typical / counts[claim.user]) for claim in claims])
    return cast("Floats", np.minimum(own, shared))


def _faded(claims: Sequence[Claim], settings: TrustSettings) -> Floats:
    """What each claim weighs for its age, beside the newest one."""
    newest = max((claim.at for claim in claims), default=0.0)
    weights = [decay.weight(newest - claim.at, settings.half_life_days) for claim in claims]
    return cast("Floats", np.maximum(weights, LEAST_WEIGHT))


def weight(reliability: float, settings: TrustSettings) -> float:
    """A voice's weight: the log odds that its user is right, 1 for an unknown one, never negative."""
    odds = np.log(reliability / (1 - reliability)) / np.log(settings.prior / (1 - settings.prior))
    return float(max(0.0, odds))


def _reliability(
    claims: Sequence[Claim], heard: Sequence[Sequence[int]], voices: Floats, outdated: Collection[int],
    settings: TrustSettings,
) -> dict[str, float]:  # fmt: skip
    """User -> how often they are right, as far as others around them say; the prior where nobody does."""
    mine: dict[str, list[int]] = defaultdict(list)
    for row, claim in enumerate(claims):
        mine[claim.user].append(row)
    found = dict.fromkeys(mine, settings.prior)
    for _ in range(ROUNDS):
        weights = voices * np.array([weight(found[claim.user], settings) for claim in claims])
        agreed = [_agreement(row, claims, heard[row], weights, settings) for row in range(len(claims))]
        before = found
        found = {
            user: _estimate([agreed[row] for row in rows if row not in outdated], settings)
            for user, rows in mine.items()
        }
        if max((abs(found[user] - before[user]) for user in found), default=0.0) < SETTLED:
            break
    return found


def _estimate(agreed: Sequence[float | None], settings: TrustSettings) -> float:
    heard = [share for share in agreed if share is not None]
    return (settings.prior * settings.prior_weight + sum(heard)) / (settings.prior_weight + len(heard))


def _agreement(
    row: int, claims: Sequence[Claim], heard: Sequence[int], weights: Floats, settings: TrustSettings
) -> float | None:
    """How likely a claim is right by those around it, against the best other answer; None where too few speak."""
    behind = _behind(claims, heard[: AGREEING * settings.neighbours], weights)
    if len(heard) < settings.neighbours or sum(behind.values()) < LEAST_VOICES:
        return None
    own, rival = behind.get(claims[row].answer, 0.0), _best_other(behind, claims[row].answer)
    return (own + UNSURE) / (own + rival + 2 * UNSURE)


def _behind(claims: Sequence[Claim], rows: Sequence[int], weights: Floats) -> dict[str, float]:
    """Answer -> weight of those who name it."""
    found: dict[str, float] = defaultdict(float)
    for row in rows:
        found[claims[row].answer] += float(weights[row])
    return found


def _best_other(behind: Mapping[str, float], answer: str) -> float:
    return max((weight for other, weight in behind.items() if other != answer), default=0.0)


# --- facts that change ---


def _changes(
    claims: Sequence[Claim], vectors: Vectors, near: Sequence[Near], voices: Floats, settings: TrustSettings
) -> list[_Change]:
    """Answers that took another's place since some day."""
    rivals: dict[tuple[str, str], list[int]] = defaultdict(list)  # (old, new) -> rows that name new where old was known
    for row, claim in enumerate(claims):
        for old in {claims[other].answer for other in near[row].rows} - {claim.answer}:
            rivals[old, claim.answer].append(row)
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, claim in enumerate(claims):
        rows_of[claim.answer].append(row)
    found = []
    for (old, _), new in rivals.items():
        if len({claims[row].user for row in new}) >= settings.change_users:
            there = _around(new, rows_of[old], vectors, near)
            if _mixed(new, there, vectors, settings.neighbours):
                change = _changed(new, there, claims, voices, settings)
                found += [change] if change is not None else []
    return found


def _around(new: Sequence[int], old: Sequence[int], vectors: Vectors, near: Sequence[Near]) -> list[int]:
    """Those of the old answer's rows that lie in the circle of one of the new one's."""
    edges = np.array([near[row].edge for row in new], dtype=np.float32) - ROUNDING
    reach = (vectors[list(old)] @ vectors[list(new)].T - edges).max(axis=1)
    return [row for row, over in zip(old, reach, strict=True) if over >= 0]


def _mixed(new: Sequence[int], old: Sequence[int], vectors: Vectors, count: int) -> bool:
    """Whether both answers are given to the same requests, and not to two kinds that lie side by side."""
    new, old = new[:: 1 + len(new) // MOST_COMPARED], old[:: 1 + len(old) // MOST_COMPARED]
    if len(old) < 2:
        return False
    rows, fresh = [*new, *old], np.array([True] * len(new) + [False] * len(old))
    closeness = vectors[rows] @ vectors[rows].T
    np.fill_diagonal(closeness, -np.inf)
    nearest = np.argsort(-closeness, axis=1, kind="stable")[:, :count]
    crossed = float((fresh[nearest] != fresh[:, None]).mean())
    by_chance = 2 * len(new) * len(old) / (len(rows) * (len(rows) - 1))
    return crossed >= MIXED * by_chance


def _changed(
    new: Sequence[int], old: Sequence[int], claims: Sequence[Claim], voices: Floats, settings: TrustSettings
) -> _Change | None:
    """The change, where since some day nearly all name the new answer, as they would not by chance."""
    rows = sorted((*new, *old), key=lambda row: (claims[row].at, row))
    fresh = set(new)
    hits = np.array([row in fresh for row in rows])
    for start in np.flatnonzero(hits).tolist():
        after = [row for row in rows[start:] if row in fresh]
        if sum(voices[after]) < settings.change_users or len({claims[r].user for r in after}) < settings.change_users:
            return None  # fewer with every later start
        span = claims[after[-1]].at - claims[after[0]].at
        if len(after) < CHANGED * (len(rows) - start) or span < settings.change_days * DAY_S:
            continue
        if hypergeom.sf(len(after) - 1, len(rows), int(hits.sum()), len(rows) - start) < BY_CHANCE:
            return _Change(
                claims[rows[start]].at, frozenset(after), frozenset(r for r in rows[:start] if r not in fresh)
            )
    return None


def _since(row: int, near: Sequence[int], outdated: Collection[int], changes: Sequence[_Change]) -> list[int]:
    """Those around a claim of a new answer, without the words against it from before the change."""
    fresh = any(row in change.new for change in changes)
    return [other for other in near if other not in outdated] if fresh else list(near)


# --- doubts ---


def _doubt(
    row: int, claims: Sequence[Claim], heard: Sequence[int], weights: Floats, settings: TrustSettings
) -> Doubt | None:
    """Contradicted by the nearest, and heard from few of the wider circle: that spares right answers on a border."""
    close, wide = (_behind(claims, heard[:count], weights) for count in (settings.neighbours, settings.unheard))
    if len(heard) < max(settings.neighbours, settings.unheard) or sum(close.values()) < LEAST_VOICES:
        return None
    own = wide.get(claims[row].answer, 0.0) / sum(wide.values())
    against = _best_other(close, claims[row].answer) / sum(close.values())
    if against < settings.agreement - 1e-9 or own > settings.heard:
        return None
    return Doubt("contradicted", {"against": round(against, 4), "behind": round(own, 4)})


def _unbelieved(
    claims: Sequence[Claim], heard: Sequence[Sequence[int]], weights: Floats, outdated: Collection[int],
    settings: TrustSettings,
) -> dict[str, Doubt]:  # fmt: skip
    """Users most of whose words push one answer and lose against what others say of the same requests.

    Who merely errs now and then names different wrong answers; those are contradicted one by one.
    """
    compared: Counter[str] = Counter()
    lost: dict[str, Counter[str]] = defaultdict(Counter)
    for row, claim in enumerate(claims):
        agreed = _agreement(row, claims, heard[row], weights, settings)
        if agreed is not None and row not in outdated:
            compared[claim.user] += 1
            lost[claim.user][claim.answer] += agreed < LOSES
    shares = {user: max(lost[user].values()) / count for user, count in compared.items()}
    return {
        user: Doubt("unreliable", {"lost": round(share, 4)})
        for user, share in shares.items()
        if compared[user] >= settings.unbelieved_after and share >= MOST_LOST
    }


def _named(claims: Sequence[Claim], heard: Sequence[Sequence[int]], found: Mapping[int, Doubt]) -> dict[int, Doubt]:
    """Where several users push one doubted answer on the same requests, it is a brigade."""
    named = dict(found)
    for row, doubt in found.items():
        if doubt.reason in PUSHED:
            pushing = {row, *(o for o in heard[row] if o in found and found[o].reason in PUSHED)}
            users = len({claims[other].user for other in pushing if claims[other].answer == claims[row].answer})
            if users >= BRIGADE:
                named[row] = Doubt("brigade", {**doubt.scores, "users": float(users)})
    return named


# --- bursts ---


def bursts(claims: Sequence[Claim], vectors: Vectors, settings: TrustSettings) -> list[int]:
    """Number of the burst that each claim is in; -1: none."""
    found = [-1] * len(claims)
    same: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, claim in enumerate(claims):
        same[claim.answer, claim.words].append(row)
    for rows in same.values():
        rows.sort(key=lambda row: claims[row].at)
        times = [claims[row].at for row in rows]
        for place, first in enumerate(rows):
            if found[first] >= 0:
                continue
            end = bisect_right(times, claims[first].at + settings.burst_minutes * 60, place)
            soon = [r for r in rows[place:end] if found[r] < 0]
            near = vectors[soon] @ vectors[first] >= settings.burst_similarity
            alike = [r for r, close in zip(soon, near, strict=True) if close]
            if len({claims[r].user for r in alike}) >= settings.burst_users:
                for r in alike:
                    found[r] = first
    return found


def _repeats(bursts: Sequence[int]) -> dict[int, int]:
    """Every claim of a burst but its first -> how many the burst has."""
    sizes = Counter(burst for burst in bursts if burst >= 0)
    return {row: sizes[burst] for row, burst in enumerate(bursts) if burst >= 0 and burst != row}
