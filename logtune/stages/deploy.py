"""Which candidate serves which cluster from now on. In -> out: Verdict*, Cluster*, what serves -> Deployment*.

Pure: an edge applies the plan. The deployments of a cluster name form a chain, each naming in `previous_id` the one it
replaces. A rollback is a new deployment that restores an older state, so nothing is ever lost or rewritten.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias, cast

from logtune.errors import InputError
from logtune.ids import identified
from logtune.records import Action, Adapter, CandidateKind, Cluster, Deployment, Verdict

# What serves: its kind, its adapter, and without an adapter the cluster whose rules or prompt it is ("" otherwise).
State: TypeAlias = "tuple[CandidateKind, str | None, str]"
NOTHING: State = ("base", None, "")


def plan(
    verdicts: Sequence[Verdict],
    clusters: Sequence[Cluster],
    current: Mapping[str, Deployment],
    adapters: Iterable[Adapter],
    now: float,
    *,
    base_parameters: int | None = None,
    budget: float = 0.005,
) -> list[Deployment]:
    """The deployments that change something; `current` holds the newest one of each cluster name.

    A name that no cluster bears any more retires (a cycle without any cluster says nothing, and retires none). Of each
    name the best promoted verdict (by lower bound) deploys; a rollback verdict on what serves brings the base model
    back at once; all others leave what serves. With `base_parameters`, a promotion that takes the live adapters beyond
    `budget` (share of the base model) is refused: a `keep` that says why. `adapters`: all that serve or are promoted.
    """
    known = {adapter.id: adapter for adapter in adapters}
    changes = _retired(clusters, current, now)
    serving = {**current, **{change.cluster_name: change for change in changes}}
    for name, verdict in _ordered(verdicts, clusters, serving, known):
        change = _change(name, verdict, serving.get(name), known, now)
        if change and change.action == "deploy" and base_parameters is not None:
            change = _within(change, serving, known, base_parameters, budget)
        if change:
            serving[name] = change
            changes.append(change)
    return changes


def rollback(cluster_name: str, history: Iterable[Deployment], now: float, reason: str) -> Deployment:
    """What served `cluster_name` before what serves now: an earlier candidate, at last the base model.

    A second rollback goes on back, not forth again. The adapter budget is not asked: getting away from a bad candidate
    comes first. Raises InputError when nothing was ever deployed, or when nothing earlier is left.
    """
    rows = _chain(row for row in history if row.cluster_name == cluster_name)
    if not rows:
        raise InputError(f"cluster '{cluster_name}' was never deployed", "logtune deployments list shows what was")
    stack: list[tuple[State, str]] = [(NOTHING, rows[0].cluster_id)]  # a state, and the cluster it was proven on
    for row in rows:
        if row.action in ("deploy", "retire"):
            stack.append((_state(row), row.cluster_id))
        elif row.action == "rollback":
            while len(stack) > 1 and stack[-1][0] != _state(row):
                stack.pop()
    if len(stack) == 1:
        raise InputError(
            f"cluster '{cluster_name}' is already served by the base model; nothing earlier is left to roll back to",
            "logtune deployments list shows its history; the next cycle that passes its gate deploys again",
        )
    state, cluster_id = stack[-2]
    return _next(rows[-1], cluster_name, cluster_id, state, "rollback", reason, now)


def promotion(
    verdict: Verdict,
    cluster_name: str,
    current: Mapping[str, Deployment],
    adapters: Iterable[Adapter],
    now: float,
    *,
    base_parameters: int | None = None,
    budget: float = 0.005,
) -> Deployment:
    """The deployment that a live test's verdict brings to its cluster; a `keep` where it would exceed the budget."""
    known, serving = {adapter.id: adapter for adapter in adapters}, current.get(cluster_name)
    state = _offered(verdict, known)
    change = _next(serving, cluster_name, verdict.cluster_id, state, "deploy", verdict.reason, now, verdict.id)
    if base_parameters is None:
        return change
    return _within(change, current, known, base_parameters, budget)


def live_adapters(current: Mapping[str, Deployment]) -> tuple[str, ...]:
    """Ids of the adapters that serve, each once, sorted."""
    return tuple(sorted({row.adapter_id for row in current.values() if row.adapter_id is not None}))


def share(adapters: Iterable[Adapter], base_parameters: int) -> float:
    """Parameters of the adapters, each counted once, as a share of the base model's; InputError for an empty base."""
    if base_parameters < 1:
        raise InputError(f"a base model of {base_parameters} parameters", "logtune doctor shows the model")
    return sum({adapter.id: adapter.parameters for adapter in adapters}.values()) / base_parameters


def live_share(current: Mapping[str, Deployment], adapters: Mapping[str, Adapter], base_parameters: int) -> float:
    """Share of the base model's parameters that serve as adapters; `adapters` by id, InputError names a missing one."""
    missing = [name for name in live_adapters(current) if name not in adapters]
    if missing:
        raise InputError(f"adapter {missing[0]} serves but is not among those known", "logtune adapters list")
    return share((adapters[name] for name in live_adapters(current)), base_parameters)


def _retired(clusters: Sequence[Cluster], current: Mapping[str, Deployment], now: float) -> list[Deployment]:
    gone = sorted(set(current) - {cluster.name for cluster in clusters}) if clusters else []
    return [
        _next(row, name, row.cluster_id, NOTHING, "retire", f"cluster '{name}' no longer exists", now)
        for name, row in ((name, current[name]) for name in gone)
        if _state(row) != NOTHING
    ]


