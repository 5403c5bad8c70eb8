"""Live clusters that no cluster of a cycle continues: whether what serves them goes.

store, cycle -> why it goes, by cluster name; those that are not named keep what serves them

Clusters are made of what users said of answers, so a topic that is served well falls silent: that is no reason to take
away what serves it. It goes where its lessons hold no more, or where nobody asks any more.
"""

from collections.abc import Collection, Sequence, Set
from typing import TYPE_CHECKING

from logtune import holdings, incumbents
from logtune.records import Cluster, Interaction, Rule
from logtune.served import ended_by_hand
from logtune.stages.plan import HEIRS

if TYPE_CHECKING:
    from logtune.edges.store import Store
    from logtune.runner import Cycle

ENDED = "most of what it had learned was vetoed, taken back or erased"


def leaving(store: "Store", cycle: "Cycle") -> dict[str, str]:
    """Name of a live cluster that no cluster of this cycle bears -> why what serves it goes."""
    here = {cluster.name for cluster in cycle.board.all(Cluster)}
    silent = {name: row for name, row in incumbents.live_clusters(cycle).items() if name not in here}
    if not silent:
        return {}
    asked, over = {log.cluster for log in cycle.logs.values()}, _ended(store, cycle)
    placed = {member for other in cycle.board.all(Cluster) for member in other.interaction_ids}
    routed = holdings.routed(cycle)
    found: dict[str, str] = {}
    for name, cluster in silent.items():
        if _lost(store, cycle, cluster.interaction_ids, placed, over) >= HEIRS * len(cluster.interaction_ids):
            found[name] = ENDED
        elif name not in asked and not routed.get(name):
            found[name] = f"no request came to it in the {cycle.config.cycle.window_days:g} days that are read"
    return found


def _lost(
    store: "Store", cycle: "Cycle", members: Sequence[str], placed: Set[str], over: Set[str]
) -> int:  # fmt: skip
    """How many members teach no more for another reason than their age.

    `placed`: those of this cycle's clusters, `over`: those behind rules that somebody ended.
    """
    items = store.load(Interaction, members)
    kept = store.known("record", sorted({item.log_id for item in items}))
    aged = [item for item in items if item.log_id not in cycle.logs and item.log_id in kept]
    holds = {item.id for item in aged if item.id not in over and not _taken_back(cycle, item.feedback_ids)}
    teaching = holds | placed
    return sum(item.id not in teaching for item in items)


def _taken_back(cycle: "Cycle", feedback_ids: Collection[str]) -> bool:
    found = [cycle.feedback[name].revoked for name in feedback_ids if name in cycle.feedback]
    return bool(feedback_ids) and all(found)


def _ended(store: "Store", cycle: "Cycle") -> set[str]:
    """Interactions behind rules that somebody ended."""
    named = {name for entry in cycle.ledger for name in (entry.rule_id, *entry.parts)}
    rules = [rule for name in sorted(named) if isinstance(rule := store.get(name), Rule)]
    over = (rule for rule in rules if ended_by_hand(store, rule, cycle.ledger))
    return {member for rule in over for member in rule.interaction_ids}
