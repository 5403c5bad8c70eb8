"""What changes in serving. In -> out: Verdict*, Cluster*, what serves -> Deployment*. Pure: an edge applies it.

Nothing is taken away before something stands in for it: a cluster that has become part of another one serves on until
that one has a candidate of its own, and what splits off keeps the adapter that served it. All adapters together stay
within the budget: for a new one those go that are worth clearly less, else a cheaper candidate that passed serves.
Where more serves than the budget allows, the least worth goes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from logtune.errors import InputError
from logtune.records import Adapter, CandidateKind, Cluster, Deployment, Verdict
from logtune.stages.budget import Limits, beyond, room
from logtune.stages.deploy import (
    NOTHING,
    State,
    candidate_state,
    following,
    live_adapters,
    live_share,
    retired,
    state_of,
)
from logtune.stages.experiment import RUNNER_UP

HEIRS = 0.5  # share of its members that must be in other clusters for one to live on in them
SPLIT = 0.15  # share of its members that makes another cluster a part of what it was


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What serves when a plan is made, and what is known about it."""

    current: Mapping[str, Deployment]  # the newest of each cluster name
    adapters: Mapping[str, Adapter]  # by id: all that serve or are promoted
    now: float
    limits: Limits | None = None  # None: no budget is kept
    moved: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # live cluster -> cluster of this cycle ->
    # share of its members that are there now
    live: Mapping[str, Cluster] = field(default_factory=dict)  # by name, as the gateway routes to them
    tested: Mapping[str, str] = field(default_factory=dict)  # cluster name -> adapter that a live test has there
    leaving: Mapping[str, str] = field(default_factory=dict)  # live cluster without an heir -> why what serves it goes
    barred: Mapping[str, str] = field(default_factory=dict)  # verdict id -> why its candidate must not serve again


Refused = Mapping[str, tuple[Deployment, str]]  # cluster name -> a change that turned out to be too much, and why


@dataclass(slots=True)
class _Draft:
    at: Serving
    serving: dict[str, Deployment]
    made: list[Deployment] = field(default_factory=list)
    gone: frozenset[str] = frozenset()  # live clusters whose name no cluster of this cycle bears
    refused: Refused = field(default_factory=dict)

    def take(self, changes: Sequence[Deployment]) -> None:
        self.made.extend(changes)
        self.serving.update({change.cluster_name: change for change in changes})


def plan(verdicts: Sequence[Verdict], clusters: Sequence[Cluster], at: Serving) -> list[Deployment]:
    """The deployments that change something.

    A name that no cluster bears any more keeps what serves it, until what it became has a candidate of its own, or its
    lessons hold no more, or nobody asks (a cycle without any cluster says nothing, and retires none). Of each name the
    best promoted verdict (by lower bound) deploys; a rollback verdict on what serves brings the base model back at
    once; all others leave what serves. A promotion that finds no room in the budget, or whose candidate was rolled back
    before, is refused: a `keep` that says why, unless another candidate that passed may serve.
    """
    return _planned(verdicts, clusters, at, {})


def _planned(
    verdicts: Sequence[Verdict], clusters: Sequence[Cluster], at: Serving, refused: Refused
) -> list[Deployment]:
    names = {cluster.id: cluster.name for cluster in clusters}
    left = {name for name, row in at.current.items() if state_of(row) != NOTHING} - set(names.values())
    draft = _Draft(at, dict(at.current), gone=frozenset(left if clusters else ()), refused=refused)
    for name in sorted(draft.gone):
        heir = _successor(at, name)
        if not heir and name in at.leaving:
            draft.take([retired(at.current[name], f"cluster '{name}' retires: {at.leaving[name]}", at.now)])
        elif heir and _covers(at, heir, name):
            draft.take([retired(at.current[name], f"cluster '{name}' is part of '{heir}' now", at.now)])
    ordered = _ordered(verdicts, names, draft)
    for name, options in ordered:
        _serve(draft, name, options)
    for name, _ in ordered:
        found = _part(draft, name, clusters)
        if found is not None:  # others were planned around it, so all is planned again without it
            return _planned(verdicts, clusters, at, {**refused, name: found})
    draft.take(_restored(draft))
    return draft.made


