"""What was rolled back, or stopped by a live test, stays away until somebody new has voted for it.

store, Verdict* of a cycle -> why their candidates must not serve again, by verdict id

Nothing but the rollback itself would keep them away: a gate that has been passed is not held again. It is the same
candidate where one of its kind has learned all that the other had; one from which something was taken is another.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from logtune.edges.experiments import Experiments
from logtune.edges.store import Store
from logtune.records import Adapter, CandidateKind, Deployment, Evaluation, Experiment, Rule, Verdict
from logtune.served import evaluation_of
from logtune.stages.choice import NAMES
from logtune.stages.experiment import RUNNER_UP

ILL = ("worse", "guard", "by_hand")  # codes of a live test's end that say something of its candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class Undone:
    """A candidate that was taken out of service, or out of its live test."""

    kind: CandidateKind
    learned: frozenset[str]  # ids of pairs, or of single interactions' rules
    votes: frozenset[str]  # interactions whose users proved it
    words: str
    served: bool  # False: only in a live test, after which the next one waits for its time


def barred(store: Store, verdicts: Sequence[Verdict], names: Mapping[str, str]) -> dict[str, str]:
    """Verdict id -> why what it lets serve, or lets be tested, must not; `names`: of clusters, by id."""
    offered = [row for row in verdicts if row.decision in ("promote", "extend") or row.code == RUNNER_UP]
    found = of_store(store) if offered else {}
    told: dict[str, str] = {}
    for verdict in offered:
        evaluation = store.get(verdict.evaluation_id)
        gone = found.get(names[verdict.cluster_id], ())
        if not isinstance(evaluation, Evaluation) or not gone:
            continue
        learned, votes = _learned(store, evaluation), set(evaluation.interaction_ids)
        same = (
            old
            for old in gone
            if old.kind == evaluation.candidate and old.learned <= learned and votes <= old.votes
            if old.served or verdict.decision != "extend"
        )
        if old := next(same, None):
            told[verdict.id] = f"skipped: {NAMES[old.kind]} was {old.words}, and nobody new has voted for it since"
    return told


def of_store(store: Store) -> dict[str, list[Undone]]:
    """Cluster name -> what was undone there."""
    found: dict[str, list[Undone]] = defaultdict(list)
    rows = {row.id: row for row in store.list(Deployment, limit=None)}
    for row in (row for row in rows.values() if row.action == "rollback"):
        gone = rows.get(row.previous_id or "")
        proof = evaluation_of(store, gone) if gone and gone.candidate != "base" else None
        if proof is not None:
            found[row.cluster_name].append(_undone(store, proof, f"rolled back on {_day(row.at)}: {row.reason}"))
    for test in store.list(Experiment, limit=None):
        last, tried = Experiments(store).led(test)[-1], store.get(test.evaluation_id)
        if last.action in ("stop", "rollback") and last.code in ILL and isinstance(tried, Evaluation):
            words = f"stopped by a live test on {_day(last.at)}: {last.reason}"
            found[test.cluster_name].append(_undone(store, tried, words, served=False))
    return found


def _undone(store: Store, proof: Evaluation, words: str, *, served: bool = True) -> Undone:
    votes = frozenset(proof.interaction_ids)
    return Undone(kind=proof.candidate, learned=_learned(store, proof), votes=votes, words=words, served=served)


def _learned(store: Store, proof: Evaluation) -> frozenset[str]:
    adapter = store.get(proof.adapter_id) if proof.adapter_id else None
    if isinstance(adapter, Adapter):
        return frozenset(adapter.pair_ids)
    rules = store.load(Rule, proof.rule_ids)
    return frozenset(part for rule in rules for part in (rule.merged_from or (rule.id,)))


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()