def _ordered(
    verdicts: Sequence[Verdict],
    clusters: Sequence[Cluster],
    serving: Mapping[str, Deployment],
    known: Mapping[str, Adapter],
) -> list[tuple[str, Verdict]]:
    """One verdict a name; first what frees parameters, then the surest gain."""
    names = {cluster.id: cluster.name for cluster in clusters}
    best: dict[str, Verdict] = {}
    for verdict in verdicts:
        if verdict.cluster_id not in names:
            raise InputError(
                f"verdict {verdict.id} is about cluster {verdict.cluster_id}", "which is not in this cycle"
            )
        name = names[verdict.cluster_id]
        if name not in best or _rank(verdict) > _rank(best[name]):
            best[name] = verdict

    def order(item: tuple[str, Verdict]) -> tuple[bool, float, str]:
        name, verdict = item
        served = known.get(serving[name].adapter_id or "") if name in serving else None
        offered = known.get(verdict.adapter_id or "")
        grows = (offered.parameters if offered else 0) > (served.parameters if served else 0)
        return verdict.decision == "promote" and grows, -_rank(verdict)[1], name

    return sorted(best.items(), key=order)


def _rank(verdict: Verdict) -> tuple[int, float]:
    return {"rollback": 2, "promote": 1}.get(verdict.decision, 0), -1.0 if verdict.lower is None else verdict.lower


def _change(
    name: str, verdict: Verdict, serving: Deployment | None, known: Mapping[str, Adapter], now: float
) -> Deployment | None:
    if verdict.decision not in ("promote", "rollback"):
        return None
    offered = _offered(verdict, known)
    serves = offered == (_state(serving) if serving else NOTHING) and not _renews(verdict, serving)
    if verdict.decision == "rollback" and serving and serves:
        return _next(serving, name, serving.cluster_id, NOTHING, "rollback", verdict.reason, now, verdict.id)
    if verdict.decision == "promote" and not serves:
        return _next(serving, name, verdict.cluster_id, offered, "deploy", verdict.reason, now, verdict.id)
    return None


def _renews(verdict: Verdict, serving: Deployment | None) -> bool:
    """Whether rules beat other rules of the same cluster, which serve now."""
    base, candidate = (verdict.arms.get(name) for name in ("base", "candidate"))
    both = [arm.get("serves") for arm in (base, candidate) if isinstance(arm, dict)]
    return serving is not None and both == ["rules", "rules"] and serving.verdict_id != verdict.id


def _within(
    change: Deployment,
    serving: Mapping[str, Deployment],
    known: Mapping[str, Adapter],
    base_parameters: int,
    budget: float,
) -> Deployment:
    """The change itself, or a refusal when it takes the live adapters beyond the budget."""
    name, before = change.cluster_name, serving.get(change.cluster_name)
    after = live_share({**serving, name: change}, known, base_parameters)
    if after <= max(budget, live_share(serving, known, base_parameters)):
        return change
    reason = f"refused: live adapters would be {after:.3%} of the base model, the budget is {budget:.3%}"
    cluster_id = before.cluster_id if before else change.cluster_id
    state = _state(before) if before else NOTHING
    return _next(before, name, cluster_id, state, "keep", reason, change.at, change.verdict_id)


def _offered(verdict: Verdict, known: Mapping[str, Adapter]) -> State:
    arm = verdict.arms.get("candidate")
    kind = arm.get("kind") if isinstance(arm, dict) else None
    if kind is None and verdict.adapter_id is not None and verdict.adapter_id in known:
        kind = known[verdict.adapter_id].kind
    if kind is None:
        raise InputError(f"verdict {verdict.id} does not say what its candidate is", "logtune verdicts list")
    return _candidate(cast("CandidateKind", kind), verdict.adapter_id, verdict.cluster_id)


def _state(row: Deployment) -> State:
    return _candidate(row.candidate, row.adapter_id, row.cluster_id)


def _candidate(kind: CandidateKind, adapter_id: str | None, cluster_id: str) -> State:
    return kind, adapter_id, cluster_id if kind != "base" and adapter_id is None else ""


def _chain(rows: Iterable[Deployment]) -> list[Deployment]:
    """The newest row and all before it by `previous_id`, oldest first."""
    by_id = {row.id: row for row in rows}
    replaced = {row.previous_id for row in by_id.values()}
    tips = [row for row in by_id.values() if row.id not in replaced]
    chain: list[Deployment] = []
    row = max(tips, key=lambda tip: tip.at, default=None)
    while row is not None:
        chain.append(row)
        row = by_id.get(row.previous_id or "")
    return chain[::-1]


def _next(
    previous: Deployment | None,
    name: str,
    cluster_id: str,
    state: State,
    action: Action,
    reason: str,
    now: float,
    verdict_id: str | None = None,
) -> Deployment:
    return identified(
        Deployment(
            id="",
            cluster_id=cluster_id,
            cluster_name=name,
            candidate=state[0],
            adapter_id=state[1],
            verdict_id=verdict_id,
            previous_id=previous.id if previous else None,
            action=action,
            reason=reason,
            at=now,
        )
    )