def no_room(verdict: Verdict, cluster_name: str, at: Serving) -> str:
    """Why a candidate would find no room once it had won its live test; "": it would."""
    change = promotion(verdict, cluster_name, at)[-1]
    return change.reason if change.action == "keep" else ""


def promotion(verdict: Verdict, cluster_name: str, at: Serving) -> list[Deployment]:
    """What a live test's verdict brings: last the deployment of its cluster, a `keep` where there is no room for it."""
    draft = _Draft(at, dict(at.current))
    offered = _offered(verdict, at.adapters)
    before = at.current.get(cluster_name)
    change = following(before, cluster_name, verdict.cluster_id, offered, "deploy", verdict.reason, at.now, verdict.id)
    found = _with_room(draft, [change])
    return [*found[1:], change] if isinstance(found, list) else [_kept(draft, change, found)]


def _serve(draft: _Draft, name: str, options: Sequence[Verdict]) -> None:
    """The first of the candidates that there is room for; `options`: the best first."""
    if name in draft.refused:
        draft.take([_kept(draft, *draft.refused[name])])
        return
    refused: tuple[Deployment, str] | None = None
    for verdict in options:
        change = _change(name, verdict, draft, f"; a better one was {refused[1]}" if refused else "")
        if change is None:
            break
        if change.action == "rollback":
            draft.take([change])
            return
        found = draft.at.barred.get(verdict.id) or _with_room(draft, [change, *_absorbed(draft, name)])
        if isinstance(found, list):
            draft.take([*found[1:], change])
            return
        refused = refused or (change, found)
    if refused is not None and not _said(draft.serving.get(name), *refused):
        draft.take([_kept(draft, *refused)])


def _said(serving: Deployment | None, change: Deployment, reason: str) -> bool:
    """Whether an earlier cycle has kept what serves for just this."""
    before = (serving.action, serving.reason, serving.verdict_id) if serving else None
    return before == ("keep", reason, change.verdict_id)


def _change(name: str, verdict: Verdict, draft: _Draft, besides: str) -> Deployment | None:
    serving, now = draft.serving.get(name), draft.at.now
    serves = _serves(verdict, serving, draft)
    if verdict.decision == "rollback":
        if serving is None or not serves:
            return None
        return following(serving, name, serving.cluster_id, NOTHING, "rollback", verdict.reason, now, verdict.id)
    offered, reason = _offered(verdict, draft.at.adapters), f"{verdict.reason}{besides}"
    return None if serves else following(serving, name, verdict.cluster_id, offered, "deploy", reason, now, verdict.id)


def _serves(verdict: Verdict, serving: Deployment | None, draft: _Draft) -> bool:
    return _offered(verdict, draft.at.adapters) == state_of(serving) and not _renews(verdict, serving)


def _renews(verdict: Verdict, serving: Deployment | None) -> bool:
    """Whether rules beat other rules of the same cluster, which serve now."""
    base, candidate = (verdict.arms.get(name) for name in ("base", "candidate"))
    both = [arm.get("serves") for arm in (base, candidate) if isinstance(arm, dict)]
    return serving is not None and both == ["rules", "rules"] and serving.verdict_id != verdict.id


def _offered(verdict: Verdict, known: Mapping[str, Adapter]) -> State:
    arm = verdict.arms.get("candidate")
    kind = arm.get("kind") if isinstance(arm, dict) else None
    if kind is None and verdict.adapter_id is not None and verdict.adapter_id in known:
        kind = known[verdict.adapter_id].kind
    if kind is None:
        raise InputError(f"verdict {verdict.id} does not say what its candidate is", "logtune verdicts list")
    return candidate_state(cast("CandidateKind", kind), verdict.adapter_id, verdict.cluster_id)


# --- in which order ---


