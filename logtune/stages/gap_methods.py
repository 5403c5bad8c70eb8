"""Gap* by several methods, Evaluation* -> how far the methods agree, and how well each foretells the gate.

A gap asks for an expert where it is small and for a critic where it is large. So a method foretells the gate rightly
where an expert of a small gap or a critic of a large one passed, and where the other one failed. Routes are those of
the measure alone: that users' own answers make a cluster primary whatever its gap would hide the difference.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from logtune.records import Evaluation, Route
from logtune.stages.answer import CRITICS
from logtune.stages.gap import route_of

Novelties = Mapping[str, Mapping[str, float]]  # method -> cluster id -> gap, 0..1


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Two methods on the same clusters."""

    first: str
    second: str
    clusters: int  # that both measured
    rank_correlation: float | None  # Spearman's, -1..1; None: fewer than 3 clusters, or all alike
    same_route: float | None  # share of the clusters, 0..1


@dataclass(frozen=True, slots=True, kw_only=True)
class Foretold:
    """One method against what the gate decided."""

    method: str
    evaluations: int  # of experts and critics that passed or failed, in clusters with a gap
    right: float | None  # share that the route foretold
    by_chance: float | None  # share that the better of "all pass" and "all fail" foretells
    auc: float | None  # 0..1, of gap against outcome; 0.5 is chance; None: all passed or all failed


def agreements(found: Novelties, reflect_at: float) -> list[Agreement]:
    """Every pair of methods."""
    return [_agreement(first, second, found, reflect_at) for first, second in combinations(found, 2)]


def _agreement(first: str, second: str, found: Novelties, reflect_at: float) -> Agreement:
    shared = [name for name in found[first] if name in found[second]]
    ours, theirs = ([found[method][name] for name in shared] for method in (first, second))
    same = [route_of(a, reflect_at) == route_of(b, reflect_at) for a, b in zip(ours, theirs, strict=True)]
    return Agreement(
        first=first, second=second, clusters=len(shared), rank_correlation=rank_correlation(ours, theirs),
        same_route=sum(same) / len(same) if same else None,
    )  # fmt: skip


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's; None with fewer than 3 values, or where one side has only one value."""
    if len(first) < 3 or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    found = float(stats.spearmanr(first, second).statistic)
    return None if math.isnan(found) else found


def foretold(found: Novelties, evaluations: Sequence[Evaluation], reflect_at: float) -> list[Foretold]:
    """Each method against the evaluations of its clusters."""
    return [_foretold(method, gaps, evaluations, reflect_at) for method, gaps in found.items()]


def _foretold(
    method: str, gaps: Mapping[str, float], evaluations: Sequence[Evaluation], reflect_at: float
) -> Foretold:  # fmt: skip
    decided = [(gaps[e.cluster_id], wanted, e.outcome == "passed") for e, wanted in _decided(evaluations, gaps)]
    right = [(route_of(novelty, reflect_at) == wanted) == passed for novelty, wanted, passed in decided]
    passes = Counter(passed for _, _, passed in decided)
    scores = [(novelty if wanted == "reflective" else 1 - novelty, passed) for novelty, wanted, passed in decided]
    return Foretold(
        method=method, evaluations=len(decided), right=sum(right) / len(right) if right else None,
        by_chance=max(passes.values()) / len(decided) if decided else None,
        auc=auc([score for score, passed in scores if passed], [score for score, passed in scores if not passed]),
    )  # fmt: skip


def _decided(evaluations: Sequence[Evaluation], gaps: Mapping[str, float]) -> Iterator[tuple[Evaluation, Route]]:
    """Evaluations of adapters and critics with a clear outcome, and the route on which each would be tried."""
    for evaluation in evaluations:
        if evaluation.cluster_id in gaps and evaluation.outcome in ("passed", "failed"):
            if evaluation.candidate == "expert":
                yield evaluation, "primary"
            elif evaluation.candidate in CRITICS:
                yield evaluation, "reflective"


def auc(higher: Sequence[float], lower: Sequence[float]) -> float | None:
    """How often a value of `higher` is above one of `lower`, ties half (Mann and Whitney 1947); None without both."""
    if not higher or not lower:
        return None
    difference = np.subtract.outer(np.array(higher), np.array(lower))
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))
