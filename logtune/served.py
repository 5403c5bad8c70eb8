"""What a deployment was proven with: the rules it puts in the prompt, and the lessons that later candidates keep.

store, Deployment -> Rule*        for the gateway that serves them, and for the gate whose baseline they are
store -> ids of PreferencePair*   by cluster name: what those that served have learned
store -> Voted: who has which side at the gate, as earlier cycles say
"""

from collections import defaultdict
from collections.abc import Collection, Container, Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from logtune.edges.ledger import RuleLedger
from logtune.edges.store import Store
from logtune.records import (
    Adapter,
    Cluster,
    Deployment,
    Evaluation,
    Experiment,
    Interaction,
    Json,
    PreferencePair,
    Record,
    Rule,
    RuleEntry,
    Verdict,
)
from logtune.runner import Voted
from logtune.stages import ledger
from logtune.stages.held_out import Shares
from logtune.stages.prompted import ACTIVE, active
from logtune.statistics import uniform

LESSON_SALT = "logtune-lessons"  # fixed: the same lessons are checked in every cycle
MOST_DEPLOYMENTS = 10_000  # read back; a weekly deployment of a hundred clusters takes two years to get there
MOST_CYCLES = 100  # looked back for what the last ones said
RECENT = 20  # cycles, of which the newest that has used any record of a kind tells what holds now
R = TypeVar("R", bound=Record)


def in_use(store: Store, kind: type[R]) -> list[R]:
    """The records of a kind that the newest cycle with any of them used, newest first."""
    used = (store.list(kind, limit=None, cycle_id=cycle.id) for cycle in store.cycles(RECENT))
    return next((listed for listed in used if listed), [])


def served_rules(store: Store, deployment: Deployment) -> tuple[Rule, ...]:
    """The rules of a deployment of kind "rules", () of any other.

    One that was vetoed or has expired since is left out, from the moment the ledger says so; the new words of an edit
    have to pass a gate first. A deployment made by hand tells all that are active.
    """
    if deployment.candidate != "rules":
        return ()
    (cluster,) = store.load(Cluster, [deployment.cluster_id])
    children = {child for member in cluster.interaction_ids for child in store.children(member)}
    found = store.load(Rule, sorted(child for child in children if child.startswith("rule-")))
    entries = RuleLedger(store).every()
    proven = store.load(Rule, _proven(store, deployment))
    if not proven:
        return active(rule for rule in found if not ended_by_hand(store, rule, entries))
    ended = [set(rule.merged_from) for rule in found if rule.merged_from and rule.state not in ACTIVE]
    left = [rule for rule in proven if not any(set(rule.merged_from) <= parts for parts in ended)]
    now = {rule.id for rule in in_use(store, Rule)} if entries else set[str]()
    return tuple(r for r in left if not ended_by_hand(store, r, entries, None if r.id in now else ()))


def ended_by_hand(
    store: Store, rule: Rule, entries: Sequence[RuleEntry], among: Sequence[Rule] | None = None
) -> bool:  # fmt: skip
    """Whether somebody ended the rule since; `among`: as `ledger.decided`, () for one that has other words now."""
    line = ledger.decided(rule, entries, among).state
    if line is None or line.action == "pin":
        return False
    if line.action == "veto" or line.until is None:
        return True
    return all(item.at <= line.until for item in store.load(Interaction, rule.interaction_ids))


def proven_rules(store: Store, test: Experiment) -> tuple[Rule, ...]:
    """The rules that a candidate of kind "rules" is tested with."""
    evaluation = store.get(test.evaluation_id)
    return tuple(store.load(Rule, evaluation.rule_ids)) if isinstance(evaluation, Evaluation) else ()


def _proven(store: Store, deployment: Deployment) -> tuple[str, ...]:
    """Ids of the rules with which this candidate passed its gate; () where none did."""
    evaluation = evaluation_of(store, deployment)
    return evaluation.rule_ids if evaluation is not None else ()