def _ordered(verdicts: Sequence[Verdict], names: Mapping[str, str], draft: _Draft) -> list[tuple[str, list[Verdict]]]:
    """The verdicts that may change a name, the best first; of the names first what frees parameters, then the surest
    gain.
    """
    by_name: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.cluster_id not in names:
            raise InputError(
                f"verdict {verdict.id} is about cluster {verdict.cluster_id}", "which is not in this cycle"
            )
        by_name.setdefault(names[verdict.cluster_id], []).append(verdict)
    found = [(name, options) for name, mine in by_name.items() if (options := _options(mine))]
    return sorted(found, key=lambda item: (_grows(item[1][0], item[0], draft), -_rank(item[1][0])[1], item[0]))


def _options(verdicts: Sequence[Verdict]) -> list[Verdict]:
    best = sorted(verdicts, key=_rank, reverse=True)
    if not best or best[0].decision not in ("promote", "rollback"):
        return []
    return [best[0], *(other for other in best[1:] if other.code == RUNNER_UP)]


def _rank(verdict: Verdict) -> tuple[int, float]:
    return {"rollback": 2, "promote": 1}.get(verdict.decision, 0), -1.0 if verdict.lower is None else verdict.lower


def _grows(verdict: Verdict, name: str, draft: _Draft) -> bool:
    served = draft.at.adapters.get(draft.serving[name].adapter_id or "") if name in draft.serving else None
    offered = draft.at.adapters.get(verdict.adapter_id or "")
    more = (offered.parameters if offered else 0) > (served.parameters if served else 0)
    return verdict.decision == "promote" and more


# --- clusters that merge and split ---


def _successor(at: Serving, name: str) -> str:
    """The cluster in which one that is gone lives on; "": there is none."""
    heirs = {heir: share for heir, share in at.moved.get(name, {}).items() if heir != name}
    return max(heirs, key=lambda heir: (heirs[heir], heir)) if sum(heirs.values()) >= HEIRS else ""


def _covers(at: Serving, heir: str, name: str) -> bool:
    """Whether what serves a cluster serves most of another's members already, as after a live test of the whole."""
    whole, part = at.live.get(heir), at.live.get(name)
    if whole is None or part is None or state_of(at.current.get(heir)) == NOTHING:
        return False
    members = set(part.interaction_ids)
    return len(members & set(whole.interaction_ids)) >= HEIRS * len(members) > 0


def _absorbed(draft: _Draft, name: str) -> list[Deployment]:
    """The clusters that are part of this one now: what served them goes once this one has what serves it."""
    old = [gone for gone in sorted(draft.gone) if _successor(draft.at, gone) == name]
    return [
        retired(draft.serving[gone], f"cluster '{gone}' is part of '{name}' now", draft.at.now)
        for gone in old
        if state_of(draft.serving[gone]) != NOTHING
    ]


def _part(draft: _Draft, name: str, clusters: Sequence[Cluster]) -> tuple[Deployment, str] | None:
    """Where a cluster that changes has split, its other parts keep what served them; without room for that the change
    is returned, with the reason.
    """
    before, at = draft.at.current.get(name), draft.at
    proven = (row for row in draft.made if row.cluster_name == name and row.action == "deploy" and row.verdict_id)
    change = next(proven, None)
    if before is None or change is None or state_of(before) == NOTHING:
        return None
    parts = [
        following(
            draft.serving.get(cluster.name), cluster.name, cluster.id, _moved_state(before, cluster), "deploy",
            f"it was part of '{name}', and what served it there serves on", at.now,
        )
        for cluster in clusters
        if cluster.name != name and at.moved.get(name, {}).get(cluster.name, 0.0) >= SPLIT
        if state_of(draft.serving.get(cluster.name)) == NOTHING
    ]  # fmt: skip
    if not parts:
        return None
    found = _with_room(draft, parts)
    if isinstance(found, str):
        return change, f"{found}; '{parts[0].cluster_name}' would lose what serves it"
    draft.take([*found[len(parts) :], *parts])
    return None


def _moved_state(before: Deployment, cluster: Cluster) -> State:
    return candidate_state(before.candidate, before.adapter_id, cluster.id)


