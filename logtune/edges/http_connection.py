"""One connection to an HTTP/1.1 server, with at most one request under way.

request (bytes) -> Connection.ask -> Response (status, headers, chunks of the body as they come)
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol, cast

import httptools

Pairs = list[tuple[str, str]]
BUFFERED = 256 << 10  # bytes of an answer that wait for its reader; then the server has to wait
LONGEST_HEAD = 256 << 10  # bytes of an answer before its body begins, its 1xx messages with it
STALE_S = 1.0  # a server that closes an idle connection does so at once; a later end is that of work begun


class Refused(ConnectionError):
    """No connection could be made, so nothing was sent."""


class ConnectTimeout(TimeoutError):
    """No connection in time."""


class BrokenOff(ConnectionError):
    """The connection ended before the answer did. `stale`: it was an idle one, and no byte of an answer came."""

    def __init__(self, what: str, *, stale: bool = False) -> None:
        super().__init__(what)
        self.stale = stale


class NotHttp(ValueError):
    """What came is no HTTP/1.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds."""

    connect: float  # for a connection
    read: float  # without a byte of the answer


class Owner(Protocol):
    """Whoever keeps connections, and hears what becomes of them."""

    timeouts: Timeouts

    def made(self, connection: "Connection", /) -> None:
        """A connection is open."""

    def free(self, connection: "Connection", /) -> None:
        """A connection has done its work."""

    def gone(self, connection: "Connection", /) -> None:
        """A connection has ended."""


class Response:
    """An answer whose head is here. Always `close` it: an unfinished one gives up its connection."""

    def __init__(self, status: int, headers: Pairs, connection: "Connection") -> None:
        self.status = status
        self.headers = headers  # names in lower case
        self._connection: Connection | None = connection  # None: the answer is complete, or has failed
        self._parts: list[bytes] = []
        self._size = 0
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes; raises what broke it off."""
        while True:
            if self._parts:
                chunk = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
                self._parts, self._size = [], 0
                if self._connection is not None:
                    self._connection.flow()
                yield chunk
            elif self._error is not None:
                raise self._error
            elif self._connection is None:
                return
            else:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter

    def close(self) -> None:
        """End it; the connection of an unfinished answer cannot be used again."""
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    def feed(self, data: bytes) -> bool:
        """Take part of the body; False: the server should wait."""
        self._parts.append(data)
        self._size += len(data)
        self._wake()
        return self._size < BUFFERED

    def end(self, error: Exception | None = None) -> None:
        """The answer is complete, or has failed."""
        self._connection, self._error = None, error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Connection(asyncio.Protocol):
    """One connection with at most one request under way; httptools calls the `on_` methods."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._head: asyncio.Future[Response] | None = None  # of the request under way
        self._response: Response | None = None
        self._pairs: Pairs = []
        self._head_bytes = 0  # read while the head was not complete
        self._interim = False  # the message is a 1xx
        self._by_length = True  # the answer says where it ends; otherwise it ends with the connection
        self._paused = False
        self._reusable = self._unasked = False
        self._sent = self._heard = 0.0
        self._silent = True  # no byte of an answer has come
        self._answered = 0  # requests before the one under way
        self._timer: asyncio.TimerHandle | None = None
        self.idle_since = 0.0

    async def ask(self, request: bytes) -> Response:
        """Send a whole request; the answer once its head is here."""
        assert self._transport is not None
        if self._transport.is_closing():  # since it was chosen
            raise BrokenOff("the connection was closed", stale=self._answered > 0)
        self._sent, self._silent = self._loop.time(), True
        self._heard = self._sent
        self._head, self._response, self._pairs = self._loop.create_future(), None, []
        self._head_bytes = 0
        if self._timer is None:
            self._timer = self._loop.call_later(self._owner.timeouts.read, self._listen)
        self._transport.write(request)
        try:
            return await self._head
        except BaseException:
            self.abort()
            raise

    def usable(self, oldest: float) -> bool:
        """Whether it is open and was used since `oldest`."""
        return self._transport is not None and not self._transport.is_closing() and self.idle_since >= oldest

    def abort(self) -> None:
        """End it at once."""
        if self._transport is not None:
            self._transport.abort()

    def flow(self) -> None:
        """The reader has room again."""
        if self._paused and self._transport is not None:
            self._paused, self._heard = False, self._loop.time()
            self._transport.resume_reading()

    def _listen(self) -> None:
        """One timer for many requests: it looks whether anything was heard since it was set."""
        self._timer = None
        if self._head is None:
            return
        silent = 0.0 if self._paused else self._loop.time() - self._heard
        if silent < self._owner.timeouts.read:
            self._timer = self._loop.call_later(self._owner.timeouts.read - silent, self._listen)
        else:
            self._fail(TimeoutError(f"nothing came for {silent:.3g} s"))

    def _fail(self, error: Exception) -> None:
        head, self._head = self._head, None
        if self._response is not None:
            self._response.end(error)
        elif head is not None and not head.done():
            head.set_exception(error)
        self.abort()

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready for a request."""
        self._transport = cast("asyncio.Transport", transport)
        self._owner.made(self)

    def data_received(self, data: bytes) -> None:
        """Part of an answer."""
        if self._head is None:  # nobody has asked
            self.abort()
            return
        self._heard, self._silent = self._loop.time(), False
        self._head_bytes += len(data) if self._response is None else 0
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(NotHttp(str(error)))
            return
        if self._unasked:  # a second answer follows the first: the next request must not get it
            self.abort()
        elif self._reusable:
            self._reusable = False
            self._owner.free(self)
        if self._head_bytes > LONGEST_HEAD and self._response is None and self._head is not None:
            self._fail(NotHttp("the head of the answer does not end"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The server has ended it, or `abort`."""
        if self._timer is not None:
            self._timer.cancel()
        if self._head is not None:
            if self._response is not None and not self._by_length and exc is None:
                self._complete(reuse=False)
            else:
                stale = self._silent and self._answered > 0 and self._loop.time() - self._sent < STALE_S
                self._fail(BrokenOff(str(exc or "the connection was closed"), stale=stale))
        self._owner.gone(self)

    # httptools

    def on_message_begin(self) -> None:
        """The first byte of an answer."""
        self._unasked = self._head is None

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header of the head."""
        self._pairs.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        """The head is here."""
        if self._unasked:
            return
        status = self._parser.get_status_code()
        self._interim = status < 200
        if self._interim:
            self._pairs = []
            return
        self._by_length = any(name in ("content-length", "transfer-encoding") for name, _ in self._pairs)
        self._response = Response(status, self._pairs, self)
        if self._head is not None and not self._head.done():
            self._head.set_result(self._response)

    def on_body(self, body: bytes) -> None:
        """Part of the body."""
        if self._response is not None and not self._response.feed(body) and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """The end of a message that says where it ends."""
        if not self._interim and not self._unasked:
            self._complete(reuse=self._parser.should_keep_alive())

    def _complete(self, *, reuse: bool) -> None:
        """The answer is complete: the connection is free for the next, while the reader still reads."""
        if self._response is None:
            return
        response, self._response, self._head = self._response, None, None
        self._answered += 1
        response.end()
        self.flow()
        self._reusable = reuse
        if not reuse and self._transport is not None:
            self._transport.close()