def evaluation_of(store: Store, deployment: Deployment) -> Evaluation | None:
    """What proved this candidate; None where nothing did.

    A row that restores or keeps a candidate has no verdict on it; the row that once deployed it does.
    """
    row: object = deployment
    while isinstance(row, Deployment):
        mine = (row.candidate, row.cluster_id) == (deployment.candidate, deployment.cluster_id)
        if mine and row.action == "deploy":
            verdict = store.get(row.verdict_id or "")
            evaluation = store.get(verdict.evaluation_id) if isinstance(verdict, Verdict) else None
            return evaluation if isinstance(evaluation, Evaluation) else None
        row = store.get(row.previous_id or "")
    return None


def accepted_lessons(store: Store, most: int) -> dict[str, list[str]]:
    """Cluster name -> ids of pairs that its deployments have learned from, at most so many and always the same.

    What was rolled back has taught nothing that must be kept. Rules that were ended since are left to the cycle.
    """
    rows = store.list(Deployment, limit=MOST_DEPLOYMENTS) if most else []
    revoked = {row.previous_id for row in rows if row.action == "rollback"}
    taught: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.action == "deploy" and row.id not in revoked:
            taught[row.cluster_name].update(_taught(store, row))
    drawn = {name: sorted(ids, key=lambda each: uniform(LESSON_SALT, each))[:most] for name, ids in taught.items()}
    return {name: [each for each in ids if store.get(each)] for name, ids in sorted(drawn.items()) if ids}


def _taught(store: Store, row: Deployment) -> set[str]:
    adapter = store.get(row.adapter_id) if row.adapter_id else None
    if isinstance(adapter, Adapter):
        return set(adapter.pair_ids)
    parts = (part for rule in store.load(Rule, _proven(store, row)) for part in (rule.merged_from or (rule.id,)))
    return {child for part in parts for child in store.children(part) if child.startswith("pair-")}


def aged_lessons(store: Store, pair_ids: Collection[str], logs: Container[str]) -> dict[str, Interaction]:
    """Those of the pairs, with their interactions, whose logs are in the store and are read no more; `logs`: that are.

    A pair whose log is read and that is not made again was taken back; one whose log is gone has been erased.
    """
    pairs = [pair for name in sorted(pair_ids) if isinstance(pair := store.get(name), PreferencePair)]
    items = {item.id: item for item in store.load(Interaction, sorted({pair.interaction_id for pair in pairs}))}
    old = {pair.id: items[pair.interaction_id] for pair in pairs if items[pair.interaction_id].log_id not in logs}
    known = store.known("record", sorted({item.log_id for item in old.values()}))
    return {name: item for name, item in old.items() if item.log_id in known}


def voted(store: Store) -> Voted:
    """Who has which side at the gate, from the receipts of finished cycles."""
    told = [row.receipt for row in store.cycles(MOST_CYCLES)]  # the newest first
    kept = next((one["voted"] for one in told if "seen_until" in one), {})
    proofs = (one["seen_until"] for one in told if one.get("deployed") and "seen_until" in one)
    return replace(read_voted(kept), proven=cast("float", next(proofs, 0.0)), proofs=_proofs(store))


def _proofs(store: Store) -> dict[str, float]:
    """Cluster name -> the newest request that voted for what serves it; also where a live test came in between."""
    found = {name: evaluation_of(store, row) for name, row in store.deployments().items()}
    voting = {name: store.load(Interaction, sorted(e.interaction_ids)) for name, e in found.items() if e is not None}
    return {name: max(item.at for item in items) for name, items in voting.items() if items}


def read_voted(kept: Json) -> Voted:
    """As a receipt holds it."""
    found = cast("dict[str, Any]", kept)
    epochs = tuple((until, Shares(*shares)) for until, shares in found.get("epochs", ()))
    return Voted(
        epochs=epochs, since=found.get("since", 0.0), proven=found.get("proven", 0.0), proofs=found.get("proofs", {})
    )