def _kept(draft: _Draft, change: Deployment, reason: str) -> Deployment:
    """What serves serves on, and why."""
    name, before = change.cluster_name, draft.serving.get(change.cluster_name)
    cluster_id = before.cluster_id if before else change.cluster_id
    return following(before, name, cluster_id, state_of(before), "keep", reason, change.at, change.verdict_id)


# --- the budget ---


def _with_room(draft: _Draft, changes: Sequence[Deployment]) -> list[Deployment] | str:
    """The changes and the retirements that make room for them; a text says why they are refused."""
    limits = draft.at.limits
    if limits is None:
        return list(changes)
    after = {**draft.serving, **{change.cluster_name: change for change in changes}}
    share = _share(after, draft.at, limits)
    allowed = max(limits.budget, _share(draft.serving, draft.at, limits))
    if share <= allowed:
        return list(changes)
    going = _going(after, changes, draft, share)
    if going is None:
        return f"refused: live adapters would be {share:.3%} of the base model, the budget is {limits.budget:.3%}"
    names = [name for name, row in sorted(after.items()) if row.adapter_id in going]
    return [*changes, *(_made_way(draft, name, changes[0], limits) for name in names)]


def _share(serving: Mapping[str, Deployment], at: Serving, limits: Limits) -> float:
    """Of the base model's parameters, with what live tests will add where they are won."""
    live, known = live_adapters(serving), at.adapters
    more = 0
    for name, tested in at.tested.items():
        replaced = serving[name].adapter_id if name in serving else None
        if tested in known and tested not in live:
            more += max(0, known[tested].parameters - (known[replaced].parameters if replaced else 0))
    return live_share(serving, known, limits.base_parameters) + more / limits.base_parameters


def _restored(draft: _Draft) -> list[Deployment]:
    """What retires where more serves than the budget allows, as after it was lowered or something was rolled back."""
    limits, known = draft.at.limits, draft.at.adapters
    if limits is None:
        return []
    share = live_share(draft.serving, known, limits.base_parameters)
    live = {name: known[name].parameters for name in live_adapters(draft.serving)}
    going = beyond(live, limits.worth, round((share - limits.budget) * limits.base_parameters))
    rows = [row for _, row in sorted(draft.serving.items()) if row.adapter_id in going]
    said = f"live adapters are {share:.3%} of the base model, the budget is {limits.budget:.3%}"
    return [retired(row, f"{said}; {_worth(row, limits)}", draft.at.now) for row in rows]


def _worth(row: Deployment, limits: Limits) -> str:
    worth = limits.worth.get(row.adapter_id or "")
    return "what it is worth is not known" if worth is None else f"its gain x traffic of {worth:.3f} is the least"


def _going(
    after: Mapping[str, Deployment], changes: Sequence[Deployment], draft: _Draft, share: float
) -> tuple[str, ...] | None:
    """Ids of the adapters that make way; None: there are none that are worth so much less."""
    limits, known = cast("Limits", draft.at.limits), draft.at.adapters
    coming = {change.adapter_id for change in changes}
    live = {name: known[name].parameters for name in live_adapters(after) if name not in coming}
    worth = limits.worth
    needed = round((share - limits.budget) * limits.base_parameters)
    replaced = draft.serving.get(changes[0].cluster_name)
    comes = worth.get(changes[0].adapter_id or "")
    gained = None if comes is None else comes - worth.get((replaced.adapter_id if replaced else None) or "", 0.0)
    return room(live, worth, needed, gained)


def _made_way(draft: _Draft, name: str, change: Deployment, limits: Limits) -> Deployment:
    row = draft.serving[name]
    worth = [limits.worth.get(each or "", 0.0) for each in (row.adapter_id, change.adapter_id)]
    reason = (
        f"it makes way for '{change.cluster_name}' in the budget of {limits.budget:.3%}: its gain x traffic is "
        f"{worth[0]:.3f}, that of the other {worth[1]:.3f}"
    )
    return retired(row, reason, change.at)
