"""Turns -> detections: the embedder and the small detector together, and a language model for what it is unsure of."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import fields
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

from logtune.edges import detector_file
from logtune.edges.detector_file import PACKAGED as PACKAGED
from logtune.edges.detector_file import PACKAGED_FAST as PACKAGED_FAST
from logtune.errors import LogtuneError
from logtune.ports import Chat, Detection, Detector, Embedder, Turn
from logtune.prompts import VERSION
from logtune.stages.detector import Parameters, detect, texts_of
from logtune.stages.reaction import weighed

ARRAYS = ("mean", "deviation", "landmarks", "weights", "bias")
CHUNK = 512  # turns that are read at once
Waiting = tuple[Sequence[Turn], "asyncio.Future[list[Detection]]"]


def load(path: Path = PACKAGED) -> Parameters:
    """The shipped parameters, or those in another file; ModelError when they cannot be read."""
    header, arrays = detector_file.load(path)
    return Parameters(
        **cast("dict[str, Any]", {**header, "names": tuple(cast("list[str]", header["names"])), **arrays})
    )


def save(learned: Parameters, path: Path = PACKAGED) -> None:
    """Write parameters to a file."""
    header = {f.name: getattr(learned, f.name) for f in fields(Parameters) if f.name not in ARRAYS}
    detector_file.save(header, {name: getattr(learned, name) for name in ARRAYS}, path)


class SmallDetector:
    """The detector that needs no language model. Who asks at the same time is read in one batch."""

    def __init__(self, embedder: Embedder, learned: Parameters) -> None:
        self._embedder = embedder
        self._learned = learned
        self._waiting: list[Waiting] = []

    @property
    def fingerprint(self) -> str:
        """Version of the parameters, and the embedder."""
        return f"{self._learned.name}:{self._embedder.fingerprint}"

    async def detect(self, turns: Sequence[Turn]) -> list[Detection]:
        """One detection a turn."""
        mine: asyncio.Future[list[Detection]] = asyncio.get_running_loop().create_future()
        self._waiting.append((turns, mine))
        await asyncio.sleep(0)  # others that are about to ask come first
        if not mine.done():
            self._read_all()
        return await mine

    def _read_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            found = iter(self.read([turn for turns, _ in waiting for turn in turns]))
        except LogtuneError as error:
            for _, asked in waiting:
                asked.set_exception(error)
            return
        for turns, asked in waiting:
            asked.set_result([next(found) for _ in turns])

    def read(self, turns: Sequence[Turn]) -> list[Detection]:
        """One detection a turn, now."""
        if not turns:
            return []
        texts = [text for turn in turns for text in texts_of(turn)]
        return detect(turns, self._embedder.embed(texts).reshape(len(turns), 3, -1), self._learned)


def stream(turns: Iterable[Turn], detector: SmallDetector, chunk: int = CHUNK) -> Iterator[Detection]:
    """One detection a turn, in order, over any number of turns: no more than a chunk is held at once."""
    waiting = iter(turns)
    while part := list(islice(waiting, chunk)):
        yield from detector.read(part)


def stream_on(
    turns: Iterable[Turn], make: Callable[[], SmallDetector], processes: int, chunk: int = CHUNK
) -> Iterator[Detection]:  # fmt: skip
    """As `stream`, on so many processes; `make`, a function of a module, is called in each of them.

    Of each process two chunks are under way at most, so memory stays bounded however long the stream is.
    """
    waiting = iter(turns)
    with ProcessPoolExecutor(processes, get_context("spawn"), _open, (make,)) as pool:
        running: deque[Future[list[Detection]]] = deque()
        while True:
            while len(running) < 2 * processes and (part := list(islice(waiting, chunk))):
                running.append(pool.submit(_read, part))
            if not running:
                return
            yield from running.popleft().result()


_opened: list[SmallDetector] = []  # of a process that reads a stream


def _open(make: Callable[[], SmallDetector]) -> None:
    _opened[:] = [make()]


def _read(turns: Sequence[Turn]) -> list[Detection]:
    return _opened[0].read(turns)


class CarefulDetector:
    """The small detector, and a language model beside it where its share lies within `unsure`."""

    def __init__(self, small: Detector, chat: Chat, unsure: tuple[float, float]) -> None:
        self._small = small
        self._chat = chat
        self._unsure = unsure

    @property
    def fingerprint(self) -> str:
        """Of the small one, and when which prompt is asked."""
        return f"{self._small.fingerprint}+asked-{VERSION}-{self._unsure[0]:g}-{self._unsure[1]:g}"

    async def detect(self, turns: Sequence[Turn]) -> list[Detection]:
        """One detection a turn; ModelError when the model gave no valid reply."""
        found = await self._small.detect(turns)
        low, high = self._unsure
        asked = [number for number, item in enumerate(found) if low <= item.feedback < high]
        better = await asyncio.gather(*(weighed(turns[number], found[number], self._chat) for number in asked))
        for number, item in zip(asked, better, strict=True):
            found[number] = item
        return found


def fits(embedder: Embedder, learned: Parameters) -> bool:
    """Whether these are the vectors that the parameters were learned with."""
    return embedder.fingerprint == learned.embedder
