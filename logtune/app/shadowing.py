"""A candidate in the shadow: it answers requests that were answered already, for nobody; only the records are kept.

Exchange -> Shadowing.note -> ChatApi.unseen, beside serving: a few at once, so many a minute, and none when busy
"""

import asyncio
import logging
from collections import deque

from logtune.app.chat_api import ChatApi
from logtune.app.exchange import Exchange
from logtune.app.routing import Router
from logtune.app.table import Choice

LOG = logging.getLogger(__name__)
AT_ONCE = 2
MINUTE_S = 60.0


class Shadowing:
    """The shadows of one project; its methods belong to the event loop."""

    def __init__(self, chat: ChatApi, router: Router, per_minute: int) -> None:
        self._chat = chat
        self._router = router
        self._begun: deque[float] = deque(maxlen=per_minute)
        self._tasks = set[asyncio.Task[None]]()

    def note(self, exchange: Exchange) -> None:
        """Let the candidate answer too, if one is in the shadow there and there is room for it."""
        draw = exchange.choice.draw
        if draw is None or draw.propensity < 1 or exchange.error is not None or len(self._tasks) >= AT_ONCE:
            return
        choice = self._router.table.unseen(draw)
        now = asyncio.get_running_loop().time()
        full = len(self._begun) == self._begun.maxlen and now - self._begun[0] < MINUTE_S
        if choice is None or full:
            return
        self._begun.append(now)
        task = asyncio.create_task(self._answer(exchange, choice))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(self, exchange: Exchange, choice: Choice) -> None:
        try:
            await self._chat.unseen(exchange, choice)
        except Exception:  # nobody waits for it
            LOG.exception("a candidate in the shadow could not be asked")
