"""How fast a server is asked: fewer calls at once when it says it is busy, and no storm of repeated calls.

The limit falls by half when the server asks for less and grows by one a round of answers (additive increase,
multiplicative decrease, Chiu and Jain 1989). Repeats are paid from a budget that answers fill, as in gRPC's retry
throttling: a server that fails for everybody is not asked four times by everybody.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

REPEATS_AT_FIRST = 20.0
REPEATS_PER_ANSWER = 0.2


class Pace:
    """Calls under way at once, between 1 and `most`; of one event loop."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(most)
        self.running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._falls = 0  # how often the limit fell

    @asynccontextmanager
    async def place(self) -> AsyncIterator[int]:
        """Wait for a place, and hold it; first come, first served. Gives the number that `busy` wants."""
        await self._enter()
        try:
            yield self._falls
        finally:
            self.running -= 1
            self._wake()

    def answered(self) -> None:
        """The server answered: a little more may be asked at once."""
        self.limit = min(float(self.most), self.limit + 1 / self.limit)
        self._wake()

    def busy(self, since: int) -> None:
        """The server asked for less in answer to a call that began at `since`; of calls begun together one counts."""
        if since == self._falls:
            self._falls += 1
            self.limit = max(1.0, self.limit / 2)

    async def _enter(self) -> None:
        if self.running < int(self.limit) and not self._waiting:
            self.running += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the place came at the same moment: pass it on
                self.running -= 1
                self._wake()
            raise

    def _wake(self) -> None:
        while self._waiting and self.running < int(self.limit):
            turn = self._waiting.popleft()
            if not turn.done():
                self.running += 1
                turn.set_result(None)


class RepeatBudget:
    """Repeats that may still be made; every answer pays for a part of one."""

    def __init__(self, first: float = REPEATS_AT_FIRST) -> None:
        self._most = first
        self.left = first

    def answered(self) -> None:
        """An answer came."""
        self.left = min(self._most, self.left + REPEATS_PER_ANSWER)

    def take(self) -> bool:
        """Whether one more repeat may be made now."""
        if self.left < 1:
            return False
        self.left -= 1
        return True
