"""A bad answer of a candidate is looked into at once: it answers what the base has just answered well, for nobody.

bad answer -> Inquiry.open        answer of the base -> Inquiry.note -> the candidate's answer to the same, unseen

A small share of the users tells little in a second. So a breach would show late where it harms few, were they all that
a guard sees. What is asked here is beside serving, in a handful, and the same for both sides; only records are kept.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from logtune.app.exchange import Exchange

LOG = logging.getLogger(__name__)
QUESTIONS = 10  # of an inquiry
BAD = 8  # bad answers to them, at least, that end a test; the base answered all of them
PAUSE_S = 5.0  # from the beginning of one to that of the next
T = TypeVar("T")


class Inquiry(Generic[T]):
    """Of one test; its methods belong to the event loop.

    `unseen` asks the candidate what the base was asked, and gives what is seen of its answer; None: it cannot answer.
    """

    def __init__(self, unseen: Callable[[Exchange], Awaitable[T | None]]) -> None:
        self.answers: list[T] = []  # of the candidate, in this inquiry
        self._unseen = unseen
        self._left = 0  # questions that may still be asked
        self._begun = float("-inf")
        self._tasks = set[asyncio.Task[None]]()

    def open(self, now: float) -> None:
        """Begin one, unless the last one has only just begun, or waits for answers: slow ones would never come."""
        if now - self._begun >= PAUSE_S and not self._tasks:
            self.answers, self._left, self._begun = [], QUESTIONS, now

    def note(self, exchange: Exchange) -> None:
        """The base has answered a request of the test; the candidate shall answer it too while an inquiry is open."""
        if self._left and exchange.error is None:
            self._left -= 1
            task = asyncio.create_task(self._ask(exchange))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Ask no more, and end what is under way."""
        self._left = 0
        for task in self._tasks:
            task.cancel()

    async def _ask(self, exchange: Exchange) -> None:
        try:
            found = await self._unseen(exchange)
        except Exception:  # nobody waits for it
            LOG.exception("a candidate could not be asked unseen")
            return
        if found is not None:
            self.answers.append(found)
