"""Query and rule vectors -> Cluster*: what one adapter learns together, its stable name, and centroids for the router.

Topics come from average linkage on the cosine distance of v = normalise([query ; rules]), cut where resampling changes
the grouping least, so that no threshold depends on the number of logs; method `ward` is the paper's (threshold 4.0).
Topics join into clusters until each is large enough and the adapter budget can feed them all. The router sees one
query-only centroid a topic, because a new request has no rules yet (paper, section 3.2).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from logtune.config import ClusterSettings
from logtune.ids import digest, identified
from logtune.ports import Vectors
from logtune.records import Cluster
from logtune.stages.radius import reach

Labels = npt.NDArray[np.int64]  # (N,), a group number each
Floats = npt.NDArray[np.float64]
RESAMPLES = 8
RESAMPLE_SHARE = 0.8
MOST_LINKED = 2000  # rows that are linked, as that takes their square in time and memory; others join the nearest topic
# Chosen on messages of 5, 10 and 20 banking intents with their right answers (6, 10 and 20 topics are found) and on 108
# sets of planted topics (the number is right in all); 0.03 for AS_STABLE splits some of those, 0 finds 4 topics for 20.
STABLE = 0.75  # mean adjusted Rand index; below it no cut is better than one group
AS_STABLE = 0.01  # an index lower by this is no worse
MOST_LOOSE = 1 / 3  # share of rows that may belong to no topic
CUTS = tuple(np.round(np.arange(0.25, 1.0, 0.05), 2).tolist())  # cosine distances tried
SMALLEST_TOPIC = 3
ONE_GROUP = 2.0  # the largest cosine distance
NEAR_ENOUGH = 0.25  # by how much likeness of centroids counts less than members in common
STOP_WORDS = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "been", "but", "by", "can", "could", "did", "do", "does", "for", "from",
    "get", "got", "had", "has", "have", "help", "how", "i", "if", "in", "is", "it", "its", "just", "me", "my", "need",
    "no", "not", "of", "on", "or", "please", "so", "still", "that", "the", "their", "them", "there", "they", "this",
    "to", "want", "was", "we", "were", "what", "when", "where", "which", "who", "why", "will", "with", "would", "you",
    "your",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Routed:
    """Where a query goes: a cluster, or None when it is out of distribution; and its similarity to the nearest one."""

    cluster: Cluster | None
    similarity: float


def group(
    ids: Sequence[str], queries: Sequence[str], query_vectors: Vectors, rule_vectors: Vectors,
    settings: ClusterSettings, max_clusters: int, previous: Sequence[Cluster] = (), strangers: Vectors | None = None,
) -> list[Cluster]:  # fmt: skip
    """Clusters of the interactions `ids` (row i of both (N, D) arrays is ids[i]), largest first; [] for no members.

    `strangers`, shape (M, D): requests of no topic in particular, which a radius shall keep out. Members that are no
    closer than those are in no cluster then: what the router would send elsewhere teaches nothing here.
    """
    if not ids:
        return []
    joint = _unit(np.concatenate([query_vectors, rule_vectors], axis=1))
    topics = _topics(joint, settings)
    parts = _parts(topics, joint, settings.min_size, max_clusters)
    found = [
        _cluster(np.flatnonzero(parts == part), ids, queries, query_vectors, topics, settings, strangers)
        for part in np.unique(parts)
    ]
    return _named(sorted(found, key=lambda c: (-len(c.interaction_ids), c.interaction_ids)), previous, settings.match)


class Routes:
    """Clusters made ready for many queries: all their centroids in one matrix for each dimension that occurs."""

    def __init__(self, clusters: Sequence[Cluster]) -> None:
        self._made: dict[int, tuple[Vectors, tuple[Cluster, ...]]] = {}  # by D: (N, D), cluster of a row
        of_dimension: dict[int, list[Cluster]] = {}
        for cluster in clusters:
            of_dimension.setdefault(len(cluster.centroids[0]), []).append(cluster)
        for dimension, alike in of_dimension.items():
            rows = np.asarray([row for cluster in alike for row in cluster.centroids], np.float32)
            self._made[dimension] = rows, tuple(cluster for cluster in alike for _ in cluster.centroids)

    def nearest(self, vector: npt.NDArray[np.float32]) -> Routed:
        """The cluster with the centroid nearest to a unit query vector (D,); None beyond that cluster's radius.

        Clusters of another embedder (of another D) are left out.
        """
        if len(vector) not in self._made:
            return Routed(None, -1.0)
        centroids, clusters = self._made[len(vector)]
        similarities = centroids @ vector
        row = int(similarities.argmax())
        best, similarity = clusters[row], float(similarities[row])
        return Routed(best if similarity >= best.radius else None, similarity)


def route(clusters: Sequence[Cluster], vector: npt.NDArray[np.float32]) -> Routed:
    """Where one query goes, as by `Routes`."""
    return Routes(clusters).nearest(vector)


# --- topics ---


def _topics(vectors: Vectors, settings: ClusterSettings) -> Labels:
    """A topic number for each row."""
    if settings.method == "ward" and len(vectors) > 1:
        return _cut(cast("Floats", linkage(vectors, "ward")), settings.threshold)
    if len(vectors) < 2 * SMALLEST_TOPIC:
        return np.zeros(len(vectors), np.int64)
    rows = _some(np.random.default_rng(0), len(vectors), min(len(vectors), MOST_LINKED))
    linked = vectors[rows]
    distances = _distances(linked)
    tree = _average(distances)
    found = _absorb(_cut(tree, _stable_cut(distances, tree)), linked, SMALLEST_TOPIC)
    if len(rows) == len(vectors):
        return found
    return cast("Labels", np.unique(found)[np.argmax(vectors @ _means(found, linked).T, axis=1)])


def _some(generator: np.random.Generator, count: int, wanted: int) -> Labels:
    """Rows drawn without replacement, in order."""
    return np.sort(generator.choice(count, wanted, replace=False))


def _distances(vectors: Vectors) -> Floats:
    """Cosine distances of unit vectors, shape (N, N)."""
    wide = vectors.astype(np.float64)
    return cast("Floats", np.clip(1 - wide @ wide.T, 0, ONE_GROUP))


def _average(distances: Floats) -> Floats:
    """The tree of average linkage of an (N, N) array."""
    return cast("Floats", linkage(squareform(distances, checks=False), "average"))


def _cut(tree: Floats, distance: float) -> Labels:
    return cast("Labels", fcluster(tree, distance, "distance").astype(np.int64))


def _stable_cut(distances: Floats, tree: Floats) -> float:
    """The finest of the cuts whose groups change least when a fifth of the rows is left out.

    Coarse cuts are as stable as fine ones but tell the router less. ONE_GROUP when every grouping changes too much.
    """
    generator = np.random.default_rng(0)
    scores = dict.fromkeys(CUTS, 0.0)
    for _ in range(RESAMPLES):
        rows = _some(generator, len(distances), int(len(distances) * RESAMPLE_SHARE))
        smaller = _average(distances[np.ix_(rows, rows)])
        for cut in CUTS:
            part = _settled(_cut(smaller, cut))
            if len(np.unique(part[part >= 0])) > 1 and np.mean(part < 0) <= MOST_LOOSE:
                scores[cut] += adjusted_rand(_settled(_cut(tree, cut))[rows], part) / RESAMPLES
    best = max(scores.values())
    return next(cut for cut in CUTS if scores[cut] >= best - AS_STABLE) if best >= STABLE else ONE_GROUP


def _settled(groups: Labels) -> Labels:
    """Group numbers from 0; -1 for rows of groups smaller than SMALLEST_TOPIC: chance makes and unmakes those."""
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return cast("Labels", np.where(sizes[codes] >= SMALLEST_TOPIC, codes, -1))


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


# --- clusters ---


def _parts(topics: Labels, vectors: Vectors, min_size: int, max_clusters: int) -> Labels:
    """A cluster number for each row: topics joined, nearest first, until they are few and large enough."""
    parts = _absorb(topics, vectors, min_size)
    names, codes = np.unique(parts, return_inverse=True)
    if len(names) <= max(1, max_clusters):
        return parts
    joined = fcluster(_average(_distances(_means(parts, vectors))), max(1, max_clusters), "maxclust")
    return cast("Labels", joined.astype(np.int64)[codes])


def _absorb(groups: Labels, vectors: Vectors, least: int) -> Labels:
    """Groups smaller than `least` join the one with the nearest mean, smallest first; the last one may be smaller."""
    names, codes, counts = np.unique(groups, return_inverse=True, return_counts=True)
    sums, sizes = _sums(codes, vectors, len(names)), counts.astype(np.float64)  # inf: gone
    for _ in range(len(names) - 1):
        small = int(np.argmin(sizes))
        if sizes[small] >= least:
            break
        closeness = _unit(sums) @ sums[small]
        closeness[np.isinf(sizes)] = closeness[small] = -np.inf
        into = int(np.argmax(closeness))
        sums[into] += sums[small]
        sizes[into] += sizes[small]
        sizes[small] = np.inf
        codes[codes == small] = into
    return names[codes]


def _sums(codes: Labels, vectors: Vectors, count: int) -> Vectors:
    """(count, D): the sum of each group's rows; every code 0..count-1 occurs."""
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(count))
    return cast("Vectors", np.add.reduceat(vectors[order], starts, axis=0))


