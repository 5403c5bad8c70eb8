"""Store -> the gap of every cluster by several methods, beside what the gate decided there.

Reads what cycles have left; the teacher's predictions are remembered from them, so that it asks little or nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from logtune.candidates import known_beforehand
from logtune.config import Config
from logtune.edges.store import CycleRow, Store
from logtune.errors import LogtuneError
from logtune.ports import Coverage, Tools
from logtune.records import Cluster, Evaluation, Interaction, PreferencePair, Rule
from logtune.runner import Board, Cycle
from logtune.stages.gap import assess
from logtune.stages.gap_methods import Agreement, Foretold, agreements, foretold
from logtune.views import pairs_of, rules_by_interaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One cluster."""

    cluster_id: str
    name: str
    interactions: int
    gaps: Mapping[str, float | None]  # method -> 0 known .. 1 new; None: nothing to measure it on
    gate: Mapping[str, str]  # candidate -> outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Several methods on the same clusters."""

    reflect_at: float
    clusters: tuple[Measured, ...]
    agreements: tuple[Agreement, ...]
    foretold: tuple[Foretold, ...]
    left_out: Mapping[str, str]  # method -> why it measured nothing


async def compare(
    store: Store, tools: Tools, config: Config, methods: Mapping[str, Coverage], left_out: Mapping[str, str],
    progress: Callable[[str], None], cycles: int = 10,
) -> Comparison:  # fmt: skip
    """All clusters of the newest `cycles` that ended, each measured once by every method."""
    measured: dict[str, Measured] = {}
    evaluations = store.list(Evaluation, limit=None)
    for row in [row for row in store.cycles(limit=None) if row.ended_at is not None][:cycles]:
        cycle = _board(store, tools, config, row, progress)
        for group in cycle.board.all(Cluster):
            if group.id not in measured:
                progress(f"{group.name or group.id}: {len(group.interaction_ids)} interactions")
                measured[group.id] = await _measured(cycle, group, methods, evaluations)
    found = {
        method: {name: gap for name, item in measured.items() if (gap := item.gaps[method]) is not None}
        for method in methods
    }
    reflect_at = config.gap.reflect_at
    return Comparison(
        reflect_at=reflect_at, clusters=tuple(measured.values()), left_out=left_out,
        agreements=tuple(agreements(found, reflect_at)), foretold=tuple(foretold(found, evaluations, reflect_at)),
    )  # fmt: skip


def _board(store: Store, tools: Tools, config: Config, row: CycleRow, progress: Callable[[str], None]) -> Cycle:
    """The records of a cycle that a gap rests on."""
    board = Board()
    for kind in (Cluster, Rule, PreferencePair, Interaction):
        board.add(store.list(kind, limit=None, cycle_id=row.id))
    return Cycle(
        id=row.id, config=config, tools=tools, board=board, logs={}, feedback={}, serving={}, before={},
        progress=progress,
    )  # fmt: skip


async def _measured(
    cycle: Cycle, group: Cluster, methods: Mapping[str, Coverage], evaluations: Sequence[Evaluation]
) -> Measured:
    known, _ = await known_beforehand(cycle, group)
    rules_of, pairs = rules_by_interaction(cycle), pairs_of(cycle, group)
    gaps = {
        method: assess(group, rules_of, known, pairs, coverage, cycle.config.gap).novelty
        for method, coverage in methods.items()
    }
    gate: dict[str, str] = {}
    for item in reversed(evaluations):  # the newest of each candidate holds
        gate |= {item.candidate: item.outcome} if item.cluster_id == group.id else {}
    return Measured(cluster_id=group.id, name=group.name, interactions=len(group.interaction_ids), gaps=gaps, gate=gate)


def available(
    names: Sequence[str], make: Callable[[str], Coverage]
) -> tuple[dict[str, Coverage], dict[str, str]]:  # fmt: skip
    """The methods that can be made, and why the others cannot."""
    made: dict[str, Coverage] = {}
    left_out: dict[str, str] = {}
    for name in names:
        try:
            made[name] = make(name)
        except LogtuneError as error:
            left_out[name] = f"{error.what}; {error.hint}" if error.hint else error.what
    return made, left_out
