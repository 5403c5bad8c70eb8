"""Single items in, batches out: what arrives while a batch is under way makes up the next one.

item -> Batcher -> function of a list, in one thread of its own -> the item's own result
work -> Worker -> its result, on the event loop

Under light load a batch is one item and waits for nobody; under load batches grow by themselves.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")
T = TypeVar("T")


class Worker:
    """One thread that does one thing after the other, and tells the event loop with a single call each time.

    The thread begins with the first call; it is a daemon, so that work which never returns cannot hold up the end.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._started: threading.Thread | None = None

    def call(self, work: Callable[[], T], done: Callable[[T], None], failed: Callable[[Exception], None]) -> None:
        """Do `work` when its turn comes; then `done` with its result, or `failed`, is called on the event loop."""
        loop = asyncio.get_running_loop()

        def job() -> None:
            try:
                result = work()
            except Exception as error:  # noqa: BLE001  `failed` gets it
                _tell(loop, failed, error)
            else:
                _tell(loop, done, result)

        if self._started is None:
            self._started = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._started.start()
        self._jobs.put(job)

    def ask(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        """A future of what `work` gives or raises."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.call(work, lambda result: _settle(future, result), lambda error: _fail(future, error))
        return future

    def stop(self) -> None:
        """End the thread after what was asked of it."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


class Batcher(Generic[In, Out]):
    """Runs `work` (a list in, a list of the same length out) off the event loop, one batch at a time, in order."""

    def __init__(self, name: str, work: Callable[[Sequence[In]], Sequence[Out]], most: int = 256) -> None:
        self._work = work
        self._most = most
        self._waiting: deque[tuple[In, asyncio.Future[Out]]] = deque()
        self._worker = Worker(name)
        self._running = False
        self._idle: asyncio.Future[None] | None = None  # set once nothing is left, for `close`

    def submit(self, item: In) -> "asyncio.Future[Out]":
        """Queue `item` now; the future gives its result, or raises what `work` raised."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Out] = loop.create_future()
        self._waiting.append((item, future))
        if not self._running:
            self._running = True
            loop.call_soon(self._next)  # what else arrives in this turn of the loop comes along
        return future

    async def close(self) -> None:
        """Finish what is queued, then stop the thread."""
        if self._running:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle
        self._worker.stop()

    def _next(self) -> None:
        self._running = bool(self._waiting)
        if not self._running:
            if self._idle is not None:
                _settle(self._idle, None)
            return
        batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]

        def work() -> list[tuple[asyncio.Future[Out], Out]]:
            results = self._work([item for item, _ in batch])
            return list(zip((future for _, future in batch), results, strict=True))

        def done(results: Sequence[tuple[asyncio.Future[Out], Out]]) -> None:
            for future, result in results:
                _settle(future, result)
            self._next()

        def failed(error: Exception) -> None:
            for _, future in batch:
                _fail(future, error)
            self._next()

        self._worker.call(work, done, failed)


def _tell(loop: asyncio.AbstractEventLoop, hears: Callable[[T], None], what: T) -> None:
    try:
        loop.call_soon_threadsafe(hears, what)
    except RuntimeError:  # the loop has ended, and with it whoever waited
        return


def _settle(future: "asyncio.Future[T]", result: T) -> None:
    if not future.done():  # its waiter was cancelled
        future.set_result(result)


def _fail(future: "asyncio.Future[T]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
