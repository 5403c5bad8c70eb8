"""Store -> Serving*: what answers each cluster now, and the logs and users that its adapter stands on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from logtune.records import Adapter, Deployment, Interaction, PreferencePair, Record

if TYPE_CHECKING:
    from logtune.config import Config
    from logtune.edges.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What a cluster is served by now, and the evidence its adapter stands on."""

    deployment: Deployment
    adapter: Adapter | None
    logs: int
    users: int
    share: float | None  # of the base model's parameters


def base_parameters(config: "Config") -> int | None:
    """Parameters of the base model, where it lies on this disk ready to load; nothing is fetched or converted."""
    from logtune.app.doctor import on_disk
    from logtune.edges.weights import base_model

    name = config.model.base
    return base_model(name).parameters if on_disk(name) else None


def live(store: "Store", base_parameters: int | None) -> tuple[Serving, ...]:
    """What serves each cluster now, by name; without `base_parameters` the adapters' shares are not known."""
    serving = []
    for _, deployment in sorted(store.deployments().items()):
        found = store.get(deployment.adapter_id) if deployment.adapter_id else None
        adapter = found if isinstance(found, Adapter) else None
        logs, users = logs_and_users(sources(store, adapter)) if adapter else ([], [])
        share = adapter.parameters / base_parameters if adapter and base_parameters else None
        serving.append(Serving(deployment=deployment, adapter=adapter, logs=len(logs), users=len(users), share=share))
    return tuple(serving)


def sources(store: "Store", record: Record) -> list[Interaction]:
    """The interactions that a derived record was made from; an adapter's are those of its training pairs."""
    if isinstance(record, Interaction):
        return [record]
    ids = list(getattr(record, "interaction_ids", ()))
    if isinstance(record, Adapter):
        ids = [pair.interaction_id for pair in store.load(PreferencePair, record.pair_ids)]
    elif not ids and (one := getattr(record, "interaction_id", None)):
        ids = [one]
    elif not ids and (parent := getattr(record, "adapter_id", None) or getattr(record, "cluster_id", None)):
        found = store.get(parent)
        return sources(store, found) if found else []
    return store.load(Interaction, list(dict.fromkeys(ids)))


def logs_and_users(interactions: Iterable[Interaction]) -> tuple[list[str], list[str]]:
    """Ids of the logs, and names of the users, behind interactions."""
    items = list(interactions)
    return sorted({item.log_id for item in items}), sorted({item.user for item in items if item.user})


def sum_of_shares(serving: Sequence[Serving]) -> float | None:
    """All live adapters as a share of the base model; None where one is not known."""
    shares = {item.adapter.id: item.share for item in serving if item.adapter}
    known = [share for share in shares.values() if share is not None]
    return sum(known) if len(known) == len(shares) else None
