"""Single items in, batches out: what arrives while a batch is under way makes up the next one.

item -> Batcher -> function of a list, in one thread of its own -> the item's own result

Under light load a batch is one item and waits for nobody; under load batches grow by themselves.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


class Batcher(Generic[In, Out]):
    """Runs `work` (a list in, a list of the same length out) off the event loop, one batch at a time, in order."""

    def __init__(self, name: str, work: Callable[[Sequence[In]], Sequence[Out]], most: int = 256) -> None:
        self._work = work
        self._most = most
        self._waiting: deque[tuple[In, asyncio.Future[Out]]] = deque()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._running: asyncio.Task[None] | None = None

    def submit(self, item: In) -> "asyncio.Future[Out]":
        """Queue `item` now; the future gives its result, or raises what `work` raised."""
        future: asyncio.Future[Out] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return future

    async def close(self) -> None:
        """Finish what is queued, then stop the thread."""
        if self._running is not None:
            await self._running
        self._thread.shutdown(wait=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            try:
                results = await loop.run_in_executor(self._thread, self._work, [item for item, _ in batch])
                pairs = list(zip(batch, results, strict=True))
            except Exception as error:  # noqa: BLE001  every waiter gets it
                self._fail(batch, error)
                continue
            for (_, future), result in pairs:
                if not future.done():  # its waiter was cancelled
                    future.set_result(result)

    def _fail(self, batch: Sequence[tuple[In, "asyncio.Future[Out]"]], error: Exception) -> None:
        for _, future in batch:
            if not future.done():
                future.set_exception(error)
