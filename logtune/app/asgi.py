"""ASGI by hand: one request in, one answer out, errors in OpenAI's shape.

Scope, Receive, Send -> Request; respond(), error_body()

A framework would add a dependency and a millisecond, and buffers what a gateway has to pass on as it comes.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, cast

from logtune.errors import RequestError
from logtune.records import Json

Scope: TypeAlias = MutableMapping[str, object]
Event: TypeAlias = MutableMapping[str, object]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]
Hear: TypeAlias = Callable[[Callable[[], None] | None], None]
Come: TypeAlias = Callable[[int], bytes | None]  # takes a body of at most so many bytes if it is here; None: read it

GONE, HERE = "logtune.gone", "logtune.here"  # extensions of our own server's scopes: a Hear, a Come
DRAINED = 64 << 20  # bytes read and thrown away of a body that is too large, so that the client hears the answer
TYPES = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request; header names in lower case, the last of a repeated one counts."""

    method: str
    path: str
    headers: Mapping[str, str]
    receive: Receive
    hear: Hear | None = None  # the server's own word of a client that goes
    project: str = "default"  # whose it is, once access has said so
    receive_s: float | None = None  # seconds in which the body must have come; None: however long
    come: Come | None = None  # the server's own word of a body that is here

    @classmethod
    def of(cls, scope: Scope, receive: Receive) -> "Request":
        """The request of an ASGI scope of type http."""
        pairs = cast("list[tuple[bytes, bytes]]", scope["headers"])
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in pairs}
        own = cast("Mapping[str, object]", scope.get("extensions") or {})
        hear, come = cast("Hear | None", own.get(GONE)), cast("Come | None", own.get(HERE))
        return cls(str(scope["method"]), str(scope["path"]), headers, receive, hear, come=come)

    async def body(self, limit: int) -> bytes:
        """The whole body; RequestError 413 above `limit` bytes, 408 when slow, ConnectionError when the client goes."""
        here = self.come(limit) if self.come is not None else None
        if here is not None:
            return here
        try:
            async with asyncio.timeout(self.receive_s):
                return await self._whole(limit)
        except TimeoutError as error:
            what = f"the request body had not arrived after {self.receive_s:g} s"
            raise RequestError(what, 408, code="request_timeout", headers={"connection": "close"}) from error

    async def _whole(self, limit: int) -> bytes:
        chunks, size, more = list[bytes](), 0, True
        while more and size <= limit + DRAINED:
            event = await self.receive()
            if event["type"] == "http.disconnect":
                raise ConnectionResetError("the client went away before its request was complete")
            chunk = cast("bytes", event.get("body", b""))
            size += len(chunk)
            more = bool(event.get("more_body", False))
            if size <= limit:
                chunks.append(chunk)
            else:
                chunks.clear()
        if size > limit:
            raise RequestError(f"the request body is larger than {limit} bytes", 413, code="request_too_large")
        return b"".join(chunks)

    def watch(self, gone: Callable[[], None]) -> Callable[[], None]:
        """Call `gone` when the client goes away, only after the body was read; what this returns ends that.

        Where the server tells itself, that spares each request a task that waits for nothing.
        """
        if self.hear is not None:
            self.hear(gone)
            return partial(self.hear, None)
        waiting = asyncio.create_task(self._until_gone())
        waiting.add_done_callback(lambda task: None if task.cancelled() else gone())
        return cast("Callable[[], None]", waiting.cancel)

    async def _until_gone(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass


def parse_object(body: bytes) -> dict[str, Json]:
    """The JSON object in `body`; RequestError 400 saying where it is none."""
    value = parse_json(body)
    if not isinstance(value, dict):
        raise RequestError(f"the request body is a JSON {type(value).__name__}, not an object")
    return value


def parse_json(body: bytes) -> Json:
    """The JSON value in `body`; RequestError 400 saying where it is none."""
    try:
        return cast("Json", _DECODER.decode(body.decode("utf-8")))
    except UnicodeDecodeError as error:
        raise RequestError(f"the request body is not UTF-8: byte {error.start} is 0x{body[error.start]:02x}") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the request body is not valid JSON: {error}") from error


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)  # made once, where json.loads makes one each time


def error_body(error: RequestError) -> dict[str, Json]:
    """OpenAI's error object, which its clients turn into their exceptions."""
    default = "server_error" if error.status >= 500 else "invalid_request_error"
    kind = TYPES.get(error.status, default)
    return {"error": {"message": error.what, "type": kind, "param": error.param, "code": error.code}}


async def respond(send: Send, status: int, body: bytes, content_type: str, headers: Headers | None = None) -> None:
    """Send one whole answer."""
    await begin_answer(send, status, len(body), content_type, headers)
    await end_answer(send, body)


async def begin_answer(
    send: Send, status: int, length: int, content_type: str, headers: Headers | None = None
) -> None:  # fmt: skip
    """Send the head of an answer whose body has `length` bytes."""
    head: Headers = [
        (b"content-type", content_type.encode("latin-1")),
        (b"content-length", str(length).encode()),
        *(headers or []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": head})


async def end_answer(send: Send, body: bytes) -> None:
    """Send the body of an answer, all of it."""
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def respond_json(send: Send, status: int, value: Json, headers: Headers | None = None) -> None:
    """Send one JSON answer."""
    await respond(send, status, json.dumps(value).encode(), "application/json", headers)
