"""The deployed adapters at the model server: loaded before they are used, unloaded after their last request.

Adapter records -> AdapterServer -> Loaded, the name at the server or why there is none
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from logtune.errors import LogtuneError
from logtune.ports import AdapterServer
from logtune.records import Adapter

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """An adapter at the model server."""

    name: str  # there; immutable
    problem: str = ""  # why it does not serve; "": it does


class Adapters:
    """Loads, counts the requests of, and unloads adapters; `folder` is what Adapter.path is relative to."""

    def __init__(self, server: AdapterServer, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._ours: set[str] = set()  # loaded by this object, so it may unload them
        self._busy: Counter[str] = Counter()  # requests under way by name at the server

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

    async def load(self, adapters: Sequence[Adapter], before: Mapping[str, Loaded]) -> dict[str, Loaded]:
        """Have the server load what it lacks; by adapter id. `before`: how they stood at the last look."""
        return {adapter.id: await self._load(adapter, before.get(adapter.id)) for adapter in adapters}

    async def unload_drained(self, wanted: Iterable[str]) -> None:
        """Unload what this object has loaded, is not wanted any more, and answers no request."""
        for name in sorted(self._ours - set(wanted)):
            if not self._busy[name]:
                await self._server.unload(name)
                self._ours.discard(name)

    async def _load(self, adapter: Adapter, before: Loaded | None) -> Loaded:
        """Load and probe. The name is the folder's, which a cycle uses too, so that each adapter is there once."""
        name, problem = adapter.path, ""
        try:
            await self._server.load(name, str(self._folder / adapter.path))
            if name not in await self._server.names():
                problem = f"adapter {adapter.id} is not listed by the model server"
        except LogtuneError as error:
            problem = f"adapter {adapter.id} could not be loaded: {error.what}"
        if not problem:
            self._ours.add(name)
        elif before is None or before.problem != problem:  # said once, though tried at every look
            LOG.warning("%s; the base model answers for it", problem)
        return Loaded(name=name, problem=problem)
