"""How a stage's units of work are run: what is unchanged is skipped, what is done is committed with its key, in one
transaction a batch; an item that fails is kept as a Failure; a stage that fails too often stops the cycle.

A unit's key is the stage, its version, the hash of its settings, and the ids of all that its result depends on. A cycle
can be killed at any point: the next run finds the finished units by their keys and goes on.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from logtune.config import Config
from logtune.config_gateway import Settings
from logtune.errors import BudgetSpent, LogtuneError, TooManyFailures
from logtune.ports import ChatCall, ChatReply, Tools
from logtune.records import CandidateKind, Derived, Failure, Feedback, LogRecord, Rule, digest, identified

R = TypeVar("R", bound=Derived)
BATCH = 64  # units committed in one transaction, and calls of a model under way at once
FEW = 5  # a stage with fewer items is not stopped for its failure rate


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of work that is done or not: the ids its result depends on, and how to do it."""

    inputs: tuple[str, ...]
    work: Callable[[], Awaitable[Sequence[Derived]]]


@dataclass(slots=True)
class Board:
    """The records of this cycle, by kind, in the order they came."""

    rows: dict[type, dict[str, Derived]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, records: Iterable[Derived]) -> None:
        """Put records on the board; the same id again changes nothing."""
        for record in records:
            self.rows[type(record)].setdefault(record.id, record)

    def all(self, kind: type[R]) -> list[R]:
        """All records of a kind."""
        return [row for row in self.rows[kind].values() if isinstance(row, kind)]

    def get(self, kind: type[R], record_id: str) -> R:
        """One record; KeyError when it is not of this cycle."""
        row = self.rows[kind][record_id]
        assert isinstance(row, kind), record_id
        return row


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompted:
    """What serves a cluster without an adapter of its own."""

    kind: CandidateKind
    cluster_id: str  # the cluster record it was proven on
    rules: tuple[Rule, ...] = ()  # told by kind "rules"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """What the units of a cycle are made from."""

    id: str
    config: Config
    tools: Tools
    board: Board
    logs: Mapping[str, LogRecord]
    feedback: Mapping[str, Feedback]
    serving: Mapping[str, str | None]  # cluster name -> adapter id that served when the cycle began; None: base
    before: Mapping[str, Derived]  # clusters and adapters of the cycle before, by id
    progress: Callable[[str], None]
    prompted: Mapping[str, Prompted] = field(default_factory=dict)  # cluster name -> what served there without adapter
    replies: dict[ChatCall, ChatReply] = field(default_factory=dict)  # the gate's, so that no call is made twice


Phase = Callable[[Cycle], Iterable[Unit]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A row of the pipeline: what it reads and writes, the settings it depends on, and how its units are made."""

    name: str
    version: str
    reads: tuple[type, ...]
    writes: tuple[type, ...]
    settings: Callable[[Config], Sequence[Settings]]
    phases: tuple[Phase, ...]  # a later phase sees what the earlier ones wrote
    stops: bool = True  # False: failures are told and never stop the cycle
    together: int = BATCH  # units under way at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a stage did."""

    done: int = 0
    unchanged: int = 0
    failed: int = 0
    reasons: tuple[str, ...] = ()  # of the first failures

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            done=self.done + other.done, unchanged=self.unchanged + other.unchanged, failed=self.failed + other.failed,
            reasons=(*self.reasons, *other.reasons)[:3],
        )  # fmt: skip


Commit = Callable[[str, Sequence[tuple[str, Sequence[Derived]]]], None]  # stage, (key, outputs)*
Load = Callable[[str, Sequence[str]], Mapping[str, Sequence[Derived]]]  # stage, keys -> outputs of the finished ones


def key_of(stage: Stage, cycle: Cycle, unit: Unit) -> str:
    """The key under which a unit's result is kept."""
    settings = [section.model_dump(mode="json") for section in stage.settings(cycle.config)]
    return digest([stage.name, stage.version, settings, list(unit.inputs)], 32)


async def run_stage(stage: Stage, cycle: Cycle, load: Load, commit: Commit) -> Counts:
    """Run every unit of a stage that is not done; raises TooManyFailures above the configured share."""
    total = Counts()
    for phase in stage.phases:
        units = {key_of(stage, cycle, unit): unit for unit in phase(cycle)}
        finished = load(stage.name, list(units))
        todo = [(key, unit) for key, unit in units.items() if key not in finished]
        done = Counts(unchanged=len(units) - len(todo))
        made: dict[str, Sequence[Derived]] = dict(finished)
        for start in range(0, len(todo), stage.together):
            done += await _run_batch(stage, cycle, todo[start : start + stage.together], made, commit)
            if len(todo) > stage.together:
                cycle.progress(f"{stage.name}: {min(start + stage.together, len(todo))} of {len(todo)}")
        for key in units:  # in the order of the units, whatever was done before: so a resumed cycle sees the same board
            cycle.board.add(made.get(key, ()))
        total += done
        _check(stage, cycle.config, total)
    return total


async def _run_batch(
    stage: Stage, cycle: Cycle, batch: Sequence[tuple[str, Unit]], made: dict[str, Sequence[Derived]], commit: Commit
) -> Counts:
    results = await asyncio.gather(*(_attempt(stage, unit) for _, unit in batch))
    pairs = list(zip(batch, results, strict=True))
    good = [(key, result) for (key, _), result in pairs if not isinstance(result, (Failure, BudgetSpent))]
    bad = [(key, result) for (key, _), result in pairs if isinstance(result, Failure)]
    # a failure is kept under a key of this cycle, so that the next cycle tries the item again
    commit(stage.name, [*good, *((f"{key}-{cycle.id}", (failure,)) for key, failure in bad)])
    spent = next((result for result in results if isinstance(result, BudgetSpent)), None)
    if spent is not None:
        raise spent  # after what was paid for is kept
    made.update(good)
    cycle.board.add(failure for _, failure in bad)
    return Counts(done=len(good), failed=len(bad), reasons=tuple(failure.reason for _, failure in bad[:3]))


async def _attempt(stage: Stage, unit: Unit) -> Sequence[Derived] | Failure | BudgetSpent:
    try:
        return await unit.work()
    except BudgetSpent as spent:
        return spent  # no failure of the item
    except LogtuneError as error:
        item = unit.inputs[0] if unit.inputs else stage.name
        return identified(
            Failure(id="", record_id=item, stage=stage.name, error=type(error).__name__, reason=str(error))
        )


def _check(stage: Stage, config: Config, counts: Counts) -> None:
    total = counts.done + counts.unchanged + counts.failed
    rate = counts.failed / total if total else 0.0
    if stage.stops and total >= FEW and rate > config.cycle.max_failure_rate:
        raise TooManyFailures(
            f"{stage.name} failed on {counts.failed} of {total} items; first: {counts.reasons[0]}",
            "logtune failures list shows each; cycle.max_failure_rate sets the share that stops a cycle",
        )