def _means(groups: Labels, vectors: Vectors) -> Vectors:
    """Unit means of the groups, in the order of their names."""
    names, codes = np.unique(groups, return_inverse=True)
    return _unit(_sums(codes, vectors, len(names)))


def _unit(vectors: Vectors) -> Vectors:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return cast("Vectors", vectors / np.maximum(norms, 1e-12))


def _cluster(
    rows: Labels, ids: Sequence[str], queries: Sequence[str], vectors: Vectors, topics: Labels,
    settings: ClusterSettings, strangers: Vectors | None,
) -> Cluster:  # fmt: skip
    far = np.empty(0) if strangers is None else _nearest(strangers, _means(topics[rows], vectors[rows]))
    found = reach(_closeness(topics[rows], vectors[rows]), far, settings.radius_quantile, settings.radius_most)
    rows = rows[found.members]
    return Cluster(
        id="", interaction_ids=tuple(sorted(ids[i] for i in rows)), label=_label([queries[i] for i in rows]),
        centroids=tuple(tuple(round(float(x), 6) for x in row) for row in _means(topics[rows], vectors[rows])),
        radius=round(found.radius, 6),
    )  # fmt: skip


def _nearest(vectors: Vectors, centroids: Vectors) -> Floats:
    """(M,): each row's similarity to the nearest centroid."""
    return cast("Floats", (vectors @ centroids.T).max(axis=1).astype(np.float64))


