"""What the live adapters are worth: gains from the gate, traffic from the router or from the logs.

store, cycle -> Limits            for the plan of a cycle
store, now -> Limits, Holding*    for live tests that promote, and for `logtune adapters budget`
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from logtune import incumbents
from logtune.records import DAY_S, Adapter, Cluster, Deployment, Evaluation, Interaction, Verdict
from logtune.stages import budget
from logtune.stages.cluster import Routes

if TYPE_CHECKING:
    from logtune.config import Config
    from logtune.edges.store import Store
    from logtune.runner import Cycle

NEWEST = 5000  # interactions by which a cycle tells where requests go
WINDOW_S = 28 * DAY_S  # of the logs that tell it outside of a cycle


def in_cycle(store: "Store", cycle: "Cycle") -> budget.Limits:
    """The budget as the plan of a cycle needs it: candidates are worth something before they have ever served."""
    names = {cluster.id: cluster.name for cluster in cycle.board.all(Cluster)}
    made = cycle.board.all(Verdict)
    at = {verdict.adapter_id: [names[verdict.cluster_id]] for verdict in made if verdict.adapter_id is not None}
    won = budget.gains([*cycle.board.all(Evaluation), *store.list(Evaluation, limit=None)])
    worth = budget.worths(at | budget.homes(store.deployments()), won, routed(cycle))
    return budget.Limits(base_parameters=cycle.tools.base_parameters, budget=cycle.config.train.budget, worth=worth)


def routed(cycle: "Cycle") -> dict[str, float]:
    """The share of the newest requests that the router would send to each cluster, live or of this cycle."""
    if "routed" not in cycle.kept:
        cycle.kept["routed"] = _routed(cycle)
    return cast("dict[str, float]", cycle.kept["routed"])


def _routed(cycle: "Cycle") -> dict[str, float]:
    clusters = incumbents.live_clusters(cycle) | {cluster.name: cluster for cluster in cycle.board.all(Cluster)}
    newest = sorted(cycle.board.all(Interaction), key=lambda item: item.at)[-NEWEST:]
    routes, names = Routes(list(clusters.values())), {cluster.id: name for name, cluster in clusters.items()}
    vectors = cycle.tools.embedder.embed([item.query for item in newest])
    found = [routes.nearest(np.asarray(row)).cluster for row in vectors]
    return budget.traffic([names[cluster.id] if cluster else None for cluster in found], clusters)


def outside(
    store: "Store", config: "Config", base_parameters: int, now: float, coming: Mapping[str, Sequence[str]]
) -> budget.Limits:
    """The budget outside of a cycle; `coming`: adapter id -> the clusters in which a live test has it."""
    at, won = {**coming, **budget.homes(store.deployments())}, budget.gains(store.list(Evaluation, limit=None))
    worth = budget.worths(at, won, _logged(store, now))
    return budget.Limits(base_parameters=base_parameters, budget=config.train.budget, worth=worth)


def listed(store: "Store", base_parameters: int, now: float) -> list[budget.Holding]:
    """Every live adapter with what it takes and what it is worth; the one that would go first comes first."""
    at = budget.homes(store.deployments())
    adapters = {adapter.id: adapter for adapter in store.load(Adapter, list(at))}
    won = budget.gains(store.list(Evaluation, limit=None))
    return budget.holdings(at, adapters, won, _logged(store, now), base_parameters)


def _logged(store: "Store", now: float) -> dict[str, float]:
    """Cluster -> the share of the requests that went to it, of those of the last four weeks since it first served."""
    began: dict[str, float] = {}
    for row in (row for row in store.list(Deployment, limit=None) if row.candidate != "base"):
        began[row.cluster_name] = min(row.at, began.get(row.cluster_name, row.at))
    sent = [(log.at, log.cluster) for log in store.logs(now - WINDOW_S)]
    found: dict[str, float] = {}
    for name, since in began.items():
        found |= budget.traffic([cluster for at, cluster in sent if at >= since], [name])
    return found
