"""One project's way through the gateway: its store, routing table, journal and answers. Projects share nothing else.

Gateway -> Lane -> chat | feedback | model rows        its life: routing table in place .. journal flushed
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from logtune.app.chat_api import ChatApi
from logtune.app.exchange import Exchange
from logtune.app.feedback_api import Answers, FeedbackApi
from logtune.app.journal import Journal
from logtune.app.live_guards import Guarding
from logtune.app.redaction import Redaction
from logtune.app.routing import Router
from logtune.app.shadowing import Shadowing
from logtune.config import Config
from logtune.config_gateway import score_range
from logtune.edges.runs import Course, course
from logtune.edges.spool_files import SPOOL
from logtune.edges.store import Store
from logtune.edges.upstream import Backend, model_row
from logtune.errors import LogtuneError, RequestError
from logtune.records import Json

LOG = logging.getLogger(__name__)
COURSE_S = 30.0  # between two looks at how cycles have gone
Done: TypeAlias = Callable[[Exchange], None]  # told of every exchange once it has ended


class Lane:
    """Holds the parts of one project; the store and the backend stay the caller's."""

    def __init__(self, store: Store, backend: Backend, router: Router, settings: Config, done: Done) -> None:
        self.store = store
        self.router = router
        self.journal = Journal(store, settings.serve, Path(settings.store.home) / SPOOL)
        self.answers = Answers()
        self.course = Course()
        self._course_at = -COURSE_S
        self._done = done
        redaction = Redaction.of(settings)
        self.chat = ChatApi(
            backend,
            router,
            self.journal,
            self.answers,
            settings.model.served_name,
            self._ended,
            redaction,
            int(settings.serve.record_mb * 2**20),
        )
        self.guarding = Guarding(store, router, self.chat, settings.experiment)
        self.shadowing = Shadowing(self.chat, router, settings.experiment.shadow_per_minute)
        ranges = {name: (worst, best) for name, worst, best in map(score_range, settings.serve.scores)}
        self.feedback = FeedbackApi(store, self.journal, self.answers, redaction, ranges)
        self._backend = backend
        self._served_name = settings.model.served_name

    async def start(self) -> None:
        """Put the routing table in place, and make what the first request would wait for."""
        await self.journal.start()
        self.guarding.start()
        await self.look(load=True)
        try:
            await self.router.warm()
        except LogtuneError as error:
            LOG.warning("the embedder does not work, every request goes to the base model: %s", error)
        except Exception:  # requests meet it too, and go to the base model
            LOG.exception("the embedder does not work; every request goes to the base model")

    async def stop(self) -> None:
        """Write what waits."""
        await self.guarding.close()
        await self.shadowing.close()
        await self.journal.close()
        await self.router.close()

    def _ended(self, exchange: Exchange) -> None:
        self.guarding.note(exchange)
        self.shadowing.note(exchange)
        self._done(exchange)

    async def look(self, *, load: bool = False) -> None:
        """Follow the store's deployments; the table in place stays when that fails. `load`: wait for its adapters."""
        try:
            await (self.router.refresh() if load else self.router.look())
        except Exception as error:  # noqa: BLE001  serving goes on, the next look tries again
            LOG.warning("the routing table could not be refreshed: %s", error)
        await self._follow_course()

    async def _follow_course(self) -> None:
        """Know how cycles have gone, for the metrics."""
        now = time.monotonic()
        if now - self._course_at < COURSE_S:
            return
        self._course_at = now
        try:
            self.course = await asyncio.to_thread(course, self.store, time.time())
        except Exception as error:  # noqa: BLE001  serving goes on, the next look tries again
            LOG.warning("how cycles have gone could not be read: %s", error)

    async def rows(self) -> list[dict[str, Json]]:
        """The backend's models, and what is deployed beside them."""
        try:
            rows = await self._backend.models()
        except RequestError as error:
            LOG.warning("the model server lists no models: %s", error)
            rows = [model_row(self._served_name, 0)]
        listed = {row.get("id") for row in rows}
        live = [name for name in self.router.table.live() if name not in listed]
        return [*rows, *(model_row(name, 0, self._served_name) for name in live)]
