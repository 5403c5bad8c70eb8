"""The lanes of all projects in one gateway, each opened when somebody may come for it.

project -> Lanes.opened -> Lane        Lanes.look: follow every store; Lanes.stop: write what waits, close the stores
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

from logtune.app.lane import Lane
from logtune.edges.project_scope import DEFAULT
from logtune.edges.store import Store
from logtune.errors import LogtuneError, RequestError

LOG = logging.getLogger(__name__)
MOST = 100  # projects of one gateway: each holds a store, a journal and two threads


class Lanes:
    """Holds the main lane, whose store is the caller's, and the projects' lanes, whose stores are opened here."""

    def __init__(
        self, main: Lane, store: Callable[[str], Store], lane: Callable[[str, Store], Lane], most: int = MOST
    ) -> None:
        self.main = main
        self._store = store  # opens the store of a project; blocks
        self._lane = lane
        self._lanes = {DEFAULT: main}
        self._most = most
        self._opening: dict[str, asyncio.Task[Lane]] = {}

    def get(self, project: str) -> Lane:
        """The lane of a project that was opened."""
        return self._lanes[project]

    def every(self) -> list[Lane]:
        """All open lanes."""
        return list(self._lanes.values())

    def by_project(self) -> dict[str, Lane]:
        """All open lanes, by name."""
        return dict(self._lanes)

    async def opened(self, project: str) -> Lane:
        """The lane of a project, opened now if it was not; RequestError 503 when it cannot be."""
        lane = self._lanes.get(project)
        if lane is not None:
            return lane
        if project not in self._opening:
            self._opening[project] = asyncio.create_task(self._open(project))
        return await asyncio.shield(self._opening[project])  # others wait for it too, should this client go away

    async def open_all(self, projects: Iterable[str]) -> None:
        """Open the lanes of these projects, so that the first request need not wait; one that cannot be is told."""
        missing = [project for project in projects if project not in self._lanes]
        for found in await asyncio.gather(*map(self.opened, missing), return_exceptions=True):
            if isinstance(found, RequestError):  # told again at every look, as long as it holds
                LOG.warning("%s", found.what)
            elif isinstance(found, BaseException):
                raise found

    async def start(self) -> None:
        """Start the main lane."""
        await self.main.start()

    async def look(self) -> None:
        """Let every lane follow its store."""
        await asyncio.gather(*(lane.look() for lane in self.every()))

    async def stop(self) -> None:
        """Write what waits, and close what was opened here."""
        await asyncio.gather(*self._opening.values(), return_exceptions=True)
        await asyncio.gather(*(lane.stop() for lane in self.every()))
        for lane in self.every():
            if lane is not self.main:
                await asyncio.to_thread(lane.store.close)

    async def _open(self, project: str) -> Lane:
        try:
            if len(self._lanes) + len(self._opening) > self._most + 1:  # besides the main lane
                raise RequestError(
                    f"this gateway serves {self._most} projects already", 503, code="project_unavailable"
                )
            lane = await self._made(project)
            await lane.start()
            self._lanes[project] = lane
            return lane
        finally:
            del self._opening[project]

    async def _made(self, project: str) -> Lane:
        store: Store | None = None
        try:
            store = await asyncio.to_thread(self._store, project)
            return self._lane(project, store)
        except (LogtuneError, OSError) as error:
            if store is not None:
                store.close()
            LOG.error("project %s cannot be opened: %s", project, error)
            what = f"the project {project} cannot be served now"
            raise RequestError(what, 503, code="project_unavailable", headers={"retry-after": "5"}) from error
