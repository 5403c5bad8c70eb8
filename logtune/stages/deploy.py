"""What serves a cluster, what served it before, and how much lives. In -> out: Deployment* -> Deployment, shares.

The deployments of a cluster name form a chain, each naming in `previous_id` the one it replaces. A rollback is a new
deployment that restores an older state, so nothing is ever lost or rewritten. `plan` says what changes in a cycle.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from logtune.errors import InputError
from logtune.ids import identified
from logtune.records import Action, Adapter, CandidateKind, Deployment

# What serves: its kind, its adapter, and without an adapter the cluster whose rules or prompt it is ("" otherwise).
State: TypeAlias = "tuple[CandidateKind, str | None, str]"
NOTHING: State = ("base", None, "")


def rollback(cluster_name: str, history: Iterable[Deployment], now: float, reason: str) -> Deployment:
    """What served `cluster_name` before what serves now: an earlier candidate, at last the base model.

    A second rollback goes on back, not forth again. The adapter budget is not asked: getting away from a bad candidate
    comes first. Raises InputError when nothing was ever deployed, or when nothing earlier is left.
    """
    rows = _chain(row for row in history if row.cluster_name == cluster_name)
    if not rows:
        raise InputError(f"cluster '{cluster_name}' was never deployed", "logtune deployments list shows what was")
    stack = _stack(rows)
    if len(stack) == 1:
        raise InputError(
            f"cluster '{cluster_name}' is already served by the base model; nothing earlier is left to roll back to",
            "logtune deployments list shows its history; a candidate that somebody new votes for deploys again",
        )
    state, cluster_id = stack[-2]
    return following(rows[-1], cluster_name, cluster_id, state, "rollback", reason, now)


def to_base(cluster_name: str, history: Iterable[Deployment], now: float, reason: str) -> Deployment:
    """The base model in place of all that ever served `cluster_name`; InputError where it serves already."""
    rows = _chain(row for row in history if row.cluster_name == cluster_name)
    if not rows or state_of(rows[-1]) == NOTHING:
        raise InputError(f"cluster '{cluster_name}' is already served by the base model", "logtune deployments list")
    return following(rows[-1], cluster_name, rows[0].cluster_id, NOTHING, "rollback", reason, now)


def restorable(history: Iterable[Deployment]) -> list[State]:
    """What rollbacks of one cluster name would restore, one after the other; at last nothing but the base model."""
    rows = _chain(history)
    return [state for state, _ in _stack(rows)[-2::-1]] if rows else []


def _stack(rows: Sequence[Deployment]) -> list[tuple[State, str]]:
    """States, each with the cluster it was proven on: the base model first, what serves last."""
    stack: list[tuple[State, str]] = [(NOTHING, rows[0].cluster_id)]
    for row in rows:
        if row.action in ("deploy", "retire"):
            stack.append((state_of(row), row.cluster_id))
        elif row.action == "rollback":
            while len(stack) > 1 and stack[-1][0] != state_of(row):
                stack.pop()
    return stack


def retired(row: Deployment, reason: str, now: float) -> Deployment:
    """The base model in place of what serves a cluster."""
    return following(row, row.cluster_name, row.cluster_id, NOTHING, "retire", reason, now)


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


def state_of(row: Deployment | None) -> State:
    """What a deployment serves with."""
    return candidate_state(row.candidate, row.adapter_id, row.cluster_id) if row else NOTHING


def candidate_state(kind: CandidateKind, adapter_id: str | None, cluster_id: str) -> State:
    """What would serve with a candidate."""
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


def following(
    previous: Deployment | None,
    name: str,
    cluster_id: str,
    state: State,
    action: Action,
    reason: str,
    now: float,
    verdict_id: str | None = None,
) -> Deployment:
    """The deployment of a cluster name that comes after `previous`."""
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
