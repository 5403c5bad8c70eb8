"""Routing by cheap estimates of the embedder's vectors: corrected near what is deployed, with radii of their own.

cheap and real vectors of the clusters' queries and of foreign ones -> `fit` -> Fit -> StaticRoutes -> Routed

Cheap vectors blur what the embedder tells apart, so two things are learned from queries of which both are known: a
linear correction, and for each cluster the radius at which its decisions agree best with the embedder's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from logtune.ports import Vectors
from logtune.records import Cluster
from logtune.stages.cluster import Routed

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
RIDGE = 1.0  # of the correction; with 0.3 as many decisions agree and 0.4% more foreign queries are let in
LOST = (0.005, 0.05)  # least and largest share of a cluster's own queries that may lie outside its radius here
TRIED = 46  # radii between the two


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What turns cheap vectors into decisions."""

    turn: Vectors  # (D, D): a cheap vector v is corrected to normalise(v @ turn)
    radii: tuple[float, ...]  # one a cluster


class StaticRoutes:
    """Clusters made ready for many queries with cheap vectors."""

    def __init__(self, clusters: Sequence[Cluster], fit: Fit) -> None:
        self.clusters = tuple(clusters)
        self._turn = np.ascontiguousarray(fit.turn.T)
        self._centroids, self._owner = stacked(clusters, len(fit.turn))
        self._radii = fit.radii

    def nearest(self, vector: npt.NDArray[np.float32]) -> Routed:
        """The cluster of a query by its cheap unit vector, shape (D,); None beyond its radius, and for zeros."""
        return self.place(self._turn @ vector)

    def place(self, corrected: npt.NDArray[np.float32]) -> Routed:
        """The same by the corrected vector, of whatever length."""
        length = math.sqrt(float(corrected @ corrected))
        if not length or not len(self._owner):
            return Routed(None, 0.0 if len(self._owner) else -1.0)
        similarities = self._centroids @ corrected
        row = int(similarities.argmax())
        similarity, owner = float(similarities[row]) / length, int(self._owner[row])
        return Routed(self.clusters[owner] if similarity >= self._radii[owner] else None, similarity)


def fit(clusters: Sequence[Cluster], cheap: Vectors, real: Vectors, owners: Numbers) -> Fit:
    """A ridge correction and radii, from both vectors (N, D) of queries; owners: number of the cluster, -1 foreign.

    A query is judged by the correction that was learned without it (leave-one-out of ridge regression), as a new query
    would be.
    """
    size = cheap.shape[1]
    wide = cheap.astype(np.float64)
    inverse = np.linalg.inv(wide.T @ wide + RIDGE * np.eye(size))
    step = inverse @ (wide.T @ (real - wide))
    leverage = np.einsum("nd,nd->n", wide @ inverse, wide)
    error = (real - wide - wide @ step) / np.maximum(1 - leverage, 1e-6)[:, None]
    radii = _radii(clusters, _unit(real - error), real, owners)
    return Fit(turn=(np.eye(size) + step).astype(np.float32), radii=radii)


def stacked(clusters: Sequence[Cluster], dimension: int) -> tuple[Vectors, Numbers]:
    """All centroids of that dimension, shape (N, D), and the number of the cluster of each."""
    rows = [
        (row, number)
        for number, cluster in enumerate(clusters)
        for row in cluster.centroids
        if len(row) == dimension
    ]  # fmt: skip
    centroids = np.asarray([row for row, _ in rows], np.float32).reshape(-1, dimension)
    return centroids, np.asarray([number for _, number in rows], np.int64)


def _unit(vectors: Floats) -> Floats:
    return cast("Floats", vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


def _radii(clusters: Sequence[Cluster], estimated: Floats, real: Vectors, owners: Numbers) -> tuple[float, ...]:
    centroids, owner = stacked(clusters, real.shape[1])
    if not len(owner):
        return tuple(cluster.radius for cluster in clusters)
    similar = estimated @ centroids.T
    nearest, foreign = owner[similar.argmax(axis=1)], owners < 0
    there = _inside(clusters, real @ centroids.T, owner)
    found: list[float] = []
    for number, cluster in enumerate(clusters):
        own = similar[owners == number][:, owner == number]
        others = foreign & (nearest == number)
        wanted = there[others] == number
        if not own.size:  # its queries are not in the store any more, or its vectors are another embedder's
            found.append(cluster.radius)
            continue
        found.append(_radius(own.max(axis=1), similar[others].max(axis=1), wanted))
    return tuple(found)


def _inside(clusters: Sequence[Cluster], similar: Vectors, owner: Numbers) -> Numbers:
    """The embedder's own decisions: number of a cluster, -1 for none."""
    best = similar.argmax(axis=1)
    radii = np.array([cluster.radius for cluster in clusters])[owner[best]]
    return cast("Numbers", np.where(similar.max(axis=1) >= radii, owner[best], -1))


def _radius(own: Floats, others: Floats, wanted: npt.NDArray[np.bool_]) -> float:
    """Where the share of own queries lost and the share of foreign ones decided otherwise add up to least."""
    tried = np.quantile(own, np.linspace(*LOST, TRIED))
    lost = (own[:, None] < tried).mean(axis=0)
    wrong = ((others[:, None] >= tried) != wanted[:, None]).sum(axis=0) / max(1, len(others))
    return float(tried[int(np.argmin(lost + wrong))])
