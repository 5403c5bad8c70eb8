"""What a cycle did, when its stages are done: board, counts, what was spent -> CycleReceipt, with its words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

from logtune import rebasing
from logtune.edges.store import CycleRow, Store
from logtune.errors import NOT_PASSED, OK
from logtune.ports import Spent
from logtune.records import (
    Cluster,
    Decision,
    Deployment,
    Evaluation,
    Interaction,
    Json,
    PreferencePair,
    Rule,
    Standing,
    Verdict,
)
from logtune.runner import Board, Counts, Cycle


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleReceipt:
    """What a cycle did."""

    cycle_id: str
    config_hash: str
    stages: Mapping[str, Mapping[str, int]]  # stage -> done, unchanged, failed
    dropped: Mapping[str, int]  # reason -> interactions that teach nothing
    origins: Mapping[str, int]  # where the better answers come from -> pairs: which kind of candidate won how often
    held: Mapping[str, int]  # reason -> interactions, rules and pairs that are not believed
    clusters: tuple[str, ...]  # ids
    passed: int  # candidates that passed their gate
    deployed: tuple[str, ...]  # ids of the deployments it made
    summary: str
    seconds: float
    exit_code: int
    spent: Mapping[str, Mapping[str, float]]  # purpose of the teacher's calls -> calls, remembered, tokens, cost; of
    # all processes that worked on it


def receipt_of(
    store: Store, cycle: Cycle, row: CycleRow, counts: Mapping[str, Counts], spent: Mapping[str, Spent]
) -> CycleReceipt:  # fmt: skip
    """The receipt of a cycle whose stages are done; `counts`: by stage, `spent`: by purpose."""
    board = cycle.board
    evaluations = board.all(Evaluation)
    verdicts = {verdict.id for verdict in board.all(Verdict)}
    mine = [d for d in store.deployments().values() if d.verdict_id in verdicts and d.action == "deploy"]
    dropped: dict[str, int] = {}
    for decision in board.all(Decision):
        if decision.teaches == "nothing":
            dropped[decision.reason] = dropped.get(decision.reason, 0) + 1
    blocked = any(e.outcome != "passed" for e in evaluations) or counts["train"].failed > 0
    return CycleReceipt(
        cycle_id=row.id, config_hash=row.config_hash, dropped=dropped, origins=_origins(board), held=_held(board),
        deployed=tuple(d.id for d in mine),
        stages={n: {"done": c.done, "unchanged": c.unchanged, "failed": c.failed} for n, c in counts.items()},
        clusters=tuple(c.id for c in board.all(Cluster)), passed=sum(e.outcome == "passed" for e in evaluations),
        summary=_summary(row, cycle, evaluations, mine, counts),
        seconds=round(cycle.tools.clock.now() - row.started_at, 1),
        exit_code=NOT_PASSED if blocked and not mine else OK,
        spent={purpose: asdict(found) for purpose, found in spent.items()},
    )  # fmt: skip


def _origins(board: Board) -> dict[str, int]:
    """Where the better answers come from -> pairs, the most frequent first."""
    return dict(Counter(pair.origin for pair in board.all(PreferencePair)).most_common())


def _held(board: Board) -> dict[str, int]:
    counts = Counter(item.reason for item in board.all(Standing) if item.state == "held")
    return dict(counts.most_common())


def _summary(
    row: CycleRow, cycle: Cycle, evaluations: Sequence[Evaluation], deployed: Sequence[Deployment],
    counts: Mapping[str, Counts],
) -> str:  # fmt: skip
    """What happened, in a few sentences that need no manual."""
    board, items = cycle.board, cycle.board.all(Interaction)
    pairs = len(board.all(PreferencePair))
    if not items:
        return (
            "Nothing to learn from: the store holds no answered request. "
            "Import logs, or send traffic through the gateway."
        )
    if not pairs and not evaluations:
        return (
            f"{len(items)} interactions were read; none of them gives a better answer than the one that was given, "
            "so there is nothing to train. What serves keeps serving."
        )
    users, held = len({i.user or i.session or i.id for i in items}), _held(board)
    rules = sum(bool(rule.merged_from) for rule in board.all(Rule))
    won = ", ".join(f"{count} {origin.replace('_', '-')}" for origin, count in _origins(board).items())
    made = f"{pairs} pairs ({won})" if pairs else "no pairs"
    told = [*rebasing.words(row, held.get("known_already", 0), pairs)]
    told += [f"{len(items)} interactions of {users} users gave {rules} rules and {made}."]
    told += [f"Held back: {', '.join(f'{n} {why}' for why, n in held.items()).replace('_', ' ')}."] if held else []
    least = len(told)
    told += [f"{board.get(Cluster, d.cluster_id).name}: {d.candidate} deployed, {d.reason}." for d in deployed]
    told += [
        f"{board.get(Cluster, e.cluster_id).name}, {e.candidate}: {e.outcome.replace('_', ' ')}, {e.reason}."
        for e in evaluations
        if e.outcome != "passed"
    ]
    told += [line for name in ("skipped", "live_tests") for line in cast("list[str]", cycle.kept.get(name, []))]
    told += [f"training failed: {_brief(reason)}" for reason in counts["train"].reasons]
    return " ".join(told if len(told) > least else [*told, "Nothing new passed; what served keeps serving."])


def _brief(reason: str) -> str:
    """A reason and its hint on one line; of a program's last words between them the very last."""
    first, *others = [line.strip() for line in reason.splitlines() if line.strip()]
    said = f" ({others[-2]})" if len(others) > 1 else ""
    return f"{first}{said}; {others[-1]}" if others else first


def as_json(receipt: CycleReceipt) -> dict[str, Json]:
    """As it is kept with its cycle."""
    lists: dict[str, Json] = {"clusters": list(receipt.clusters), "deployed": list(receipt.deployed)}
    return {name: cast("Json", getattr(receipt, name)) for name in CycleReceipt.__slots__} | lists
