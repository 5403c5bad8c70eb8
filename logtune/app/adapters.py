"""The deployed adapters at the model server: loaded and proven before they are used, unloaded after their last request.

Adapter records -> look, bring, unload_drained at the AdapterServer -> Loaded: the name there, or why it does not serve

This is the only place that decides what a serving model server holds. It looks at what the server lists, not at what
it once loaded, so a server that was started again gets its adapters back before a request has to fail.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from logtune.app.samples import Sample
from logtune.app.table import Loaded
from logtune.edges.adapter_folder import checked
from logtune.errors import LogtuneError, ModelError
from logtune.ports import AdapterServer
from logtune.records import Adapter

LOG = logging.getLogger(__name__)
MOST_LOOKS = 32  # between two tries of an adapter that fails again and again: about a minute
GRACE_LOOKS = 3  # an adapter stays so long after its last use here: another process may follow the store a look later


class Unchanged(ModelError):
    """An adapter that was loaded and does nothing."""


class Adapters:
    """Loads, counts the requests of, and unloads adapters; `home` is what Adapter.path is relative to."""

    def __init__(self, server: AdapterServer, home: Path) -> None:
        self.states: dict[str, Loaded] = {}  # by adapter id
        self.unreachable = ""  # why the server's list could not be read at the last look
        self.events: Counter[str] = Counter()  # loaded, failed, lost, unloaded: how often each has happened
        self._server = server
        self._home = home
        self._known: dict[str, Adapter] = {}  # wanted, and what stands in for it; by id
        self._wanted: frozenset[str] = frozenset()  # ids
        self._failures: Counter[str] = Counter()  # in a row, by id
        self._rest: dict[str, int] = {}  # looks until the next try, by id
        self._ours: set[str] = set()  # names loaded or taken over by this object, so it may unload them
        self._busy: Counter[str] = Counter()  # requests under way, by name
        self._idle: Counter[str] = Counter()  # looks at which nothing wanted or used an adapter of ours, by name

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Keep an adapter loaded while a request uses it."""
        self._busy[name] += 1
        try:
            yield
        finally:
            self._busy[name] -= 1
            if not self._busy[name]:
                del self._busy[name]

    def want(self, adapters: Sequence[Adapter]) -> None:
        """These shall be loaded; what was wanted before stays until `keep` leaves it out."""
        self._wanted = frozenset(adapter.id for adapter in adapters)
        for adapter in adapters:
            self._known[adapter.id] = adapter
            self.states.setdefault(adapter.id, Loaded(name=adapter.path, problem=f"{adapter.id} is not loaded yet"))

    def keep(self, ids: Collection[str]) -> None:
        """Forget all but these and what is wanted."""
        for gone in set(self._known) - set(ids) - self._wanted:
            for memory in (self._known, self.states, self._failures, self._rest):
                memory.pop(gone, None)

    def lost(self, adapter: str) -> None:
        """The server does not know an adapter: it does not serve until it is loaded again."""
        if adapter in self.states and not self.states[adapter].problem:
            self.events["lost"] += 1
            self.states[adapter] = replace(self.states[adapter], problem=f"the model server has lost {adapter}")
            LOG.warning("the model server has lost %s; it is loaded again", adapter)

    async def look(self) -> None:
        """Compare with what the server lists. One that does not answer changes nothing: it may only be busy."""
        self._rest = {adapter: looks - 1 for adapter, looks in self._rest.items() if looks > 1}
        needed = {adapter.path for adapter in self._known.values()}
        self._idle = Counter({n: self._idle[n] + 1 for n in self._ours - needed if not self._busy[n]})
        if not self._known and not self._ours:
            return
        try:
            listed = set(await self._server.names())
        except LogtuneError as error:
            if not self.unreachable:
                LOG.warning("the model server's adapters cannot be listed: %s", error.what)
            self.unreachable = error.what
            return
        self.unreachable = ""
        for adapter, state in list(self.states.items()):
            if state.name not in listed:
                self.lost(adapter)

    def due(self) -> Adapter | None:
        """An adapter that is wanted, does not serve, and may be tried now."""
        waiting = (name for name in sorted(self._wanted) if self.states[name].problem and name not in self._rest)
        found = None if self.unreachable else next(waiting, None)
        return self._known[found] if found else None

    async def bring(self, adapter: Adapter, samples: Sequence[Sample]) -> None:
        """Check, load and prove one adapter; a failure is noted in its state, and rests longer each time."""
        problem = await self._tried(adapter, samples)
        if adapter.id not in self._known:
            return  # nobody wants it any more; it is unloaded when it is idle
        if problem:
            self._failed(adapter, problem)
            return
        self._failures.pop(adapter.id, None)
        self.events["loaded"] += 1
        self.states[adapter.id] = Loaded(name=adapter.path)
        LOG.info("%s serves as %s", adapter.id, adapter.path)

    async def unload_drained(self) -> None:
        """Unload what this object has loaded, nothing wants any more, and no request has used for some looks."""
        for name in self.drained():
            if name not in {adapter.path for adapter in self._known.values()}:  # wanted again meanwhile
                await self._unload(name)

    def drained(self) -> list[str]:
        """What `unload_drained` would unload."""
        idle = (name for name, looks in self._idle.items() if looks >= GRACE_LOOKS and not self._busy[name])
        return [] if self.unreachable else sorted(idle)

    async def _tried(self, adapter: Adapter, samples: Sequence[Sample]) -> str:
        """Why an adapter cannot serve; "": it can. One that does nothing does not stay loaded."""
        try:
            await self._load(adapter)
            await self._prove(adapter, samples)
        except Unchanged as error:
            if not self._busy[adapter.path]:
                await self._unload(adapter.path)
            return error.what
        except LogtuneError as error:
            return error.what
        except Exception as error:  # serving goes on with what serves
            LOG.exception("loading %s failed", adapter.id)
            return f"{type(error).__name__}: {error}"[:200]
        return ""

    async def _load(self, adapter: Adapter) -> None:
        """The name is the folder's, which a cycle uses too, so that each adapter is at the server once."""
        folder = await asyncio.to_thread(checked, self._home, adapter)
        await self._server.load(adapter.path, str(folder))
        self._ours.add(adapter.path)
        if adapter.path not in await self._server.names():
            raise ModelError("the model server does not list it")

    async def _prove(self, adapter: Adapter, samples: Sequence[Sample]) -> None:
        """One prompt on which the model speaks otherwise than without the adapter is enough."""
        for sample in samples:
            if await self._server.changes(adapter.path, sample.prompt, sample.answer):
                return
        raise Unchanged(
            f"the model says the same with it and without on {len(samples)} prompts of its training",
            "the server may ignore it; check that it was started with LoRA enabled",
        )

    def _failed(self, adapter: Adapter, why: str) -> None:
        """Note it; said once, though tried again and again."""
        problem = f"adapter {adapter.id} could not be loaded: {why.replace(str(self._home), 'adapters')}"
        self.events["failed"] += 1
        self._failures[adapter.id] += 1
        self._rest[adapter.id] = min(2 ** (self._failures[adapter.id] - 1), MOST_LOOKS)
        if self.states[adapter.id].problem != problem:
            LOG.warning("%s; what served before serves on, else the base model", problem)
        self.states[adapter.id] = Loaded(name=adapter.path, problem=problem)

    async def _unload(self, name: str) -> None:
        try:
            await self._server.unload(name)
        except LogtuneError as error:  # tried again at the next look
            LOG.warning("%s is not needed any more and could not be unloaded: %s", name, error.what)
            return
        self._ours.discard(name)
        del self._idle[name]
        self.events["unloaded"] += 1
