"""Which model answers a request: nearest cluster, then what is deployed there.

last user message -> its cluster -> RoutingTable -> Choice        deployments, adapters at the server -> RoutingTable

Routing never fails a request: whatever goes wrong sends it to the base model, and the reason is recorded.
"""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from logtune.app.adapters import Adapters
from logtune.app.batching import Batcher
from logtune.app.samples import samples
from logtune.app.static_router import StaticRouter
from logtune.app.table import Arm, Arms, Choice, RoutingTable, Row, arms_of_test, plain
from logtune.edges.experiments import Experiments, Led
from logtune.edges.ledger import RuleLedger
from logtune.edges.store import Store
from logtune.ports import Embedder
from logtune.records import Adapter, Cluster, Deployment
from logtune.served import proven_rules, served_rules
from logtune.stages.cluster import Routed, Routes
from logtune.stages.experiment import BASE

LOG = logging.getLogger(__name__)
LOAD_S = 60.0  # a start waits no longer for its adapters; they go on loading
EMBED_S = 5.0  # a query not embedded by then goes to the base model
STAND_IN_S = 0.5  # as EMBED_S, where the embedder only stands in for token vectors that are being made
MOST_WAITING = 512  # queries at the embedder; with more the next go to the base model at once
LONGEST = 16_384  # characters of a query that are looked at, so that no query costs the event loop much
KILLED = "the kill switch is on"
UNDEPLOYED = Arms(arms=(Arm(name=BASE, kind="base"),))
CACHED = 10_000  # recent queries whose cluster is remembered


