"""POST /v1/chat/completions, /v1/completions: route, answer, tee into a LogRecord, commit, and then end the answer.

request -> who, which conversation -> Choice -> answering -> chunks to the client and to a LogRecord

Streams pass chunk by chunk as they come; the chunk that ends one waits for the commit. A client that goes away ends the
model's work, and what it had seen is recorded.
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace

from logtune.app.answering import Answering, TooLarge, read_answer, read_whole
from logtune.app.asgi import (
    Headers,
    Request,
    Send,
    begin_answer,
    end_answer,
    error_body,
    respond_json,
)
from logtune.app.exchange import GONE, Exchange, begin
from logtune.app.feedback_api import Answers
from logtune.app.identity import last_user_text
from logtune.app.journal import Journal, Kept
from logtune.app.redaction import Redaction
from logtune.app.routing import Router
from logtune.app.table import Choice
from logtune.edges.sse import LONGEST_LINE, StreamAssembler, event
from logtune.edges.upstream import BASE, CHAT, Answer, Backend
from logtune.errors import RequestError
from logtune.ids import new_id
from logtune.records import SHADOW

BODILESS = (204, 304)  # RFC 9112, 6.3


class ChatApi:
    """Answers; `served_name` is the base model's name at the backend, `done` hears of every exchange.

    `most`: bytes of an answer that its record keeps.
    """

    def __init__(
        self, backend: Backend, router: Router, journal: Journal, answers: Answers, served_name: str,
        done: Callable[[Exchange], None], redaction: Redaction, most: int,
    ) -> None:  # fmt: skip
        self._answering = Answering(backend, router, served_name, redaction, most)
        self._most = most
        self._redaction = redaction
        self._router = router
        self._journal = journal
        self._answers = answers
        self._served_name = served_name
        self._done = done

    async def post(self, request: Request, limit: int, send: Send, path: str = CHAT) -> None:
        """Read one request of at most `limit` bytes, answer it, and stop when the client goes away.

        `path` is that of the model server which answers it.
        """
        raw = await request.body(limit)
        if self._journal.refusing:
            what = "the gateway can keep no records now, so it takes no requests (serve.spool_full = refuse)"
            raise RequestError(what, 503, code="records_full", headers={"retry-after": "5"})
        exchange = begin(raw, request.headers, path)
        leaving = _Leaving(exchange, asyncio.current_task())
        ignore = request.watch(leaving)
        try:
            await self._answer(exchange, send)
        except asyncio.CancelledError:
            if not leaving.ends_work():
                raise
        finally:
            ignore()

    async def unseen(self, exchange: Exchange, choice: Choice) -> Exchange | None:
        """Let another candidate answer the same request, for nobody: its record alone is kept.

        None, and no record, where the server has lost its adapter: that says nothing of the candidate.
        """
        body = {name: value for name, value in exchange.body.items() if name not in ("stream", "stream_options")}
        other = Exchange(
            id=new_id(), at=time.time(), started=time.perf_counter(), raw=json.dumps(body).encode(), body=body,
            client=exchange.client, who=exchange.who, requested=exchange.requested, choice=choice, path=exchange.path,
        )  # fmt: skip
        try:
            with self._router.adapters.using(choice.model):
                answer = await self._answering.unless_lost(other)
                if answer is None:
                    return None
                whole = await read_whole(answer, self._most)
            other.response, other.error = read_answer(answer.status, whole)
        except RequestError as error:
            other.error = error.what
        other.elapsed_s = time.perf_counter() - other.started
        record = await self._redaction.made(len(other.raw), lambda: other.record(self._redaction))
        hidden = replace(record, source=SHADOW, user=None, session=None, traces=(exchange.id,))
        await self._journal.commit(hidden, other.clean(self._redaction).encoded)
        return other

    async def _answer(self, exchange: Exchange, send: Send) -> None:
        try:
            exchange.choice = await self._choose(exchange)
            with self._router.adapters.using(exchange.choice.model):
                answer = await self._answering.open(exchange)
                try:
                    await (self._stream if answer.streamed else self._whole)(exchange, answer, send)
                finally:
                    await answer.close()
        except RequestError as error:
            exchange.error, exchange.status = error.what, error.status
            await self._commit(exchange)
            await respond_json(send, error.status, error_body(error), exchange.headers())
        except BaseException as error:
            exchange.error = exchange.error or f"the gateway stopped: {type(error).__name__}"
            raise
        finally:
            await self._commit(exchange)
            self._done(exchange)

    async def _choose(self, exchange: Exchange) -> Choice:
        """Route what asks for the base model; a model asked for by name is what the client gets."""
        if exchange.requested in ("", BASE, self._served_name):
            if exchange.path != CHAT:  # no candidate was proven on anything but chats
                return Choice(reason="a text completion is not routed")
            return await self._router.choose(last_user_text(exchange.body), exchange.unit())
        return self._router.named(exchange.requested)

    async def _whole(self, exchange: Exchange, answer: Answer, send: Send) -> None:
        """An answer in one piece."""
        asked = time.perf_counter()
        exchange.begun(answer.status)
        chunks = list[bytes]()
        async for chunk in answer.chunks:
            chunks.append(chunk)
            exchange.answer_bytes += len(chunk)
            if exchange.answer_bytes > self._most:
                exchange.backend_s += time.perf_counter() - asked
                await self._large(exchange, answer, chunks, send)
                return
        body = b"".join(chunks)
        exchange.backend_s += time.perf_counter() - asked
        exchange.upstream_s = time.perf_counter() - exchange.asked
        exchange.response, exchange.error = read_answer(answer.status, body)
        kept = await self._keep(exchange)
        headers = [*_passed(answer), *exchange.headers()]
        if not body or answer.status in BODILESS:  # the head is the end
            await kept
        # Else the head leaves while the record is committed.
        await begin_answer(send, answer.status, len(body), answer.content_type, headers)
        await kept
        await end_answer(send, body)

    async def _large(self, exchange: Exchange, answer: Answer, first: list[bytes], send: Send) -> None:
        """An answer too large for a record leaves as it comes, after what has come of it."""
        head = [(b"content-type", answer.content_type.encode("latin-1")), *_passed(answer), *exchange.headers()]
        await send({"type": "http.response.start", "status": answer.status, "headers": head})
        exchange.error = TooLarge(self._most).what
        try:
            await send({"type": "http.response.body", "body": b"".join(first), "more_body": True})
            async for chunk in answer.chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except RequestError as error:
            exchange.error = error.what
            raise ConnectionAbortedError(error.what) from error  # so that the client sees it break off
        finally:
            exchange.upstream_s = time.perf_counter() - exchange.asked
        await self._commit(exchange)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _stream(self, exchange: Exchange, answer: Answer, send: Send) -> None:
        """Server-sent events: every chunk leaves as it comes, the one that holds the end after the commit.

        An unfinished line waits for its rest, so that a stream that breaks off still ends in a well-formed error.
        """
        seen, rest, named = StreamAssembler(self._most), b"", False
        head = [(b"content-type", answer.content_type.encode("latin-1")), *_passed(answer), *exchange.headers()]
        await send({"type": "http.response.start", "status": answer.status, "headers": head})
        try:
            async for chunk in answer.chunks:
                exchange.begun(answer.status)
                exchange.answer_bytes += len(chunk)
                seen.feed(chunk)
                if not named:  # before the client can name the answer
                    self._answers.note(seen.head, exchange.id, exchange.who.traces)
                    named = "id" in seen.head
                if seen.done:
                    _take(exchange, seen)
                    await self._commit(exchange)
                lines, rest = whole_lines(rest + chunk)
                await send({"type": "http.response.body", "body": lines, "more_body": True})
        except RequestError as error:
            exchange.error = error.what
            rest = b"\n\n" + event(error_body(error))
        finally:
            exchange.response = seen.completion()
            exchange.upstream_s = time.perf_counter() - exchange.asked
        _take(exchange, seen)
        await self._commit(exchange)
        await send({"type": "http.response.body", "body": rest, "more_body": False})

    async def _commit(self, exchange: Exchange) -> None:
        """Store the record, once; the answer goes on when the store fails, and /readyz says so."""
        if not exchange.recorded:
            await (await self._keep(exchange))

    async def _keep(self, exchange: Exchange) -> "asyncio.Future[Kept]":
        """Make the record and begin to store it; the answer's end waits for what this returns."""
        exchange.recorded = True
        self._answers.note(exchange.response, exchange.id, exchange.who.traces)
        size = len(exchange.raw) + exchange.answer_bytes
        record = await self._redaction.made(size, lambda: exchange.record(self._redaction))
        return self._journal.commit(record, exchange.clean(self._redaction).encoded)


class _Leaving:
    """Ends the work on an exchange when its client has gone away, unless it is recorded already."""

    def __init__(self, exchange: Exchange, work: "asyncio.Task[None] | None") -> None:
        self._exchange = exchange
        self._work = work
        self._left = False

    def __call__(self) -> None:
        """The client has gone."""
        if self._work is not None and not self._work.done() and not self._exchange.recorded:
            self._exchange.error, self._left = GONE, True
            self._work.cancel()

    def ends_work(self) -> bool:
        """Whether a cancellation was this one alone."""
        return self._left and self._work is not None and not self._work.uncancel()


def whole_lines(stream: bytes) -> tuple[bytes, bytes]:
    """The bytes up to the last end of a line, and the rest; a line beyond all measure is not waited for."""
    end = stream.rfind(b"\n") + 1
    return (stream[:end], stream[end:]) if len(stream) - end <= LONGEST_LINE else (stream, b"")


def _take(exchange: Exchange, seen: StreamAssembler) -> None:
    exchange.response = seen.completion()
    exchange.error = exchange.error or seen.problem()


def _passed(answer: Answer) -> Headers:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
