"""The HTTP protocol of the gateway's port: uvicorn's, with limits on heads, waiting and connections, and one framing.

bytes -> GatewayProtocol -> ASGI scope        refused: 400, 408, 431, 503, 505 in OpenAI's shape, then the end

uvicorn reads heads of any size for as long as they take, and waits without end for a client that stops reading its
answer, which lets a client hold memory, connections and requests under way for nothing.
A request whose length can be read in two ways (RFC 9112, 6.3) is what smuggling is made of, so it is never passed on.
"""

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import ClassVar, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from logtune.app.asgi import GONE, HERE, Scope, error_body
from logtune.errors import RequestError

LINGER_S = 2.0  # a refused client may still be sending; closing at once would reset the connection under its answer
AT_ONCE = struct.pack("ii", 1, 0)  # a connection's end by reset: the system throws away what it still holds for it
SEPARATORS = 4  # bytes of a header beside its name and value


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a client may take of a connection."""

    head_bytes: int
    head_s: float  # from the connection, or the head's first byte on a kept one, to the head's end
    send_s: float  # in which a client takes nothing of the answer that waits for it
    connections: int  # open at once in this process
    refused: Callable[[str], None] = lambda _: None  # hears why a connection was ended: a reason code


def limited(limits: Limits) -> type["GatewayProtocol"]:
    """The protocol class with its limits, as uvicorn wants it."""
    return cast("type[GatewayProtocol]", type("LimitedProtocol", (GatewayProtocol,), {"limits": limits}))


class GatewayProtocol(HttpToolsProtocol):
    """One connection; made by `limited`."""

    limits: ClassVar[Limits]

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:  # fmt: skip
        super().__init__(config, server_state, app_state, _loop)
        self._in_head = True  # the next request's head is not complete
        self._begun = False  # something of it has come
        self._head_bytes = 0
        self._ended_here = False  # a request ended in the chunk that is being read
        self._ending = False  # refused
        self._timer: asyncio.TimerHandle | None = None
        self._taking: asyncio.TimerHandle | None = None  # set while something waits for the client to take it
        self._unsent, self._moved = 0, False  # bytes that waited at its last look; whether some were taken since
        self._hears: Callable[[], None] | None = None  # who is told when the client goes before its answer is complete

    # the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to wait for a head, if there is room for one more connection."""
        super().connection_made(cast("asyncio.Transport", transport))
        self._wait_for_head()
        if len(self.connections) > self.limits.connections:
            error = RequestError("the gateway has as many connections as it takes; try again later", 503)
            self._refuse("too_many_connections", error, linger=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting; nobody is left to answer."""
        self._stop_waiting()
        if self._taking is not None:
            self._taking.cancel()
        hears, self._hears = self._hears, None
        super().connection_lost(exc)
        if hears is not None:
            hears()

    def data_received(self, data: bytes) -> None:
        """Read on; what comes after a refusal is thrown away."""
        if self._ending:
            return
        self._unset_keepalive_if_required()
        self._ended_here = False
        self._parse(data)
        if not self._in_head or (self._ended_here and not self._begun):
            return
        if not self._ended_here:
            self._head_bytes += len(data)
        if self._head_bytes > self.limits.head_bytes:
            self._refuse_size()
        elif self._timer is None:
            self._wait_for_head()

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline(data[offer.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("")

    def _decline(self, rest: bytes) -> None:
        """Read a request that offers to speak another protocol (RFC 9110, 7.8) as if it did not offer.

        The parser takes everything after such a head for the other protocol, the body too, so the head is read again
        without the offer. Java's client makes it in its first request.
        """
        kept = [pair for pair in self.headers if pair[0] not in (b"connection", b"upgrade", b"http2-settings")]
        lines = [b"%b %b HTTP/1.1" % (self.parser.get_method(), self.url), *(b"%b: %b" % pair for pair in kept)]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._parse(b"\r\n".join([*lines, b"", rest]))

    # one request

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        self._begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Hand the request on, unless its head is at fault."""
        if self._offered():
            return
        self._stop_waiting()
        self._in_head = False
        if self._ending:
            return
        if len(self.url) + sum(len(name) + len(value) + SEPARATORS for name, value in self.headers) > (
            self.limits.head_bytes
        ):
            self._refuse_size()
        elif fault := self._fault():
            self._refuse("ambiguous", fault)
        else:
            own: dict[str, object] = {GONE: self._hear}
            cast("Scope", self.scope)["extensions"] = own
            super().on_headers_complete()
            own[HERE] = partial(_come, self.cycle)  # of this request, also while earlier ones are answered

    def _hear(self, gone: Callable[[], None] | None) -> None:
        self._hears = gone

    def on_body(self, body: bytes) -> None:
        """Part of a body."""
        if not self._ending:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request."""
        if self._offered():
            return
        self._in_head, self._begun, self._ended_here, self._head_bytes = True, False, True, 0
        if not self._ending:
            super().on_message_complete()

    def _offered(self) -> bool:
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _fault(self) -> RequestError | None:
        """Why a head could be read in two ways; None: it cannot."""
        names = [name for name, _ in self.headers]
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            return RequestError(f"HTTP/{version} is not spoken here", 505)
        if self.parser.get_method() == b"CONNECT":
            return RequestError("CONNECT is for proxies, and this is none", 405)
        if names.count(b"host") != 1 and (version == "1.1" or b"host" in names):
            return RequestError("a request has one Host header")
        if b"transfer-encoding" in names:
            coding = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
            if b"content-length" in names or coding != [b"chunked"] or version == "1.0":
                return RequestError("Transfer-Encoding is chunked, once, without Content-Length, or it is left out")
        elif names.count(b"content-length") > 1:
            return RequestError("a request has one Content-Length")
        return None

    # the answer

    def pause_writing(self) -> None:
        """The client takes less than there is: from now on it is watched. One that keeps up is not."""
        super().pause_writing()
        self._watch_taking()

    def resume_writing(self) -> None:
        """Most of it was taken."""
        super().resume_writing()
        self._moved = True

    def on_response_complete(self) -> None:
        """The end of an answer, of which some may wait yet."""
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self._watch_taking()

    def _watch_taking(self) -> None:
        if self._taking is None:
            self._unsent, self._moved = self.transport.get_write_buffer_size(), False
            self._taking = self.loop.call_later(self.limits.send_s, self._look)
        else:
            self._moved = True

    def _look(self) -> None:
        """One timer for many answers: a client of whose answer nothing is taken in that time is as good as gone."""
        self._taking, unsent = None, self.transport.get_write_buffer_size()
        if self._moved or unsent < self._unsent:
            if unsent:
                self._watch_taking()
        elif unsent:
            self.limits.refused("not_read")
            connection = cast("socket.socket", self.transport.get_extra_info("socket"))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            self.transport.abort()

    # refusals

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse("malformed", RequestError("this is not a valid HTTP/1.1 request"))

    def _refuse_size(self) -> None:
        limit = self.limits.head_bytes
        what = f"the request's line and headers are larger than {limit} bytes"
        self._refuse("head_too_large", RequestError(what, 431, code="headers_too_large"))

    def _late(self) -> None:
        self._timer = None
        if self._answering():
            self._wait_for_head()  # the client may be busy reading the answer to the request before
        elif not self._begun:
            self.limits.refused("no_request")  # nothing was asked, so nothing is answered
            self.transport.close()
        else:
            what = f"the request's headers did not arrive within {self.limits.head_s:g} s"
            self._refuse("head_too_late", RequestError(what, 408, code="request_timeout"))

    def _refuse(self, reason: str, error: RequestError, *, linger: bool = True) -> None:
        """Answer with an error and end the connection; the answer to a request that came whole is finished instead."""
        if self._ending:
            return
        self._ending = True
        self._stop_waiting()
        self.limits.refused(reason)
        if self._answering() and not self.cycle.more_body:
            self.cycle.keep_alive = False
            return
        if self._answering():
            self.cycle.disconnected = True  # its body will never be whole
            self.cycle.message_event.set()
            if self.cycle.response_started or self.pipeline:
                self.transport.close()
                return
        self.transport.write(_answer(error))
        if linger and self.transport.can_write_eof():
            self.transport.write_eof()
            self._timer = self.loop.call_later(LINGER_S, self.transport.close)
        else:
            self.transport.close()

    def _answering(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is not None and not cycle.response_complete

    def _wait_for_head(self) -> None:
        if not self._ending:
            self._timer = self.loop.call_later(self.limits.head_s, self._late)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _come(cycle: RequestResponseCycle, limit: int) -> bytes | None:
    """Take the body of a request that came whole; nothing has to be awaited for it, nor a time to be kept."""
    if cycle.more_body or cycle.disconnected or cycle.response_complete or cycle.waiting_for_100_continue:
        return None
    if len(cycle.body) > limit:
        return None
    cycle.flow.resume_reading()
    cycle.message_event.clear()  # what is awaited next is the client's end
    body, cycle.body = bytes(cycle.body), bytearray()
    return body


def _answer(error: RequestError) -> bytes:
    body = json.dumps(error_body(error)).encode()
    head = (
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body
