"""Where answers come from: the embedded engine, or any OpenAI-compatible server, behind one small protocol.

UpstreamCall -> Backend.open -> Answer (status, content type, chunks of bytes as they come)

Both give bytes in OpenAI's form, so the gateway passes answers on and logs them without knowing which one made them.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import re
import time
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol, cast

from logtune.config_gateway import ServeSettings
from logtune.edges import chat_body
from logtune.edges.http_client import Client
from logtune.edges.http_connection import BrokenOff, ConnectTimeout, NotHttp, Pairs, Refused, Response, Timeouts
from logtune.edges.renaming import with_model
from logtune.edges.sse import DONE, event
from logtune.errors import InputError, LogtuneError, RequestError
from logtune.ports import ChatCall, ChatReply, StreamPiece
from logtune.records import Json

LOG = logging.getLogger(__name__)
CHAT, COMPLETION = "/chat/completions", "/completions"  # paths of a model server
BASE = "base"  # what every backend calls the base model, besides its own name for it
JSON_TYPE, STREAM_TYPE = "application/json", "text/event-stream; charset=utf-8"
UNKNOWN_URL = "unknown_url"  # code of an error: nothing is there, whatever the model
PAUSE_S = 0.1  # before the first repetition to a server that takes no connection; doubled each time
UNBUFFERED = (("cache-control", "no-cache"), ("x-accel-buffering", "no"))  # for proxies between us and the client

# What reaches the upstream besides the body. Names of users and sessions stay here.
PASSED_ON = re.compile(r"accept|content-type|user-agent|traceparent|tracestate|x-request-id|openai-.+")
# What an answer loses on its way back: what belongs to one connection, or is no longer true of the bytes.
NOT_PASSED_BACK = frozenset({
    "connection", "content-encoding", "content-length", "content-type", "date", "keep-alive", "proxy-authenticate",
    "server", "set-cookie", "te", "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip
FAILURES: Mapping[type, str] = {
    Refused: "it takes no connection", BrokenOff: "the connection broke off", NotHttp: "its answer is no HTTP",
}  # fmt: skip
PACKED = frozenset({"gzip", "x-gzip", "deflate"})  # encodings that are undone on the way


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamCall:
    """One request on its way to a model."""

    id: str  # of the interaction
    body: Mapping[str, Json]  # as parsed
    raw: bytes  # as it came
    model: str  # the name to call: an adapter, the base model, or what the client asked for
    headers: Mapping[str, str]  # of the client, lower-case names
    path: str = CHAT


async def released() -> None:
    """Of an answer that holds nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer under way. Always `close` it: that ends the upstream's work when it is not finished."""

    status: int
    content_type: str
    chunks: AsyncGenerator[bytes, None]  # raises RequestError when the upstream fails in the middle
    headers: tuple[tuple[str, str], ...] = ()
    release: Callable[[], Awaitable[None]] = field(default=released)

    @property
    def streamed(self) -> bool:
        """True for server-sent events."""
        return self.content_type.startswith("text/event-stream")

    async def close(self) -> None:
        """Stop the upstream if it is still at work."""
        await self.chunks.aclose()
        await self.release()


class Backend(Protocol):
    """A model server as the gateway sees it."""

    async def open(self, call: UpstreamCall) -> Answer:
        """Start answering; RequestError with the status for the client when there will be no answer."""
        ...

    async def models(self) -> list[dict[str, Json]]:
        """Rows of /v1/models."""
        ...

    async def close(self) -> None:
        """Give back connections."""
        ...


class Engine(Protocol):
    """The embedded engine, `edges.local_model.LocalModel`; the last piece of a stream tells its tokens."""

    async def complete(self, call: ChatCall) -> ChatReply:
        """A whole answer."""
        ...

    def stream(self, call: ChatCall) -> AsyncIterator[StreamPiece]:
        """An answer as it is made."""
        ...

    async def names(self) -> list[str]:
        """Names of the loaded adapters."""
        ...


