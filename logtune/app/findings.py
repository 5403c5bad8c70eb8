"""Store, cycle -> Findings: what a cycle found, counted and put in order, for whoever shows it (report, dashboard).

Only counting: what it shows was computed, decided and stored by the cycle.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

from logtune.app.influence import Decisions, newest, of_rule, told
from logtune.app.live_tests import LiveTest, newest_tests
from logtune.app.reflective import Reflective, reflective
from logtune.app.serving_now import Serving, live, sum_of_shares
from logtune.edges.ledger import RuleLedger
from logtune.errors import InputError
from logtune.records import (
    Adapter,
    Cluster,
    Decision,
    Deployment,
    Evaluation,
    Failure,
    Gap,
    Interaction,
    Json,
    PreferencePair,
    Rule,
    Signal,
    Standing,
)
from logtune.stages.answer import CRITICS
from logtune.stages.implicit import Reliability, is_act, recorded_acts, reliability

if TYPE_CHECKING:
    from logtune.edges.store import CycleRow, Store

EXAMPLES = 3  # of each reason, signal and rule
TEACHES = {"positive": 0, "rule": 1, "nothing": 2}

R = TypeVar(
    "R",
    Interaction,
    Signal,
    Decision,
    Rule,
    PreferencePair,
    Standing,
    Cluster,
    Gap,
    Adapter,
    Evaluation,
    Deployment,
    Failure,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Interactions that the filter judged alike."""

    reason: str
    teaches: str
    count: int
    share: float  # of all interactions
    examples: tuple[Interaction, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalKind:
    """Readings of one kind."""

    kind: str
    count: int
    explicit: int  # from feedback that a user sent; the rest is read from the next turn
    polarity: float  # mean, -1..1
    confidence: float  # mean, 0..1
    examples: tuple[Signal, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A rule and the users' words behind it."""

    rule: Rule
    evidence: tuple[str, ...]
    rests_on: str  # on how many users, and whose words are held back
    decided: tuple[str, ...] = ()  # by people, about the rule


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBack:
    """Lessons that are not believed, for one reason."""

    reason: str
    count: int  # interactions, rules and pairs
    users: int  # whose words they are; 0 for rules
    examples: tuple[Interaction, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A training run: checkpoints of the same pairs."""

    last: Adapter  # the checkpoint that knows all losses
    judged: Adapter | None  # the one that went to the gate


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A cluster with all that came of it."""

    cluster: Cluster
    users: int
    pairs: int
    gap: Gap | None
    runs: tuple[Run, ...]
    evaluations: tuple[Evaluation, ...]
    deployment: Deployment | None  # of this cycle
    examples: tuple[Interaction, ...]

    @property
    def name(self) -> str:
        """What people call it."""
        return self.cluster.name or self.cluster.label or self.cluster.id

    @property
    def novelty(self) -> float | None:
        """The measured gap, 0 known .. 1 new."""
        return self.gap.novelty if self.gap else None

    @property
    def judged(self) -> Evaluation | None:
        """The evaluation that decided: of what serves now, else one that passed, else the last."""
        passed = [item for item in self.evaluations if item.outcome == "passed"]
        served = (self.deployment.candidate, self.deployment.adapter_id) if self.deployment else None
        chosen = [item for item in passed if (item.candidate, item.adapter_id) == served]
        return next(reversed(chosen or passed or self.evaluations), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Items that one stage could not do for the same reason."""

    stage: str
    error: str
    count: int
    example: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything a cycle found."""

    cycle: "CycleRow"
    summary: str
    first_at: float | None  # of the interactions
    last_at: float | None
    interactions: int
    users: int
    feedback: int
    corrected: int  # interactions with a correction or complaint
    reasons: tuple[Reason, ...]
    signals: tuple[SignalKind, ...]
    acts: tuple[Reliability, ...]  # kinds of acts that were seen
    lessons: tuple[Lesson, ...]
    held: tuple[HeldBack, ...]  # the most frequent reason first
    groups: tuple[Group, ...]
    serving: tuple[Serving, ...]
    reflective: tuple[Reflective, ...]  # answers that took several calls, whenever they were given
    deployments: tuple[Deployment, ...]  # decided in this cycle
    troubles: tuple[Trouble, ...]
    share: float | None  # live adapters' parameters / base parameters
    stages: Mapping[str, Mapping[str, Json]]
    live_tests: tuple[LiveTest, ...] = ()  # the newest, whenever they began

    @property
    def dropped(self) -> int:
        """Interactions that teach nothing."""
        return sum(item.count for item in self.reasons if item.teaches == "nothing")

    @property
    def passed(self) -> tuple[Group, ...]:
        """Clusters with a candidate that passed the gate."""
        return tuple(group for group in self.groups if group.judged and group.judged.outcome == "passed")


def gather(store: "Store", cycle_id: str | None = None, base_parameters: int | None = None) -> Findings:
    """What the cycle found (default: the newest); InputError where there is no such cycle.

    `base_parameters` of the base model: without it the adapters' share is not known.
    """
    cycle = find_cycle(store, cycle_id)
    interactions = {item.id: item for item in _made(store, Interaction, cycle)}
    signals = _made(store, Signal, cycle)
    groups = _groups(store, cycle, interactions)
    times = [item.at for item in interactions.values()]
    serving = live(store, base_parameters)
    return Findings(
        cycle=cycle,
        summary=str(cycle.receipt.get("summary") or ""),
        first_at=min(times, default=None),
        last_at=max(times, default=None),
        interactions=len(interactions),
        users=len({item.user for item in interactions.values() if item.user}),
        feedback=sum(1 for _ in store.feedback()),
        corrected=len({item.interaction_id for item in signals if item.polarity < 0 and not is_act(item)}),
        reasons=reasons(_made(store, Decision, cycle), interactions),
        signals=signal_kinds(signals),
        acts=tuple(row for row in _trust(signals) if row.seen),
        lessons=_lessons(store, cycle, {item.id: item for item in signals}, interactions),
        held=_held(store, cycle, interactions),
        groups=groups,
        serving=serving,
        reflective=_reflective(store),
        deployments=tuple(_made(store, Deployment, cycle)),
        troubles=_troubles(_made(store, Failure, cycle)),
        share=sum_of_shares(serving),
        stages=cast("Mapping[str, Mapping[str, Json]]", cycle.receipt.get("stages") or {}),
        live_tests=newest_tests(store),
    )


def trust_in_acts(store: "Store", cycle_id: str | None = None) -> tuple[Reliability, ...]:
    """How far what users did agrees with what they said, over the interactions of a cycle (default: the newest)."""
    return _trust(_made(store, Signal, find_cycle(store, cycle_id)))


def _trust(signals: Sequence[Signal]) -> tuple[Reliability, ...]:
    said: dict[str, list[Signal]] = defaultdict(list)
    for signal in signals:
        said[signal.interaction_id].append(signal)
    return reliability(recorded_acts(signals), said)


def _reflective(store: "Store") -> tuple[Reflective, ...]:
    """All logs are read for it, so only where a critic was ever deployed."""
    critics = any(item.candidate in CRITICS for item in store.list(Deployment, limit=None))
    return reflective(store.logs()) if critics else ()


def find_cycle(store: "Store", cycle_id: str | None) -> "CycleRow":
    """The cycle with that id or beginning of one, or the newest."""
    cycles = store.cycles(None)
    if not cycles:
        raise InputError("no cycle has run yet", "logtune cycle runs one")
    found = [row for row in cycles if cycle_id is None or row.id.startswith(cycle_id)]
    if not found:
        raise InputError(
            f"there is no cycle '{cycle_id}'", f"the newest are: {', '.join(row.id for row in cycles[:5])}"
        )
    return found[0]


def _made(store: "Store", kind: type[R], cycle: "CycleRow") -> list[R]:
    return store.list(kind, limit=None, cycle_id=cycle.id)


def reasons(decisions: Iterable[Decision], interactions: Mapping[str, Interaction]) -> tuple[Reason, ...]:
    """Decisions counted by reason, what teaches first, then the most frequent."""
    found: dict[tuple[str, str], list[Decision]] = defaultdict(list)
    for decision in decisions:
        found[decision.teaches, decision.reason].append(decision)
    total = sum(map(len, found.values()))
    counted = [
        Reason(
            reason=reason, teaches=teaches, count=len(items), share=len(items) / total,
            examples=tuple(_known((item.interaction_id for item in items), interactions)[:EXAMPLES]),
        )
        for (teaches, reason), items in found.items()
    ]  # fmt: skip
    return tuple(sorted(counted, key=lambda item: (TEACHES[item.teaches], -item.count, item.reason)))


def _known(ids: Iterable[str], interactions: Mapping[str, Interaction]) -> list[Interaction]:
    return [interactions[key] for key in ids if key in interactions]


def signal_kinds(signals: Iterable[Signal]) -> tuple[SignalKind, ...]:
    """Signals counted by kind, the most frequent first; the surest ones as examples."""
    found: dict[str, list[Signal]] = defaultdict(list)
    for signal in signals:
        found[signal.kind].append(signal)
    kinds = [
        SignalKind(
            kind=kind, count=len(items), explicit=sum(item.feedback_id is not None for item in items),
            polarity=sum(item.polarity for item in items) / len(items),
            confidence=sum(item.confidence for item in items) / len(items),
            examples=tuple(sorted(items, key=lambda item: (-item.confidence, item.id))[:EXAMPLES]),
        )
        for kind, items in found.items()
    ]  # fmt: skip
    return tuple(sorted(kinds, key=lambda item: (-item.count, item.kind)))


def _lessons(
    store: "Store", cycle: "CycleRow", signals: Mapping[str, Signal], interactions: Mapping[str, Interaction]
) -> tuple[Lesson, ...]:
    """Rules from feedback, those of most users first, with the users' words; a merged one stands for its parts."""
    rules, standings = _made(store, Rule, cycle), newest(_made(store, Standing, cycle))
    decisions = Decisions(RuleLedger(store).every(), [rule for rule in rules if rule.merged_from])
    parts = {part for rule in rules for part in rule.merged_from}
    ordered = sorted(
        (rule for rule in rules if rule.from_feedback and rule.id not in parts),
        key=lambda rule: (-rule.distinct_users, -len(rule.interaction_ids), rule.text),
    )
    found = []
    for rule in ordered:
        on = of_rule(rule, _known(rule.interaction_ids, interactions), standings, decisions)
        decided = tuple(told(line) for line in on.lines)
        found.append(Lesson(rule=rule, evidence=_evidence(rule, signals), rests_on=on.sentence, decided=decided))
    return tuple(found)


def _held(store: "Store", cycle: "CycleRow", interactions: Mapping[str, Interaction]) -> tuple[HeldBack, ...]:
    found: dict[str, list[str]] = defaultdict(list)
    for item in _made(store, Standing, cycle):
        if item.state == "held":
            found[item.reason].append(item.lesson_id)
    rows = []
    for reason, lessons in found.items():
        items = _known(lessons, interactions)
        users = len({item.user or item.session or item.log_id for item in items})
        rows.append(HeldBack(reason=reason, count=len(lessons), users=users, examples=tuple(items[:EXAMPLES])))
    return tuple(sorted(rows, key=lambda row: (-row.count, row.reason)))


def _evidence(rule: Rule, signals: Mapping[str, Signal]) -> tuple[str, ...]:
    words = (signals[key].evidence.strip() for key in rule.signal_ids if key in signals)
    return tuple(dict.fromkeys(text for text in words if text))[:EXAMPLES]


def _groups(store: "Store", cycle: "CycleRow", interactions: Mapping[str, Interaction]) -> tuple[Group, ...]:
    """The clusters of the cycle, the largest first, each with its gap, runs, evaluations and deployment."""
    paired = Counter(pair.interaction_id for pair in _made(store, PreferencePair, cycle))
    gaps = {gap.cluster_id: gap for gap in _made(store, Gap, cycle)}
    adapters = _by_cluster(_made(store, Adapter, cycle))
    evaluations = _by_cluster(_made(store, Evaluation, cycle))
    deployments = {item.cluster_id: item for item in reversed(_made(store, Deployment, cycle))}
    groups = []
    for cluster in _made(store, Cluster, cycle):
        members = _known(cluster.interaction_ids, interactions)
        groups.append(Group(
            cluster=cluster, users=len({item.user for item in members if item.user}),
            pairs=sum(paired[key] for key in cluster.interaction_ids), gap=gaps.get(cluster.id),
            runs=_runs(adapters.get(cluster.id, []), evaluations.get(cluster.id, [])),
            evaluations=tuple(evaluations.get(cluster.id, [])),
            deployment=deployments.get(cluster.id), examples=tuple(members[:EXAMPLES]),
        ))  # fmt: skip
    return tuple(sorted(groups, key=lambda group: (-len(group.cluster.interaction_ids), group.name)))


C = TypeVar("C", Adapter, Evaluation)


def _by_cluster(items: Iterable[C]) -> dict[str, list[C]]:
    found: dict[str, list[C]] = defaultdict(list)
    for item in items:
        found[item.cluster_id].append(item)
    return found


def _runs(adapters: Iterable[Adapter], evaluations: Iterable[Evaluation]) -> tuple[Run, ...]:
    """Checkpoints of the same kind, rank and pairs are one run."""
    judged = {item.adapter_id for item in evaluations}
    found: dict[tuple[str, int, tuple[str, ...]], list[Adapter]] = defaultdict(list)
    for adapter in sorted(adapters, key=lambda item: item.epoch):
        found[adapter.kind, adapter.rank, adapter.pair_ids].append(adapter)
    return tuple(
        Run(last=run[-1], judged=next((item for item in run if item.id in judged), None)) for run in found.values()
    )


def _troubles(failures: Iterable[Failure]) -> tuple[Trouble, ...]:
    found: dict[tuple[str, str], list[Failure]] = defaultdict(list)
    for failure in failures:
        found[failure.stage, failure.error].append(failure)
    troubles = [Trouble(stage=s, error=e, count=len(items), example=items[0]) for (s, e), items in found.items()]
    return tuple(sorted(troubles, key=lambda item: (-item.count, item.stage, item.error)))