def _closeness(topics: Labels, vectors: Vectors) -> Floats:
    """(N,): each row's similarity to the nearest topic mean that it is no part of itself, as a new query is no part.

    With a row in its own topic's mean the radius would be too narrow, the more so the smaller the topics.
    """
    names, codes = np.unique(topics, return_inverse=True)
    sums, rows = _sums(codes, vectors, len(names)), np.arange(len(vectors))
    closeness = (vectors @ _unit(sums).T).astype(np.float64)
    without = sums[codes] - vectors
    norms = np.linalg.norm(without, axis=1)
    alone = norms < 1e-6
    own = np.einsum("nd,nd->n", without, vectors) / np.where(alone, 1, norms)
    closeness[rows, codes] = np.where(alone, -1.0 if len(names) > 1 else 1.0, own)
    return cast("Floats", closeness.max(axis=1))


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
        if old is None or _overlap(cluster, old) < match:
            words = "-".join(cluster.label.split()[:2])
            name = f"{words}-{digest([cluster.label, cluster.interaction_ids, cluster.centroids], 4)}"
            named.append(identified(replace(cluster, name=re.sub(r"[^a-z0-9-]", "x", name))))
            continue
        del free[old.name]
        same = _content(cluster) == _content(old)  # nothing new: the same record, and nothing after it is done again
        named.append(old if same else identified(replace(cluster, previous_id=old.id, name=old.name)))
    return named


def _content(cluster: Cluster) -> tuple[object, ...]:
    return cluster.interaction_ids, cluster.centroids, cluster.radius


def moved(clusters: Sequence[Cluster], before: Mapping[str, Cluster]) -> dict[str, dict[str, float]]:
    """Name of an earlier cluster -> names of `clusters` -> the share of its members that are there now."""
    places = {member: cluster.name for cluster in clusters for member in cluster.interaction_ids}
    found = {name: Counter(places.get(member) for member in old.interaction_ids) for name, old in before.items()}
    return {
        name: {place: count / counts.total() for place, count in counts.items() if place is not None}
        for name, counts in found.items()
    }


def _overlap(new: Cluster, old: Cluster) -> float:
    """Share of the old members that are in the new cluster; failing members (they age out), likeness of centroids."""
    shared = len(set(new.interaction_ids) & set(old.interaction_ids)) / max(1, len(old.interaction_ids))
    if len(new.centroids[0]) != len(old.centroids[0]):  # another embedder
        return shared
    near = np.asarray(new.centroids, np.float32) @ np.asarray(old.centroids, np.float32).T
    return max(shared, float(near.max(axis=0).mean()) - NEAR_ENOUGH)
