"""Who answers a request now, as the gateway routes it: what a candidate has to beat on just this request.

cycle, Interaction* -> Contender of each

A cluster that has merged with another, or has split off, is no blank: its requests are answered by what served the
clusters they belonged to, some of them by the base model.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from logtune.records import Adapter, CandidateKind, Cluster, Rule
from logtune.runner import Cycle
from logtune.stages.cluster import Routes, moved


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One that answers: what serves, or what could."""

    kind: CandidateKind
    adapter: Adapter | None = None
    rules: tuple[Rule, ...] = ()

    @property
    def name(self) -> str:
        """What evaluations call it: its adapter's id, else its kind."""
        return self.adapter.id if self.adapter else self.kind

    @property
    def key(self) -> str:
        """The same for the same answers."""
        return " ".join((self.name, *(rule.id for rule in self.rules)))


BASE = Contender(kind="base")


def of_name(cycle: Cycle, name: str) -> Contender:
    """What serves the cluster of this name."""
    prompted = cycle.prompted.get(name)
    if prompted is not None:
        return Contender(kind=prompted.kind, rules=prompted.rules)
    adapter = cycle.before.get(cycle.serving.get(name) or "")
    return Contender(kind=adapter.kind, adapter=adapter) if isinstance(adapter, Adapter) else BASE


def of_requests(cycle: Cycle, queries: Sequence[str]) -> list[Contender]:
    """What answers each of the requests."""
    routes, names = _routes(cycle), {cluster.id: name for name, cluster in live_clusters(cycle).items()}
    if not names or not queries:
        return [BASE] * len(queries)
    found = (routes.nearest(np.asarray(row)).cluster for row in cycle.tools.embedder.embed(queries))
    return [of_name(cycle, names[cluster.id]) if cluster else BASE for cluster in found]


def main_of(own: Contender, found: Sequence[Contender]) -> Contender:
    """What answers most of a cluster's requests; `own`: what serves its name, which wins a tie and where are none."""
    counts = Counter(contender.key for contender in (*found, own))
    best = max(counts.values())
    return own if counts[own.key] == best else next(each for each in found if counts[each.key] == best)


def live_clusters(cycle: Cycle) -> dict[str, Cluster]:
    """Name -> the cluster by which the gateway routes to it."""
    found = {name: cycle.before.get(cluster_id) for name, cluster_id in cycle.routes.items()}
    return {name: cluster for name, cluster in found.items() if isinstance(cluster, Cluster)}


def moves(cycle: Cycle) -> Mapping[str, Mapping[str, float]]:
    """Live cluster -> cluster of this cycle -> the share of its members that are there now."""
    return moved(cycle.board.all(Cluster), live_clusters(cycle))


def _routes(cycle: Cycle) -> Routes:
    if "routes" not in cycle.kept:
        cycle.kept["routes"] = Routes(list(live_clusters(cycle).values()))
    return cast("Routes", cycle.kept["routes"])
