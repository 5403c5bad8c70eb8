"""POST /v1/chat/completions: route, answer, tee into a LogRecord, commit, and only then end the answer.

request -> who, which conversation -> Choice -> Backend -> chunks to the client and to a LogRecord

Streams pass chunk by chunk as they come; the chunk that ends one waits for the commit. A client that goes away ends the
model's work, and what it had seen is recorded.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from logtune.app.asgi import (
    Headers,
    Request,
    Send,
    begin_answer,
    end_answer,
    error_body,
    respond_json,
)
from logtune.app.critic import Part, revision, usage_of
from logtune.app.exchange import GONE, Exchange, begin
from logtune.app.feedback_api import Answers
from logtune.app.identity import last_user_text
from logtune.app.journal import Journal, Kept
from logtune.app.redaction import SHOWN_ERROR, Redaction
from logtune.app.routing import Router
from logtune.app.rules_prompt import with_rules
from logtune.app.table import Choice
from logtune.edges.project_scope import unpicked
from logtune.edges.sse import LONGEST_LINE, StreamAssembler, event
from logtune.edges.upstream import BASE, Answer, Backend, UpstreamCall
from logtune.errors import RequestError
from logtune.ids import new_id
from logtune.records import SHADOW, Json
from logtune.stages.answer import CRITICS

LOG = logging.getLogger(__name__)
BODILESS = (204, 304)  # RFC 9112, 6.3


class ChatApi:
    """Answers chat requests; `served_name` is the base model's name at the backend, `done` hears of every exchange."""

    def __init__(
        self, backend: Backend, router: Router, journal: Journal, answers: Answers, served_name: str,
        done: Callable[[Exchange], None], redaction: Redaction,
    ) -> None:  # fmt: skip
        self._backend = backend
        self._redaction = redaction
        self._router = router
        self._journal = journal
        self._answers = answers
        self._served_name = served_name
        self._done = done

    async def post(self, request: Request, limit: int, send: Send) -> None:
        """Read one request of at most `limit` bytes, answer it, and stop when the client goes away."""
        raw = await request.body(limit)
        if self._journal.refusing:
            what = "the gateway can keep no records now, so it takes no requests (serve.spool_full = refuse)"
            raise RequestError(what, 503, code="records_full", headers={"retry-after": "5"})
        exchange = begin(raw, request.headers)
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
            client=exchange.client, who=exchange.who, requested=exchange.requested, choice=choice,
        )  # fmt: skip
        try:
            with self._router.adapters.using(choice.model):
                answer = await self._unless_lost(other)
                if answer is None:
                    return None
                try:
                    whole = b"".join([chunk async for chunk in answer.chunks])
                finally:
                    await answer.close()
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
                answer = await self._open(exchange)
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
            return await self._router.choose(last_user_text(exchange.body), exchange.unit())
        return self._router.named(exchange.requested)

    async def _open(self, exchange: Exchange) -> Answer:
        """The answer of the chosen candidate; of the base model when the server has lost the candidate's adapter."""
        answer = await self._unless_lost(exchange)
        if answer is not None:
            return answer
        exchange.choice = exchange.choice.given_up(f"the model server has lost {exchange.choice.adapter}")
        return await self._call(exchange, self._served_name, exchange.body)

    async def _unless_lost(self, exchange: Exchange) -> Answer | None:
        """The answer of the chosen candidate; None where the server has lost its adapter: it is loaded again."""
        adapter = exchange.choice.adapter
        try:
            answer = await self._candidate(exchange)
            if adapter is None or answer.status != 404:
                return answer
            await answer.close()
        except RequestError as error:
            if adapter is None or error.status != 404:
                raise
        self._router.lost(adapter)
        LOG.warning("the model server has lost %s; the base model answers until it is loaded again", adapter)
        return None

    async def _candidate(self, exchange: Exchange) -> Answer:
        model = exchange.choice.model or self._served_name
        if exchange.choice.kind not in CRITICS:
            body = unpicked(exchange.body) if self._router.killed() else exchange.body
            rules = exchange.choice.rules
            return await self._call(exchange, model, with_rules(body, rules) if rules else body)

        async def ask(name: str, body: Mapping[str, Json]) -> Mapping[str, Json]:
            return await self._part(exchange, name or self._served_name, body)

        revised = await revision(ask, model, exchange.body)
        if revised is None:
            exchange.choice = exchange.choice.given_up("a critic reviews plain text alone")
        return await self._call(exchange, self._served_name, exchange.body if revised is None else revised)

    async def _part(self, exchange: Exchange, model: str, body: Mapping[str, Json]) -> Mapping[str, Json]:
        """One call on the way to an answer, in one piece; RequestError when the server refuses it."""
        asked = time.perf_counter()
        answer = await self._call(exchange, model, body)
        opened = time.perf_counter()
        try:
            whole = b"".join([chunk async for chunk in answer.chunks])
        finally:
            await answer.close()
            exchange.backend_s += time.perf_counter() - opened
        response, problem = read_answer(answer.status, whole)
        if response is None:
            raise RequestError(problem or "no answer", answer.status)
        exchange.parts.append(Part(usage_of((), response.get("usage")), round(1000 * (time.perf_counter() - asked), 3)))
        return response

    async def _call(self, exchange: Exchange, model: str, body: Mapping[str, Json]) -> Answer:
        exchange.called = model
        raw = exchange.raw if body is exchange.body else json.dumps(body).encode()
        asked = exchange.asked = time.perf_counter()
        if self._redaction.quick(len(exchange.raw)):  # once the model is at work, while nobody waits for this
            asyncio.get_running_loop().call_soon(exchange.clean, self._redaction)
        try:
            return await self._backend.open(
                UpstreamCall(id=exchange.id, body=body, raw=raw, model=model, headers=exchange.client)
            )
        finally:
            exchange.backend_s += time.perf_counter() - asked

    async def _whole(self, exchange: Exchange, answer: Answer, send: Send) -> None:
        """An answer in one piece."""
        asked = time.perf_counter()
        exchange.begun(answer.status)
        body = b"".join([chunk async for chunk in answer.chunks])
        exchange.backend_s += time.perf_counter() - asked
        exchange.upstream_s = time.perf_counter() - exchange.asked
        exchange.answer_bytes = len(body)
        exchange.response, exchange.error = read_answer(answer.status, body)
        kept = await self._keep(exchange)
        headers = [*_passed(answer), *exchange.headers()]
        if not body or answer.status in BODILESS:  # the head is the end
            await kept
        # Else the head leaves while the record is committed.
        await begin_answer(send, answer.status, len(body), answer.content_type, headers)
        await kept
        await end_answer(send, body)

    async def _stream(self, exchange: Exchange, answer: Answer, send: Send) -> None:
        """Server-sent events: every chunk leaves as it comes, the one that holds the end after the commit.

        An unfinished line waits for its rest, so that a stream that breaks off still ends in a well-formed error.
        """
        seen, rest = StreamAssembler(), b""
        head = [(b"content-type", answer.content_type.encode("latin-1")), *_passed(answer), *exchange.headers()]
        await send({"type": "http.response.start", "status": answer.status, "headers": head})
        try:
            async for chunk in answer.chunks:
                exchange.begun(answer.status)
                exchange.answer_bytes += len(chunk)
                seen.feed(chunk)
                self._answers.note(seen.head, exchange.id, exchange.who.traces)  # before the client can name the answer
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


def read_answer(status: int, body: bytes) -> tuple[dict[str, Json] | None, str | None]:
    """The completion in a whole answer, and why there is none."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if status == 200 and isinstance(value, dict) and "choices" in value:
        return value, None
    shown = body[:SHOWN_ERROR].decode("utf-8", "replace")
    if isinstance(value, dict) and "\\u" in shown:  # escapes would hide from the redaction what they say
        shown = json.dumps(value, ensure_ascii=False)[:SHOWN_ERROR]
    return None, f"the model server answered {status}: {shown}"


def whole_lines(stream: bytes) -> tuple[bytes, bytes]:
    """The bytes up to the last end of a line, and the rest; a line beyond all measure is not waited for."""
    end = stream.rfind(b"\n") + 1
    return (stream[:end], stream[end:]) if len(stream) - end <= LONGEST_LINE else (stream, b"")


def _take(exchange: Exchange, seen: StreamAssembler) -> None:
    exchange.response = seen.completion()
    exchange.error = exchange.error or seen.problem()


def _passed(answer: Answer) -> Headers:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
