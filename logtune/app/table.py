"""The routing table: which cluster a query belongs to, which of its arms a user is in, and what answers there.

Routed, unit -> RoutingTable -> Choice

The table is one value and is swapped as a whole, so a request sees all of a deployment or nothing of it.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt

from logtune.records import SHADOW, CandidateKind, Cluster, Deployment, Draw, Experiment, Step, UnitKind
from logtune.stages.cluster import Routed, Routes
from logtune.stages.experiment import BASE, CANDIDATE
from logtune.stages.lots import lot, step_at

Row: TypeAlias = npt.NDArray[np.float32]  # a unit vector, shape (D,)
Place: TypeAlias = tuple[str, str]  # name of a cluster, name of an arm
WITH_ADAPTER = ("expert", "critic")
LOTS = 100_000  # of recent units that a test remembers


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Where one request goes, and why."""

    kind: CandidateKind = "base"
    adapter: str | None = None  # adapter id; None: the base model
    model: str = ""  # the adapter's name at the server; "": the base model
    cluster: str | None = None  # name of the cluster; None: out of distribution, or not routed
    arm: str | None = None  # the arm the unit is in, also where the base model has to stand in for its candidate
    similarity: float | None = None
    rules: tuple[str, ...] = ()  # added to the prompt
    reason: str = ""
    draw: Draw | None = None  # how the arm was drawn; None: it was not

    def given_up(self, reason: str) -> "Choice":
        """The base model instead."""
        return replace(self, kind="base", adapter=None, model="", rules=(), reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """An adapter at the model server."""

    name: str  # there; immutable
    problem: str = ""  # why it does not serve; "": it does


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One of the candidates that share a cluster's traffic."""

    name: str
    kind: CandidateKind
    share: float = 1.0  # 0..1 of the units
    adapter: str | None = None  # adapter id
    rules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A live test as the table sees it. All processes that know a step by the time it comes into force agree on it."""

    experiment: str  # id
    steps: tuple[Step, ...]
    lots: dict[str, float] = field(default_factory=dict, compare=False)  # by unit: a hash is worth remembering

    def draw(self, unit: str, at: float) -> tuple[bool, Draw] | None:
        """Whether a unit gets the candidate at a moment, and how that was drawn; None: the test has not begun."""
        step = step_at(self.steps, at)
        if step is None:
            return None
        drawn = self.lots.get(unit)
        if drawn is None:
            if len(self.lots) >= LOTS:
                self.lots.clear()
            drawn = self.lots[unit] = lot(self.experiment, unit)
        ours = drawn < step.share
        kind = cast("UnitKind", unit.partition(":")[0])
        chance = step.share if ours else 1 - step.share
        return ours, Draw(experiment=self.experiment, unit=kind, lot=drawn, propensity=chance)

    def ended(self) -> "Trial":
        """The base for everybody, from now on."""
        last = self.steps[-1]
        return replace(self, steps=(*self.steps, replace(last, action="rollback", share=0.0, since=0.0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Arms:
    """All arms of a cluster: one, or those of a live test, the base's first."""

    arms: tuple[Arm, ...]
    trial: Trial | None = None

    def of(self, unit: str, at: float) -> tuple[Arm, Draw | None]:
        """The arm of a unit (`statistics.unit_of`) at a moment."""
        drawn = self.trial.draw(unit, at) if self.trial else None
        return (self.arms[0], None) if drawn is None else (self.arms[drawn[0]], drawn[1])


def arms_of_test(test: Experiment, steps: tuple[Step, ...], base: Arms, rules: tuple[str, ...] = ()) -> Arms:
    """The arms of a live test: what serves, and the candidate."""
    (before,) = base.arms
    share = steps[-1].share
    adapter = test.adapter_id if test.candidate in WITH_ADAPTER else None
    ours = Arm(name=CANDIDATE, kind=test.candidate, adapter=adapter, rules=rules, share=share)
    return Arms(arms=(replace(before, name=BASE, share=1 - share), ours), trial=Trial(experiment=test.id, steps=steps))


def plain(deployment: Deployment, rules: tuple[str, ...] = ()) -> Arms:
    """A deployment that has its cluster to itself: one arm with all units."""
    kind: CandidateKind = deployment.candidate
    if kind in WITH_ADAPTER and deployment.adapter_id is None:
        kind = "base"
    adapter = deployment.adapter_id if kind in WITH_ADAPTER else None
    arm = Arm(name=BASE if kind == "base" else CANDIDATE, kind=kind, adapter=adapter, rules=rules)
    return Arms(arms=(arm,))


@dataclass(frozen=True, kw_only=True)
class RoutingTable:
    """What is deployed, and how its adapters stand."""

    clusters: tuple[Cluster, ...] = ()
    arms: Mapping[str, Arms] = field(default_factory=dict)  # by cluster id
    adapters: Mapping[str, Loaded] = field(default_factory=dict)  # by adapter id
    standby: Mapping[Place, Arm] = field(default_factory=dict)  # what served there before, while the arm cannot
    routes: Routes | None = None  # of the clusters, where they were made ready beforehand

    def nearest(self, vector: Row) -> Routed:
        """The cluster of a query with this unit vector, shape (D,)."""
        return (self.routes or Routes(self.clusters)).nearest(vector)

    def choose(self, routed: Routed, unit: str) -> Choice:
        """What answers a query of a unit (`statistics.unit_of`)."""
        cluster = routed.cluster
        if cluster is None:
            alien = routed.similarity <= -1.0  # what `nearest` says when it could compare with none
            reason = "no deployed cluster was made with this embedder" if alien else "out of distribution"
            return Choice(similarity=None if alien else routed.similarity, reason=reason)
        arms, name = self.arms[cluster.id], named(cluster)
        arm, draw = arms.of(unit, time.time())
        choice = Choice(cluster=name, arm=arm.name, similarity=routed.similarity, draw=draw)
        if problem := self._problem(arm):
            earlier = self.standby.get((name, arm.name))
            if earlier is None or self._problem(earlier):
                return replace(choice, reason=problem)
            return self._served(choice, earlier, f"{problem}; {earlier.adapter or earlier.kind} serves on")
        what = f"the base model is deployed for {name}" if arm.kind == "base" else f"deployed for {name}"
        drawn = "" if len(arms.arms) == 1 else f", arm {arm.name} by {unit.partition(':')[0]}"
        return self._served(choice, arm, what + drawn)

    def unseen(self, draw: Draw) -> Choice | None:
        """The candidate of a test that answers in the shadow; None: it does not, or cannot now."""
        for trial, choice in self._candidates(draw):
            if trial.steps[-1].action == "start" and not trial.steps[-1].share:
                return replace(choice, reason="in the shadow")
        return None

    def asked_again(self, draw: Draw) -> Choice | None:
        """The candidate of a test that may answer a request of the base's too, unseen; None: it cannot now."""
        for trial, choice in self._candidates(draw):
            if trial.steps[-1].share:
                return replace(choice, reason="asked again, after a bad answer")
        return None

    def _candidates(self, draw: Draw) -> Iterator[tuple[Trial, Choice]]:
        """The candidate of the draw's test, if it can serve."""
        for cluster in self.clusters:
            arms = self.arms[cluster.id]
            if arms.trial is not None and arms.trial.experiment == draw.experiment and not self._problem(arms.arms[-1]):
                yield arms.trial, self._served(Choice(cluster=named(cluster), arm=SHADOW, draw=draw), arms.arms[-1], "")

    def _served(self, choice: Choice, arm: Arm, reason: str) -> Choice:
        model = self.adapters[arm.adapter].name if arm.adapter else ""
        return replace(choice, kind=arm.kind, adapter=arm.adapter, model=model, rules=arm.rules, reason=reason)

    def _problem(self, arm: Arm) -> str:
        """Why an arm cannot serve; "": it can."""
        if arm.kind == "rules" and not arm.rules:
            return "the rules that are deployed are not active any more"
        if arm.kind not in WITH_ADAPTER:
            return ""
        loaded = self.adapters.get(arm.adapter or "")
        return f"adapter {arm.adapter} is not in the store" if loaded is None else loaded.problem

    def asked_for(self, model: str) -> Choice:
        """A model that the request names itself: an adapter by its id or its name, or whatever the server knows."""
        for adapter, loaded in self.adapters.items():
            if model in (adapter, loaded.name):
                return Choice(kind="expert", adapter=adapter, model=loaded.name, reason="the request names its model")
        return Choice(model=model, reason="the request names its model")

    def live(self) -> tuple[str, ...]:
        """Names of the adapters that serve."""
        return tuple(sorted(loaded.name for loaded in self.adapters.values() if not loaded.problem))

    def problems(self) -> dict[str, str]:
        """Adapter id -> why it does not serve."""
        return {adapter: loaded.problem for adapter, loaded in self.adapters.items() if loaded.problem}

    def with_adapters(self, adapters: Mapping[str, Loaded]) -> "RoutingTable":
        """The table once adapters stand otherwise: what stood in for an arm goes when the arm itself can serve."""
        table = replace(self, adapters=adapters)
        needed = {place: arm for place, arm in self.standby.items() if table.serving().get(place) == arm}
        kept = {arm.adapter for arms in self.arms.values() for arm in arms.arms}
        kept |= {arm.adapter for arm in needed.values()}
        return replace(table, standby=needed, adapters={name: adapters[name] for name in adapters if name in kept})

    def serving(self) -> dict[Place, Arm]:
        """What answers in each place now: its own arm, else the one that stands in."""
        places = [((named(cluster), arm.name), arm) for cluster in self.clusters for arm in self.arms[cluster.id].arms]
        found: dict[Place, Arm] = {}
        for place, own in places:
            usable = [arm for arm in (own, self.standby.get(place)) if arm is not None and not self._problem(arm)]
            found |= {place: usable[0]} if usable else {}
        return found


def named(cluster: Cluster) -> str:
    """What a cluster is called in records and headers."""
    return cluster.name or cluster.id
