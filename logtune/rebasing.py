"""The base model is another one: what was proven on the old one serves no more, and the new one serves alone.

store, fingerprint, now -> Base, Deployment* that do not belong to it -> retired, their live tests ended

Rules, pairs, clusters and what people decided about them stay: a cycle measures the gap on the new base model, leaves
out what it knows (`knowing`), trains the rest and puts it to the gate.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from logtune import experiments
from logtune.edges.experiments import Experiments
from logtune.edges.store import CycleRow, Store
from logtune.records import Adapter, Deployment, Experiment, Interaction, Json, PreferencePair
from logtune.stages import deploy

LOOKED_BACK = 100  # cycles in which the base model is looked up
KEPT = ("base", "base_since", "rebased")  # of a cycle's receipt, from its beginning to its end


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The base model, as the cycles know it."""

    fingerprint: str
    since: float  # when the first cycle with it began; 0: there never was another
    before: str | None = None  # the one that it has just replaced


def last(store: Store) -> Base | None:
    """The base model of the newest cycle; None: no cycle has told one."""
    for row in store.cycles(LOOKED_BACK):
        if name := row.receipt.get("base"):
            return of_cycle(row, str(name))
    newest = store.list(Adapter, limit=1)
    return Base(fingerprint=newest[0].base, since=0.0) if newest else None


def of_cycle(row: CycleRow, fingerprint: str) -> Base:
    """The base model of a cycle that has begun with it."""
    since = row.receipt.get("base_since")
    return Base(fingerprint=fingerprint, since=float(since) if isinstance(since, (int, float)) else 0.0)


def now_on(store: Store, fingerprint: str, now: float) -> Base:
    """The base model from now on, with what it replaces."""
    before = last(store)
    if before is None or before.fingerprint == fingerprint:
        return before or Base(fingerprint=fingerprint, since=0.0)
    return Base(fingerprint=fingerprint, since=now, before=before.fingerprint)


def stale(store: Store, base: Base) -> dict[str, Deployment]:
    """Cluster name -> what is deployed there and was proven on another base model."""
    live = store.deployments()
    return {name: row for name, row in live.items() if row.candidate != "base" and misfit(store, row, base)}


def misfit(store: Store, row: Deployment | Experiment, base: Base) -> str:
    """Why a candidate must not serve on the base model; "": it may."""
    adapter = store.get(row.adapter_id) if row.adapter_id else None
    if isinstance(adapter, Adapter):
        return "" if adapter.base == base.fingerprint else f"trained on {adapter.base}; the base is {base.fingerprint}"
    return f"proven before {base.fingerprint} was the base" if row.at < base.since else ""


def retire(store: Store, base: Base, origin: str, now: float) -> list[Deployment]:
    """Give what was proven on another base model back to the base, and end its live tests. Once is enough."""
    for led in Experiments(store).running().values():
        if reason := misfit(store, led[0], base):
            at = experiments.counted(store, led, now)
            experiments.end(store, at, "stop", "moved", reason, by="rebase", now=now)
    made = [deploy.retired(row, misfit(store, row, base), now) for _, row in sorted(stale(store, base).items())]
    for row in made:
        store.deploy(row, origin)
    return made


def receipt(store: Store, base: Base, gone: Mapping[str, Deployment]) -> dict[str, Json]:
    """What a cycle remembers of its base model, and where it is a new one, of what that one took out of service."""
    told: dict[str, Json] = {"base": base.fingerprint, "base_since": base.since}
    if base.before is not None:
        clusters: dict[str, Json] = {name: row.adapter_id or row.candidate for name, row in gone.items()}
        told["rebased"] = {
            "from": base.before,
            "to": base.fingerprint,
            "clusters": clusters,
            "since": _oldest(store, gone),
        }
    return told


def _oldest(store: Store, gone: Mapping[str, Deployment]) -> float | None:
    """When the first request came of those that taught what is retired: lessons outlive the window of a cycle."""
    adapters = (store.get(row.adapter_id or "") for row in gone.values())
    ids = sorted({pair for adapter in adapters if isinstance(adapter, Adapter) for pair in adapter.pair_ids})
    pairs = (store.get(name) for name in ids)
    items = (store.get(pair.interaction_id) for pair in pairs if isinstance(pair, PreferencePair))
    return min((item.at for item in items if isinstance(item, Interaction)), default=None)


def since(row: CycleRow, window_s: float) -> float:
    """From when on a cycle reads logs."""
    told = row.receipt.get("rebased")
    oldest = told.get("since") if isinstance(told, dict) else None
    start = row.started_at - window_s
    return min(start, oldest) if isinstance(oldest, (int, float)) else start


def words(row: CycleRow, known: int, pairs: int) -> list[str]:
    """What a new base model changed, in a sentence; nothing where it is the same."""
    told = row.receipt.get("rebased")
    if not isinstance(told, dict):
        return []
    clusters = told.get("clusters")
    names = ", ".join(clusters) if isinstance(clusters, dict) else ""
    off = f" What served {names} is off until it has passed on the new one." if names else ""
    return [f"The base model is {told['to']}, before it was {told['from']}.{off} It knows {known} of {pairs} lessons."]
