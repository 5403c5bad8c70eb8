"""Query and rule vectors -> Cluster*: what one adapter learns together, with stable names, and centroids for the router.

Topics come from average linkage on the cosine distance of v = normalise([query ; rules]), cut where resampling changes
the grouping least, so that no threshold depends on the number of logs; method `ward` is the paper's (threshold 4.0).
Topics join into clusters until each is large enough and the adapter budget can feed them all. The router sees one
query-only centroid a topic, because a new request has no rules yet (paper, section 3.2).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist

from logtune.config import ClusterSettings
from logtune.ports import Vectors
from logtune.records import Cluster, digest, identified

Labels = npt.NDArray[np.int64]  # (N,), a group number each
RESAMPLES = 8
RESAMPLE_SHARE = 0.8
STABLE = 0.6  # mean adjusted Rand index; below it no cut is better than one group
CUTS = tuple(np.round(np.arange(0.25, 1.0, 0.05), 2).tolist())  # cosine distances tried
SMALLEST_TOPIC = 3
STOP_WORDS = frozenset(
    "a an and are as at be been but by can could did do does for from get got had has have how i if in is it its me my no "
    "not of on or so that the their them there they this to was we were what when where which who why will with would you "
    "your please help need want just still".split()
)


@dataclass(frozen=True, slots=True)
class Routed:
    """Where a query goes: a cluster, or None when it is out of distribution; and its similarity to the nearest one."""

    cluster: Cluster | None
    similarity: float


def group(
    ids: Sequence[str], queries: Sequence[str], query_vectors: Vectors, rule_vectors: Vectors, settings: ClusterSettings,
    max_clusters: int, previous: Sequence[Cluster] = (),
) -> list[Cluster]:  # fmt: skip
    """Clusters of the interactions `ids` (row i of both (N, D) arrays is ids[i]), largest first; [] for no members."""
    if not ids:
        return []
    topics = _topics(_joint(query_vectors, rule_vectors), settings)
    parts = _parts(topics, _joint(query_vectors, rule_vectors), settings, max_clusters)
    found = [
        _cluster(np.flatnonzero(parts == part), ids, queries, query_vectors, topics, settings.radius_quantile)
        for part in np.unique(parts)
    ]
    return _named(sorted(found, key=lambda c: (-len(c.interaction_ids), c.interaction_ids)), previous, settings.match)


def route(clusters: Sequence[Cluster], vector: npt.NDArray[np.float32]) -> Routed:
    """The cluster with the centroid nearest to a unit query vector (D,); None beyond that cluster's radius."""
    best, similarity = None, -1.0
    for cluster in clusters:
        nearest = float(np.max(np.asarray(cluster.centroids, np.float32) @ vector))
        if nearest > similarity:
            best, similarity = cluster, nearest
    inside = best is not None and similarity >= best.radius
    return Routed(best if inside else None, similarity)


def _joint(query_vectors: Vectors, rule_vectors: Vectors) -> Vectors:
    joined = np.concatenate([query_vectors, rule_vectors], axis=1)
    norms = np.linalg.norm(joined, axis=1, keepdims=True)
    return cast("Vectors", joined / np.where(norms == 0, 1, norms))


def _topics(vectors: Vectors, settings: ClusterSettings) -> Labels:
    """A topic number for each row."""
    if len(vectors) < 2 * SMALLEST_TOPIC:
        return np.zeros(len(vectors), np.int64)
    if settings.method == "ward":
        return cast("Labels", fcluster(linkage(vectors, "ward"), settings.threshold, "distance").astype(np.int64))
    tree = linkage(_distances(vectors), "average")
    return _absorb(_cut(tree, _stable_cut(vectors, tree)), vectors, SMALLEST_TOPIC)


def _distances(vectors: Vectors) -> npt.NDArray[np.float64]:
    return cast("npt.NDArray[np.float64]", np.clip(pdist(vectors, "cosine"), 0, None))


def _cut(tree: npt.NDArray[np.float64], distance: float) -> Labels:
    return cast("Labels", fcluster(tree, distance, "distance").astype(np.int64))


def _stable_cut(vectors: Vectors, tree: npt.NDArray[np.float64]) -> float:
    """The cosine distance whose grouping changes least when a fifth of the rows is left out; 2.0 (one group) if all do."""
    generator = np.random.default_rng(0)
    scores = dict.fromkeys(CUTS, 0.0)
    for _ in range(RESAMPLES):
        rows = np.sort(generator.choice(len(vectors), int(len(vectors) * RESAMPLE_SHARE), replace=False))
        smaller = linkage(_distances(vectors[rows]), "average")
        for cut in CUTS:
            whole, part = _cut(tree, cut)[rows], _cut(smaller, cut)
            several = 1 < len(np.unique(part)) <= len(rows) // SMALLEST_TOPIC
            scores[cut] += adjusted_rand(whole, part) / RESAMPLES if several else 0.0
    best = max(CUTS, key=lambda cut: scores[cut])
    return best if scores[best] >= STABLE else 2.0


def adjusted_rand(one: Labels, other: Labels) -> float:
    """Adjusted Rand index of two groupings of the same rows (Hubert and Arabie 1985): 1 equal, 0 as by chance."""
    table = Counter(zip(one.tolist(), other.tolist(), strict=True))

    def pairs(counts: Sequence[int]) -> float:
        return sum(n * (n - 1) / 2 for n in counts)

    both = pairs(list(table.values()))
    ones, others = pairs(list(Counter(one.tolist()).values())), pairs(list(Counter(other.tolist()).values()))
    expected = ones * others / max(1.0, pairs([len(one)]))
    most = (ones + others) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)