class Router:
    """Holds the table, keeps it in line with store and model server, and embeds queries off the event loop."""

    def __init__(
        self, store: Store, embedder: Embedder, adapters: Adapters, static: StaticRouter | None = None
    ) -> None:
        self.table = RoutingTable()
        self.adapters = adapters
        self._store = store
        self._ledger = RuleLedger(store)
        self._line = 0  # of the ledger, that the table knows of
        self._static = static  # None: the embedder routes
        self._seen: dict[str, str] = {}  # cluster name -> what the table holds: a deployment and a test's newest step
        self._tests = Experiments(store)
        self._ended: set[str] = set()  # tests whose candidate does not serve any more, whatever the store says
        self.killed: Callable[[], bool] = lambda: False  # whether the base model answers everything
        self._places: OrderedDict[bytes, Routed] = OrderedDict()  # among the present clusters, by hash of the query
        self._looking = asyncio.Lock()
        self._bringing: asyncio.Task[None] | None = None
        self._waiting = 0  # queries at the embedder
        self._patience_s = EMBED_S if static is None else STAND_IN_S
        self._embed: Batcher[str, Row] = Batcher("embed", _rows(embedder), most=64)

    async def choose(self, text: str, unit: str) -> Choice:
        """Where a query of a unit (`statistics.unit_of`) goes."""
        if self.killed():
            return Choice(reason=KILLED)
        if not self.table.clusters:
            return Choice(reason="nothing is deployed")
        text = text.lstrip()[:LONGEST]
        if not text:
            return Choice(reason="no user text to route by")
        try:
            return self.table.choose(await self._place(text), unit)
        except TimeoutError as error:
            late = f"the query was not embedded within {self._patience_s:g} s"
            return Choice(reason=f"routing failed: {str(error) or late}")
        except Exception as error:  # routing must not fail a request; the reason is kept
            LOG.exception("routing failed")
            return Choice(reason=f"routing failed: {type(error).__name__}: {error}"[:200])

    def named(self, model: str) -> Choice:
        """A model that the request names itself; under the kill switch none: the server knows more than the table."""
        return Choice(reason=KILLED) if self.killed() else self.table.asked_for(model)

    def end_test(self, experiment: str) -> None:
        """The base for everybody in this test, from now on, also where the store does not know it yet."""
        self._ended.add(experiment)
        arms = {name: self._still(group) for name, group in self.table.arms.items()}
        self.table = replace(self.table, arms=arms)

    def _still(self, group: Arms) -> Arms:
        over = group.trial is not None and group.trial.experiment in self._ended
        return replace(group, trial=group.trial.ended()) if group.trial and over else group

    def lost(self, adapter: str) -> None:
        """The server does not know an adapter of the table: the base model answers until the next look loads it."""
        self.adapters.lost(adapter)
        self._swap()

    async def refresh(self) -> bool:
        """Look, and wait until all that can be loaded is; True when the store's deployments had changed."""
        changed = await self.look()
        if self._bringing is not None:
            await asyncio.wait({self._bringing}, timeout=LOAD_S)
        return changed

    async def look(self) -> bool:
        """Follow the store and the model server. What serves already serves at once; loading goes on beside it."""
        async with self._looking:
            found = await asyncio.to_thread(self._store.deployments)
            tests = await asyncio.to_thread(self._tests.running)
            line = await asyncio.to_thread(self._ledger.last)
            changed = line != self._line or _held(found, tests) != self._seen
            if changed:
                await self._follow(found, tests, decided=line != self._line)
                self._line = line
            await self.adapters.look()
            self._swap()
            if self._static is not None:
                await self._static.look(self.table.clusters, self._store)
        idle = self._bringing is None or self._bringing.done()
        if idle and (self.adapters.due() or self.adapters.drained()):
            self._bringing = asyncio.create_task(self._bring())
        return changed

    async def _follow(
        self, found: Mapping[str, Deployment], tests: Mapping[str, Led], *, decided: bool
    ) -> None:  # fmt: skip
        """A new table: what answered in each place before stands in until the new candidate can serve.

        `decided`: the ledger of rules has changed too, so rules that were told before may be told no more.
        """
        active = {name: deployment for name, deployment in found.items() if deployment.action != "retire"}
        places = {name: deployment.cluster_id for name, deployment in active.items()}
        places |= {name: test.cluster_id for name, (test, _) in tests.items()}
        clusters = await asyncio.to_thread(self._store.load, Cluster, list(places.values()))
        arms = {
            place: await asyncio.to_thread(self._arms, active.get(name), tests.get(name))
            for name, place in places.items()
        }
        ids = sorted({arm.adapter for group in arms.values() for arm in group.arms if arm.adapter})
        self.adapters.want(await asyncio.to_thread(self._store.load, Adapter, ids))
        known, routes = tuple(clusters), self.table.routes
        if known == self.table.clusters:
            known = self.table.clusters  # the same object: what is ready for it stays so
        else:
            routes = await asyncio.to_thread(Routes, clusters)
            self._places.clear()
        before = self.table.serving()
        standby = {place: arm for place, arm in before.items() if not (decided and arm.rules)}
        now = {place: self._still(group) for place, group in arms.items()}  # a guard may have ended a test meanwhile
        self.table = RoutingTable(clusters=known, arms=now, standby=standby, routes=routes)
        self._swap()
        self._seen = _held(found, tests)
        LOG.info("routing table: %d clusters", len(clusters))

    def _arms(self, deployment: Deployment | None, led: Led | None) -> Arms:
        if led is None:
            assert deployment is not None  # a place is deployed, or tested
            return self._plain(deployment)
        test, steps = led
        before = self._store.get(test.baseline_id or "")
        base = self._plain(before) if isinstance(before, Deployment) else UNDEPLOYED
        rules = tuple(rule.text for rule in proven_rules(self._store, test)) if test.candidate == "rules" else ()
        return arms_of_test(test, steps, base, rules)

    def _plain(self, deployment: Deployment) -> Arms:
        return plain(deployment, tuple(rule.text for rule in served_rules(self._store, deployment)))

    def _swap(self) -> None:
        """Put the adapters' present states into the table."""
        if self.table.adapters != self.adapters.states:
            self.table = self.table.with_adapters(self.adapters.states)
            self.adapters.keep(self.table.adapters)

    async def _bring(self) -> None:
        """Load what is due, each adapter serving from the moment it is proven; then unload what has drained."""
        while (adapter := self.adapters.due()) is not None:
            await self.adapters.bring(adapter, await asyncio.to_thread(samples, self._store, adapter))
            self._swap()
        await self.adapters.unload_drained()

    async def warm(self) -> None:
        """Embed one text, so that the first request need not wait for the model to load; not where it need not load."""
        clusters = self.table.clusters
        if self._static is None or (clusters and self._static.nearest(clusters, "warm up") is None):
            await self._embed.submit("warm up")

    async def close(self) -> None:
        """End what is being loaded and made, and the embedding thread."""
        if self._static is not None:
            await self._static.close()
        if self._bringing is not None:
            self._bringing.cancel()
            await asyncio.gather(self._bringing, return_exceptions=True)
        await self._embed.close()

    async def _place(self, text: str) -> Routed:
        """The nearest cluster: by token vectors where they are ready, else by the embedder, remembered."""
        place = None if self._static is None else self._static.nearest(self.table.clusters, text)
        return place or await self._place_by_embedder(text)

    async def _place_by_embedder(self, text: str) -> Routed:
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if key in self._places:
            self._places.move_to_end(key)
            return self._places[key]
        if self._waiting >= MOST_WAITING:
            raise TimeoutError(f"{self._waiting} queries wait for the embedder")
        self._waiting += 1
        embedded = self._embed.submit(text)
        embedded.add_done_callback(self._embedded)
        # Shielded: a query that nobody waits for any more is still embedded, and counts until it is.
        vector = await asyncio.wait_for(asyncio.shield(embedded), self._patience_s)
        place = self._places[key] = self.table.nearest(vector)
        if len(self._places) > CACHED:
            self._places.popitem(last=False)
        return place

    def _embedded(self, future: "asyncio.Future[Row]") -> None:
        self._waiting -= 1
        if not future.cancelled():
            future.exception()  # asyncio would log one that nobody saw


def _held(found: Mapping[str, Deployment], tests: Mapping[str, Led]) -> dict[str, str]:
    """By cluster name, what tells that something has changed."""
    held = {name: deployment.id for name, deployment in found.items()}
    return held | {name: f"{held.get(name)} {steps[-1].id}" for name, (_, steps) in tests.items()}


def _rows(embedder: Embedder) -> Callable[[Sequence[str]], list[Row]]:
    def embed(texts: Sequence[str]) -> list[Row]:
        return list(embedder.embed(texts))

    return embed
