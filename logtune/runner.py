"""How a stage's units of work are run: what is unchanged is skipped, what is done is committed with its key, in one
transaction a batch; an item that fails is kept as a Failure; a stage that fails too often stops the cycle.

So many units are under way at any time: a slow one holds up no other.

A unit's key is the stage, its version, the hash of its settings, and the ids of all that its result depends on. A cycle
can be killed at any point: the next run finds the finished units by their keys and goes on.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from logtune.config import Config
from logtune.config_gateway import Settings
from logtune.errors import BudgetSpent, LogtuneError, ModelError, TooManyFailures
from logtune.ids import digest, identified
from logtune.ports import ChatCall, ChatReply, Tools
from logtune.records import (
    CandidateKind,
    Derived,
    Failure,
    Feedback,
    Interaction,
    LogRecord,
    PreferencePair,
    Rule,
    RuleEntry,
)
from logtune.stages.held_out import Shares

R = TypeVar("R", bound=Derived)
Given = TypeVar("Given")
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
class Voted:
    """Who has which side at the gate, as earlier cycles say; times are those of logs."""

    epochs: tuple[tuple[float, Shares], ...] = ()  # users first seen up to a time: their shares
    since: float = 0.0  # users first seen by then had a vote once, and train
    proven: float = 0.0  # users first seen by then had one when something was last proven
    proofs: Mapping[str, float] = field(default_factory=dict)  # cluster name -> newest vote for what serves it


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
    before: Mapping[str, Derived]  # clusters and adapters of the cycle before, and of what serves, by id
    progress: Callable[[str], None]
    earlier: tuple[str, ...] = ()  # ids of the clusters of the cycle before
    routes: Mapping[str, str] = field(default_factory=dict)  # cluster name -> id of the cluster that the gateway knows
    prompted: Mapping[str, Prompted] = field(default_factory=dict)  # cluster name -> what served there without adapter
    lessons: Mapping[str, tuple[PreferencePair, ...]] = field(default_factory=dict)  # cluster name -> taught earlier
    aged: Mapping[str, Interaction] = field(default_factory=dict)  # pair id -> its interaction, of pairs that were
    # taught earlier and whose logs are no longer read
    voted: Voted = Voted()
    pruned: Mapping[str, float] = field(default_factory=dict)  # adapters whose weights were removed -> when
    passed: frozenset[str] = frozenset()  # those of them that have ever passed a gate
    base_since: float = 0.0  # when the base model became the base; 0: there never was another
    ledger: tuple[RuleEntry, ...] = ()  # what people decided about rules, oldest first
    replies: dict[ChatCall, ChatReply] = field(default_factory=dict)  # the gate's, so that no call is made twice
    kept: dict[str, object] = field(default_factory=dict)  # what several rows ask for, worked out once


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
        results = await _run_units(stage, cycle, todo, commit)
        made: dict[str, Sequence[Derived]] = dict(finished)
        failures: list[Failure] = []
        for key in units:  # in their order, whatever was done before or first: so a resumed cycle sees the same board
            result = results.get(key, made.get(key, ()))
            if isinstance(result, Failure):
                failures.append(result)
            cycle.board.add((result,) if isinstance(result, Failure) else result)
        total += Counts(
            done=len(todo) - len(failures), unchanged=len(units) - len(todo), failed=len(failures),
            reasons=tuple(failure.reason for failure in failures[:3]),
        )  # fmt: skip
        _check(stage, cycle.config, total)
    return total


Result = Sequence[Derived] | Failure


async def _run_units(stage: Stage, cycle: Cycle, todo: Sequence[tuple[str, Unit]], commit: Commit) -> dict[str, Result]:
    """key -> result of every unit; raises BudgetSpent. Whatever stops it, what is done stays done."""
    results: dict[str, Result] = {}
    ready: list[tuple[str, Result]] = []  # done and not committed
    waiting, running, spent = deque(todo), dict[asyncio.Task[Result | BudgetSpent], str](), list[BudgetSpent]()
    try:
        while running or (waiting and not spent):
            while waiting and not spent and len(running) < stage.together:
                key, unit = waiting.popleft()
                running[asyncio.create_task(_attempt(stage, unit))] = key
            for task in (await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED))[0]:
                key, result = running.pop(task), task.result()
                if isinstance(result, BudgetSpent):
                    spent.append(result)
                else:
                    ready.append((key, result))
            if len(ready) >= stage.together:
                results |= _commit(stage, cycle, ready, commit)
                if len(todo) > stage.together:
                    cycle.progress(f"{stage.name}: {len(results)} of {len(todo)}")
    finally:
        for task in running:
            task.cancel()
        results |= _commit(stage, cycle, ready, commit)
    if spent:
        raise spent[0]
    return results


def _commit(stage: Stage, cycle: Cycle, ready: list[tuple[str, Result]], commit: Commit) -> dict[str, Result]:
    """Commit what is ready, and empty the list."""
    # a failure is kept under a key of this cycle, so that the next cycle tries the item again
    commit(stage.name, [(f"{k}-{cycle.id}", (r,)) if isinstance(r, Failure) else (k, r) for k, r in ready])
    taken = dict(ready)
    ready.clear()
    return taken


async def _attempt(stage: Stage, unit: Unit) -> Result | BudgetSpent:
    try:
        return await unit.work()
    except BudgetSpent as spent:
        return spent  # no failure of the item
    except LogtuneError as error:
        return _failure(unit.inputs[0] if unit.inputs else stage.name, stage.name, error)


def _failure(record_id: str, stage: str, error: LogtuneError) -> Failure:
    return identified(Failure(id="", record_id=record_id, stage=stage, error=type(error).__name__, reason=str(error)))


async def each(
    cycle: Cycle, stage: str, asked: Mapping[str, Awaitable[Given]]
) -> tuple[dict[str, Given], list[Failure]]:
    """What a model gives for each item of one unit, by id, and a Failure for each that it fails on.

    ModelError, the first one, where it fails on so many that a stage would stop: then the unit is tried again later.
    """

    async def one(work: Awaitable[Given]) -> Given | ModelError:
        try:
            return await work
        except ModelError as error:
            return error

    replies = dict(zip(asked, await asyncio.gather(*map(one, asked.values())), strict=True))
    errors = {name: reply for name, reply in replies.items() if isinstance(reply, ModelError)}
    rate = len(errors) / len(replies) if replies else 0.0
    if errors and (rate == 1 or (len(replies) >= FEW and rate > cycle.config.cycle.max_failure_rate)):
        raise next(iter(errors.values()))
    given = {name: reply for name, reply in replies.items() if not isinstance(reply, ModelError)}
    return given, [_failure(name, stage, error) for name, error in errors.items()]


def _check(stage: Stage, config: Config, counts: Counts) -> None:
    total = counts.done + counts.unchanged + counts.failed
    rate = counts.failed / total if total else 0.0
    if stage.stops and total >= FEW and rate > config.cycle.max_failure_rate:
        raise TooManyFailures(
            f"{stage.name} failed on {counts.failed} of {total} items; first: {counts.reasons[0]}",
            "logtune failures list shows each; cycle.max_failure_rate sets the share that stops a cycle",
        )