class EmbeddedBackend:
    """The engine in this process. `served_name` is the base model's name for clients, beside `base`."""

    def __init__(self, engine: Engine, served_name: str = BASE, default_tokens: int = 256) -> None:
        self._engine = engine
        self._served_name = served_name
        self._default_tokens = default_tokens
        self._started = int(time.time())

    async def open(self, call: UpstreamCall) -> Answer:
        """Answer from the engine; the first piece is awaited, so that a failure still has its status."""
        if call.path != CHAT:
            what = f"the embedded engine answers chats alone; /v1{call.path} needs a model server (model.url)"
            raise RequestError(what, 404, code=UNKNOWN_URL)
        model = await self._engine_name(call.model)
        request = chat_body.chat_request(call.body, model, self._default_tokens)
        head = chat_body.Heading(id=f"chatcmpl-{call.id}", created=int(time.time()), model=call.model)
        with _engine_errors():
            if request.stream:
                pieces = _merged([self._engine.stream(one) for one in request.calls])
                chunks = _events(request, head, await anext(pieces), pieces)
                return Answer(
                    status=200, content_type=STREAM_TYPE, chunks=chunks, headers=UNBUFFERED, release=pieces.aclose
                )  # fmt: skip
            replies = await asyncio.gather(*map(self._engine.complete, request.calls))
        body = json.dumps(chat_body.completion(head, replies)).encode()
        return Answer(status=200, content_type=JSON_TYPE, chunks=once(body))

    async def models(self) -> list[dict[str, Json]]:
        """The base model and every loaded adapter with its parent."""
        adapters = await self._engine.names()
        return [model_row(self._served_name, self._started)] + [
            model_row(name, self._started, self._served_name) for name in adapters
        ]

    async def close(self) -> None:
        """Nothing to give back: whoever made the engine ends it."""

    async def _engine_name(self, model: str) -> str:
        if model in ("", BASE, self._served_name):
            return BASE
        if model not in await self._engine.names():  # what there is instead is not told: it may be another project's
            what = f"the model {model[:80]!r} does not exist; GET /v1/models lists those there are"
            raise RequestError(what, 404, param="model", code="model_not_found")
        return model


def model_row(name: str, created: int, parent: str | None = None) -> dict[str, Json]:
    """A row of /v1/models; `parent` is the base model of an adapter, as vLLM lists it."""
    return {"id": name, "object": "model", "created": created, "owned_by": "logtune", "root": name, "parent": parent}


async def once(body: bytes) -> AsyncGenerator[bytes, None]:
    """A body in one piece."""
    yield body


@contextlib.contextmanager
def _engine_errors() -> Iterator[None]:
    """What the engine raises, as answers to a client."""
    try:
        yield
    except RequestError:
        raise
    except InputError as error:
        raise RequestError(error.what) from error
    except LogtuneError as error:
        raise RequestError(error.what, 500, code="model_error") from error


async def _events(
    request: chat_body.ChatRequest, head: chat_body.Heading, first: tuple[int, StreamPiece],
    rest: AsyncGenerator[tuple[int, StreamPiece], None],
) -> AsyncGenerator[bytes, None]:  # fmt: skip
    """The server-sent events of an answer; the last piece of a choice ends it and tells its tokens."""
    blank: dict[str, Json] = {"usage": None} if request.include_usage else {}
    opening: dict[str, Json] = {"role": "assistant", "content": "", "refusal": None}
    prompt_tokens = completion_tokens = 0
    for number in range(len(request.calls)):
        yield event(chat_body.chunk(head, number, opening) | blank)
    with _engine_errors():
        async for number, piece in _chained(first, rest):
            if piece.text:
                yield event(chat_body.chunk(head, number, {"content": piece.text}) | blank)
            if piece.finish_reason is not None:
                yield event(chat_body.chunk(head, number, {}, piece.finish_reason) | blank)
                prompt_tokens = piece.prompt_tokens
                completion_tokens += piece.completion_tokens
    if request.include_usage:
        yield event(chat_body.usage_chunk(head, chat_body.usage(prompt_tokens, completion_tokens)))
    yield DONE


async def _chained(
    first: tuple[int, StreamPiece], rest: AsyncGenerator[tuple[int, StreamPiece], None]
) -> AsyncGenerator[tuple[int, StreamPiece], None]:
    yield first
    async for numbered in rest:
        yield numbered


async def _merged(streams: Sequence[AsyncIterator[StreamPiece]]) -> AsyncGenerator[tuple[int, StreamPiece], None]:
    """The pieces of several streams as they come, each with the number of its stream."""
    queue: asyncio.Queue[tuple[int, StreamPiece | Exception | None]] = asyncio.Queue()
    tasks = [asyncio.create_task(_pour(number, stream, queue)) for number, stream in enumerate(streams)]
    try:
        flowing = len(tasks)
        while flowing:
            number, piece = await queue.get()
            if isinstance(piece, Exception):
                raise piece
            if piece is None:
                flowing -= 1
            else:
                yield number, piece
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pour(
    number: int, stream: AsyncIterator[StreamPiece], queue: "asyncio.Queue[tuple[int, StreamPiece | Exception | None]]"
) -> None:
    try:
        async for piece in stream:
            queue.put_nowait((number, piece))
        queue.put_nowait((number, None))
    except Exception as error:  # noqa: BLE001  raised again where the pieces are read
        queue.put_nowait((number, error))


