"""Which rules a deployment puts in the prompt: those that passed its gate, as far as they still hold.

store, Deployment -> Rule*        for the gateway that serves them, and for the gate whose baseline they are
"""

from logtune.edges.store import Store
from logtune.records import Cluster, Deployment, Evaluation, Rule, Verdict
from logtune.stages.prompted import ACTIVE, active


def served_rules(store: Store, deployment: Deployment) -> tuple[Rule, ...]:
    """The rules of a deployment of kind "rules", () of any other.

    One that was vetoed or has expired since is left out. A deployment made by hand tells all that are active.
    """
    if deployment.candidate != "rules":
        return ()
    (cluster,) = store.load(Cluster, [deployment.cluster_id])
    children = {child for member in cluster.interaction_ids for child in store.children(member)}
    found = store.load(Rule, sorted(child for child in children if child.startswith("rule-")))
    proven = store.load(Rule, _proven(store, deployment))
    if not proven:
        return active(found)
    ended = [set(rule.merged_from) for rule in found if rule.merged_from and rule.state not in ACTIVE]
    return tuple(rule for rule in proven if not any(set(rule.merged_from) <= parts for parts in ended))


def _proven(store: Store, deployment: Deployment) -> tuple[str, ...]:
    """Ids of the rules with which this candidate passed its gate; () where none did.

    A row that restores or keeps a candidate has no verdict on it; the row that once deployed it does.
    """
    row: object = deployment
    while isinstance(row, Deployment):
        mine = (row.candidate, row.cluster_id) == (deployment.candidate, deployment.cluster_id)
        if mine and row.action == "deploy":
            verdict = store.get(row.verdict_id or "")
            evaluation = store.get(verdict.evaluation_id) if isinstance(verdict, Verdict) else None
            return evaluation.rule_ids if isinstance(evaluation, Evaluation) else ()
        row = store.get(row.previous_id or "")
    return ()
