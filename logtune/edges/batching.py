"""The running batch: one thread owns the model, requests join whenever a row is free and leave when they are done.

Calls made at the same time share passes, and a long answer holds up no short one. What else needs the model (scoring,
unloading) runs on the same thread between two steps.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import torch

from logtune.edges.answers import AnswerText, choose
from logtune.edges.decoding import Passes, SlotCache
from logtune.edges.lora import Lora
from logtune.errors import LogtuneError, ModelError
from logtune.ports import ChatCall, StreamPiece

MAX_SLOTS = 32_768  # tokens of all rows at once, padding included: bounds the memory of keys and values
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Job:
    """A request on its way to the model."""

    call: ChatCall
    prompt: list[int]
    limit: int  # most tokens of the answer
    lora: Lora | None
    streams: bool  # False: one piece with the whole answer
    tell: Callable[[StreamPiece | LogtuneError], None]
    dropped: bool = False  # nobody waits for it any more


@dataclass(slots=True, eq=False)
class Row:
    """A request in the running batch."""

    job: Job
    text: AnswerText
    generator: torch.Generator
    length: int  # tokens whose keys and values are kept
    last: int = 0  # the token that goes in next
    made: int = 0
    done: bool = False


class Batcher:
    """See the module. `decode` turns tokens into text, `ends` are the tokens that end an answer."""

    def __init__(
        self, passes: Passes, decode: Callable[[Sequence[int]], str], ends: Sequence[int], max_batch: int, wait_s: float
    ) -> None:
        self._passes, self._decode, self._ends = passes, decode, frozenset(ends)
        self._max_batch, self._wait_s = max_batch, wait_s
        self._inbox: queue.SimpleQueue[Job | Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting: deque[Job] = deque()
        self._rows: list[Row] = []  # row i of the cache is rows[i]
        self._cache = SlotCache(passes.model)
        self._closed = False
        self._ended = False  # nothing more is taken in; set and read under the lock
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="logtune-model", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Queue a request; ModelError once closed."""
        self._send(job)

    def between_steps(self, function: Callable[[], T]) -> T:
        """Run on the model's thread between two steps, and wait for the result."""
        result: Future[T] = Future()

        def run() -> None:
            try:
                result.set_result(function())
            except Exception as error:  # noqa: BLE001  raised in the thread that waits
                result.set_exception(error)

        self._send(run)
        while True:
            try:
                return result.result(timeout=1.0)
            except TimeoutError:
                if not self._thread.is_alive() and not result.done():
                    raise ModelError("the model was closed", "make a new LocalModel") from None

    def close(self) -> None:
        """Tell everyone who waits that the model is closed, and end the thread."""
        self._inbox.put(None)
        self._thread.join()

    def _send(self, item: Job | Callable[[], None]) -> None:
        with self._lock:
            if self._ended or not self._thread.is_alive():
                raise ModelError("the model is closed", "make a new LocalModel")
            self._inbox.put(item)

    def _work(self) -> None:
        while True:
            self._gather()
            if self._closed:
                break
            try:
                self._join()
                self._step()
            except Exception as error:  # noqa: BLE001  a dead thread would leave every caller waiting for ever
                self._fail(self._rows, f"the model failed: {type(error).__name__}: {error}")
                self._rows.clear()
            if not self._rows:
                self._cache = SlotCache(self._passes.model)
        with self._lock:
            self._ended = True
        while not self._inbox.empty():  # what came in after the last look
            self._receive(0)
        self._fail(self._rows, "the model was closed")
        for job in self._waiting:
            job.tell(ModelError("the model was closed"))

    def _gather(self) -> None:
        """Take what came in; an idle model waits for the first request, then a moment for company."""
        if not self._rows and not self._waiting:
            self._receive(None)
            until = time.monotonic() + self._wait_s
            while 0 < len(self._waiting) < self._max_batch and self._receive(max(until - time.monotonic(), 0)):
                pass
        while self._receive(0):
            pass

    def _receive(self, wait_s: float | None) -> bool:
        """Handle the next arrival; False when none came in time (None: wait for ever)."""
        try:
            item = self._inbox.get(block=wait_s != 0, timeout=wait_s or None)
        except queue.Empty:
            return False
        if isinstance(item, Job):
            self._waiting.append(item)
        elif item is None:
            self._closed = True
        else:
            item()
        return not self._closed

    def _join(self) -> None:
        """Fill free rows with waiting requests, as many as the slots allow, and give each its first token."""
        jobs: list[Job] = []
        longest = max((len(row.job.prompt) + row.job.limit for row in self._rows), default=0)
        while self._waiting and len(self._rows) + len(jobs) < self._max_batch:
            longest = max(longest, len(self._waiting[0].prompt) + self._waiting[0].limit)
            if (self._rows or jobs) and longest * (len(self._rows) + len(jobs) + 1) > MAX_SLOTS:
                break
            job = self._waiting.popleft()
            jobs += [] if job.dropped else [job]
        if not jobs:
            return
        start = len(self._rows)
        self._rows += [self._row(job) for job in jobs]
        scores = self._passes.prefill(self._cache, start, [job.prompt for job in jobs], [job.lora for job in jobs])
        for row, after in zip(self._rows[start:], scores, strict=True):
            self._take(row, after)
        self._leave()

    def _row(self, job: Job) -> Row:
        generator = torch.Generator(device=self._passes.device).manual_seed(job.call.seed % 2**63)
        text = AnswerText(self._decode, job.call.stop)
        return Row(job=job, text=text, generator=generator, length=len(job.prompt))

    def _step(self) -> None:
        """One token for every row."""
        rows = self._rows
        if not rows:
            return
        tokens, lengths = [[row.last] for row in rows], [row.length for row in rows]
        loras = [row.job.lora for row in rows]
        for logits in self._passes.run(self._cache, 0, tokens, lengths, loras, [1] * len(rows)):
            for row, scores in zip(rows, logits.scores, strict=True):
                row.length += 1
                self._take(row, scores)
        self._leave()

    def _take(self, row: Row, scores: torch.Tensor) -> None:
        """Choose the row's next token, tell what it adds, and see whether the answer is done."""
        call = row.job.call
        row.last = choose(scores, call.temperature, call.top_p, row.generator)
        reason, fresh = "stop", ""
        if row.last not in self._ends:
            row.made += 1
            fresh = row.text.push(row.last)
            reason = "stop" if row.text.stopped else "length" if row.made >= row.job.limit else ""
        if reason:
            row.done = True
            fresh += row.text.finish()
            row.job.tell(
                StreamPiece(
                    text=fresh if row.job.streams else row.text.text, finish_reason=reason,
                    prompt_tokens=len(row.job.prompt), completion_tokens=row.made,
                )
            )  # fmt: skip
        elif fresh and row.job.streams:
            row.job.tell(StreamPiece(text=fresh))

    def _leave(self) -> None:
        """Take done and dropped rows out; the last row moves into the gap."""
        for number in reversed(range(len(self._rows))):
            if self._rows[number].done or self._rows[number].job.dropped:
                last = self._rows.pop()
                if number < len(self._rows):
                    self._cache.copy(len(self._rows), number, last.length)
                    self._rows[number] = last

    def _fail(self, rows: Sequence[Row], what: str) -> None:
        for row in rows:
            row.job.tell(ModelError(what, "try again; logtune doctor shows memory and versions"))