class HttpBackend:
    """An OpenAI-compatible server at `url` (with /v1). Bytes pass both ways; only `model` is replaced when routed."""

    def __init__(self, url: str, key: str | None = None, settings: ServeSettings | None = None) -> None:
        self._url = url.rstrip("/")
        self._key = key
        self._settings = settings or ServeSettings()
        timeouts = Timeouts(connect=self._settings.connect_timeout_s, read=self._settings.timeout_s)
        self._client = Client(
            self._url, timeouts, most=self._settings.max_connections, keep_s=self._settings.keep_alive_s
        )  # fmt: skip

    async def open(self, call: UpstreamCall) -> Answer:
        """Send the request; the answer's head is here when this returns, its body comes in chunks."""
        asked = call.body.get("model")
        raw = call.raw if asked == call.model else with_model(call.raw, call.model, named=isinstance(asked, str))
        with _upstream_errors(self._url, self._settings):
            response = await self._post(call.path, raw, self._headers(call.headers))
        headers = dict(response.headers)
        return Answer(
            status=response.status, content_type=headers.get("content-type", JSON_TYPE),
            chunks=self._chunks(response, headers.get("content-encoding", "")), headers=_passed_back(response.headers),
            release=_closer(response),
        )  # fmt: skip

    async def models(self) -> list[dict[str, Json]]:
        """The server's own rows, as it sent them."""
        with _upstream_errors(self._url, self._settings):
            response = await self._client.request("GET", "/models", self._headers({}).items(), b"")
            try:
                listed = json.loads(b"".join([chunk async for chunk in response.chunks()]))
            finally:
                response.close()
        rows = listed.get("data") if isinstance(listed, dict) else None
        return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()

    async def _post(self, path: str, raw: bytes, headers: Mapping[str, str]) -> Response:
        """Send it; again where the server cannot have begun it. A server that answers is never asked twice."""
        for tried in itertools.count():
            try:
                return await self._client.request("POST", path, headers.items(), raw)
            except (Refused, BrokenOff) as error:
                refused = isinstance(error, Refused)
                if tried >= self._settings.retries or not (refused or cast("BrokenOff", error).stale):
                    raise
                if refused:
                    await self._pause(tried)
        raise AssertionError("count() does not end")

    async def _pause(self, tried: int) -> None:
        await asyncio.sleep(PAUSE_S * 2**tried)

    async def _chunks(self, response: Response, encoding: str) -> AsyncGenerator[bytes, None]:
        """The body; unpacked where a server compresses although it was asked not to."""
        packed = zlib.decompressobj(wbits=47) if encoding.lower() in PACKED else None  # 47: gzip or zlib, as it finds
        with _upstream_errors(self._url, self._settings):
            async for chunk in response.chunks():
                found = packed.decompress(chunk) if packed else chunk
                if found:
                    yield found

    def _headers(self, client: Mapping[str, str]) -> dict[str, str]:
        """The client's harmless headers, and the server's key, or the client's own where none is configured."""
        sent = {name: value for name, value in client.items() if _passes_on(name)}
        key = f"Bearer {self._key}" if self._key else client.get("authorization")
        sent |= {"content-type": JSON_TYPE, "accept-encoding": "identity"}  # the log must be able to read along
        return sent | ({"authorization": key} if key else {})


@lru_cache(maxsize=1000)
def _passes_on(name: str) -> bool:
    return PASSED_ON.fullmatch(name) is not None


def _passed_back(headers: Pairs) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, value) for name, value in headers
        if name not in NOT_PASSED_BACK or (name == "content-encoding" and value.lower() not in PACKED)
    )  # fmt: skip


def _closer(response: Response) -> Callable[[], Awaitable[None]]:
    async def close() -> None:
        response.close()  # an answer read to its end has given its connection back already

    return close


@contextlib.contextmanager
def _upstream_errors(url: str, settings: ServeSettings) -> Iterator[None]:
    """What a network does, as answers to a client."""
    try:
        yield
    except ConnectTimeout as error:
        LOG.warning("%s took no connection in time: %s", url, error)
        what = f"the model server took no connection within {settings.connect_timeout_s:g} s"
        raise RequestError(what, 504, code="upstream_timeout") from error
    except TimeoutError as error:
        LOG.warning("%s did not answer in time: %s", url, error)
        what = f"the model server sent nothing for {settings.timeout_s:g} s"
        raise RequestError(what, 504, code="upstream_timeout") from error
    except (OSError, ValueError, zlib.error) as error:
        # Only the kind is told: the words of a protocol error may quote what a model said.
        reason = next((said for kind, said in FAILURES.items() if isinstance(error, kind)), type(error).__name__)
        LOG.warning("%s failed: %s", url, reason)
        what = f"the model server failed ({reason})"  # its address is not the client's business
        raise RequestError(what, 502, code="upstream_error") from error
