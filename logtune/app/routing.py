"""Which model answers a request: nearest cluster, then what is deployed there.

last user message -> vector -> stages.cluster.Routes -> RoutingTable -> Choice

Routing never fails a request: whatever goes wrong sends it to the base model, and the reason is recorded.
"""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from logtune.app.adapters import Adapters, Loaded
from logtune.app.batching import Batcher
from logtune.edges.store import Store
from logtune.ports import Embedder
from logtune.records import Adapter, CandidateKind, Cluster, Deployment
from logtune.stages.cluster import Routes

Row: TypeAlias = npt.NDArray[np.float32]  # a unit vector, shape (D,)
LOG = logging.getLogger(__name__)
EMBED_S = 5.0  # a query not embedded by then goes to the base model
CACHED = 10_000  # choices for recent queries
SERVED = ("expert", "critic")  # candidates with an adapter of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Where one request goes, and why."""

    kind: CandidateKind = "base"
    adapter: str | None = None  # adapter id; None: the base model
    model: str = ""  # the adapter's name at the server; "": the base model
    cluster: str | None = None  # name of the cluster; None: out of distribution, or not routed
    arm: str | None = None
    similarity: float | None = None
    reason: str = ""

    def given_up(self, reason: str) -> "Choice":
        """The base model instead."""
        return replace(self, kind="base", adapter=None, model="", reason=reason)


@dataclass(frozen=True, kw_only=True)
class RoutingTable:
    """What is deployed, as one value that is swapped as a whole."""

    clusters: tuple[Cluster, ...] = ()
    deployments: Mapping[str, Deployment] = field(default_factory=dict)  # by cluster id
    adapters: Mapping[str, Loaded] = field(default_factory=dict)  # by adapter id

    def choose(self, vector: Row) -> Choice:
        """The candidate of the cluster nearest to a unit vector, shape (D,)."""
        if not self.clusters:
            return Choice(reason="nothing is deployed")
        routed = self._routes.nearest(vector)
        if routed.cluster is None:
            alien = routed.similarity <= -1.0  # what `nearest` says when it could compare with none
            reason = "no deployed cluster was made with this embedder" if alien else "out of distribution"
            return Choice(similarity=None if alien else routed.similarity, reason=reason)
        return self._deployed(routed.cluster, routed.similarity)

    @cached_property
    def _routes(self) -> Routes:
        return Routes(self.clusters)

    def _deployed(self, cluster: Cluster, similarity: float) -> Choice:
        deployment, name = self.deployments[cluster.id], cluster.name or cluster.id
        base = Choice(cluster=name, similarity=similarity)
        if deployment.candidate not in ("base", *SERVED):
            return replace(base, reason=f"candidate '{deployment.candidate}' cannot be served yet")
        loaded = self.adapters.get(deployment.adapter_id or "")
        if deployment.candidate == "base" or loaded is None:
            return replace(base, reason=f"the base model is deployed for {name}")
        if loaded.problem:
            return replace(base, reason=loaded.problem)
        reason = f"deployed for {name}"
        return replace(
            base, kind=deployment.candidate, adapter=deployment.adapter_id, model=loaded.name, reason=reason
        )  # fmt: skip

    def asked_for(self, model: str) -> Choice:
        """A model that the request names itself: an adapter by its id or its name, or whatever the server knows."""
        for adapter, loaded in self.adapters.items():
            if model in (adapter, loaded.name):
                return Choice(kind="expert", adapter=adapter, model=loaded.name, reason="the request names its model")
        return Choice(model=model, reason="the request names its model")

    def live(self) -> tuple[str, ...]:
        """Names of the adapters that serve."""
        return tuple(sorted(loaded.name for loaded in self.adapters.values() if not loaded.problem))


class Router:
    """Holds the table, refreshes it from the store, and embeds queries off the event loop."""

    def __init__(self, store: Store, embedder: Embedder, adapters: Adapters) -> None:
        self.table = RoutingTable()
        self.adapters = adapters
        self._store = store
        self._seen: dict[str, str] = {}  # cluster name -> id of the deployment that the table holds
        self._choices: OrderedDict[bytes, Choice] = OrderedDict()  # of the present table, by hash of the query
        self._reloading = asyncio.Lock()
        self._embed: Batcher[str, Row] = Batcher("embed", _rows(embedder), most=64)

    async def choose(self, text: str) -> Choice:
        """Where a query goes."""
        if not self.table.clusters:
            return Choice(reason="nothing is deployed")
        if not text.strip():
            return Choice(reason="no user text to route by")
        try:
            return await self._remembered(text)
        except TimeoutError:
            return Choice(reason=f"routing failed: the query was not embedded within {EMBED_S:g} s")
        except Exception as error:  # routing must not fail a request; the reason is kept
            LOG.exception("routing failed")
            return Choice(reason=f"routing failed: {type(error).__name__}: {error}"[:200])

    def lost(self, adapter: str) -> None:
        """The server does not know an adapter of the table: the base model answers until the next look loads it."""
        adapters = dict(self.table.adapters)
        if adapter in adapters:
            adapters[adapter] = replace(adapters[adapter], problem=f"the model server has lost {adapter}")
            self.table = replace(self.table, adapters=adapters)
            self._choices.clear()

    async def refresh(self) -> bool:
        """Reload when the store's deployments have changed or an adapter is still missing; True when it did."""
        deployments = await asyncio.to_thread(self._store.deployments)
        changed = {name: deployment.id for name, deployment in deployments.items()} != self._seen
        if changed or any(loaded.problem for loaded in self.table.adapters.values()):
            await self.reload(deployments)
        await self.adapters.unload_drained(loaded.name for loaded in self.table.adapters.values())
        return changed

    async def reload(self, deployments: Mapping[str, Deployment] | None = None) -> None:
        """Read what is deployed, load and probe its adapters, then put the new table in place at once."""
        async with self._reloading:
            found = await asyncio.to_thread(self._store.deployments) if deployments is None else deployments
            active = [deployment for deployment in found.values() if deployment.action != "retire"]
            clusters = await asyncio.to_thread(self._store.load, Cluster, [item.cluster_id for item in active])
            wanted = sorted({item.adapter_id for item in active if item.adapter_id and item.candidate in SERVED})
            adapters = await asyncio.to_thread(self._store.load, Adapter, wanted)
            states = await self.adapters.load(adapters, self.table.adapters)
            by_cluster = {item.cluster_id: item for item in active}
            self.table = RoutingTable(clusters=tuple(clusters), deployments=by_cluster, adapters=states)
            self._choices.clear()
            self._seen = {name: deployment.id for name, deployment in found.items()}
        LOG.info("routing table: %d clusters, adapters %s", len(clusters), ", ".join(self.table.live()) or "none")

    async def warm(self) -> None:
        """Embed one text, so that the first request need not wait for the model to load."""
        await self._embed.submit("warm up")

    async def close(self) -> None:
        """End the embedding thread."""
        await self._embed.close()

    async def _remembered(self, text: str) -> Choice:
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if key in self._choices:
            self._choices.move_to_end(key)
            return self._choices[key]
        vector = await asyncio.wait_for(self._embed.submit(text), EMBED_S)
        choice = self._choices[key] = self.table.choose(vector)
        if len(self._choices) > CACHED:
            self._choices.popitem(last=False)
        return choice


def _rows(embedder: Embedder) -> Callable[[Sequence[str]], list[Row]]:
    def embed(texts: Sequence[str]) -> list[Row]:
        return list(embedder.embed(texts))

    return embed