def _parts(topics: Labels, vectors: Vectors, settings: ClusterSettings, max_clusters: int) -> Labels:
    """A cluster number for each row: topics joined, nearest first, until they are few and large enough."""
    parts = _absorb(topics, vectors, settings.min_size)
    names = np.unique(parts)
    if len(names) > max(1, max_clusters):
        means = _means(parts, vectors)
        joined = fcluster(linkage(_distances(means), "average"), max(1, max_clusters), "maxclust")
        parts = np.asarray([joined[np.searchsorted(names, part)] for part in parts], np.int64)
        parts = _absorb(parts, vectors, settings.min_size)
    return parts


def _absorb(groups: Labels, vectors: Vectors, least: int) -> Labels:
    """Groups smaller than `least` join the one with the nearest mean, smallest first; one group stays whatever its size."""
    groups = groups.copy()
    while True:
        names, sizes = np.unique(groups, return_counts=True)
        if len(names) == 1 or sizes.min() >= least:
            return groups
        means = _means(groups, vectors)
        small = int(np.argmin(sizes))
        closeness = means @ means[small]
        closeness[small] = -np.inf
        groups[groups == names[small]] = names[int(np.argmax(closeness))]


def _means(groups: Labels, vectors: Vectors) -> Vectors:
    means = np.stack([vectors[groups == name].mean(axis=0) for name in np.unique(groups)])
    return cast("Vectors", means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12))


def _cluster(
    rows: npt.NDArray[np.int64],
    ids: Sequence[str],
    queries: Sequence[str],
    vectors: Vectors,
    topics: Labels,
    quantile: float,
) -> Cluster:
    centroids = _means(topics[rows], vectors[rows])
    closeness = _closeness(topics[rows], vectors[rows])
    return Cluster(
        id="", interaction_ids=tuple(sorted(ids[i] for i in rows)), label=_label([queries[i] for i in rows]),
        centroids=tuple(tuple(round(float(x), 6) for x in row) for row in centroids),
        radius=round(float(np.quantile(closeness, quantile)), 6),
    )  # fmt: skip


def _closeness(topics: Labels, vectors: Vectors) -> npt.NDArray[np.float32]:
    """(N,): each row's similarity to the nearest topic mean that it is no part of itself, as a new query is no part.

    With a row in its own topic's mean the radius would be too narrow, the more so the smaller the topics.
    """
    names, sizes = np.unique(topics, return_counts=True)
    sums = np.stack([vectors[topics == name].sum(axis=0) for name in names])
    found = np.empty(len(vectors), np.float32)
    for row, vector in enumerate(vectors):
        own = np.searchsorted(names, topics[row])
        others = sums.copy()
        others[own] -= vector
        norms = np.linalg.norm(others, axis=1)
        usable = norms > 1e-6
        found[row] = (others[usable] @ vector / norms[usable]).max() if usable.any() else 1.0
    return found


def _label(queries: Sequence[str]) -> str:
    """The three words that most queries share."""
    counts = Counter(w for q in queries for w in set(re.findall(r"[^\W\d_]{3,}", q.casefold())) - STOP_WORDS)
    return " ".join(word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:3]) or "unnamed"


def _named(clusters: Sequence[Cluster], previous: Sequence[Cluster], match: float) -> list[Cluster]:
    """Clusters with ids and names: one that shares most members (or direction) with an earlier one keeps its name."""
    free = {old.name: old for old in previous}
    named: list[Cluster] = []
    for cluster in clusters:
        old = max(free.values(), key=lambda o: _overlap(cluster, o), default=None)
        if old is not None and _overlap(cluster, old) < match:
            old = None
        if old is not None:
            del free[old.name]
            if (cluster.interaction_ids, cluster.centroids, cluster.radius) == (
                old.interaction_ids,
                old.centroids,
                old.radius,
            ):
                named.append(old)  # nothing new: the same record, so that nothing after it is done again
                continue
        label = "-".join(cluster.label.split()[:2])
        name = old.name if old else f"{label}-{digest([cluster.label, cluster.interaction_ids], 4)}"
        named.append(
            identified(
                Cluster(
                    id="", interaction_ids=cluster.interaction_ids, centroids=cluster.centroids, radius=cluster.radius,
                    label=cluster.label, previous_id=old.id if old else None, name=re.sub(r"[^a-z0-9-]", "x", name),
                )
            )
        )  # fmt: skip
    return named


def _overlap(new: Cluster, old: Cluster) -> float:
    """Share of the old members that are in the new cluster; failing members (they age out), likeness of the centroids."""
    shared = len(set(new.interaction_ids) & set(old.interaction_ids)) / max(1, len(old.interaction_ids))
    near = np.asarray(new.centroids, np.float32) @ np.asarray(old.centroids, np.float32).T
    return max(shared, float(near.max(axis=0).mean()) - 0.25)


def members_of(clusters: Sequence[Cluster]) -> Mapping[str, str]:
    """Interaction id -> cluster id."""
    return {member: cluster.id for cluster in clusters for member in cluster.interaction_ids}
