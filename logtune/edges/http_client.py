"""A lean HTTP/1.1 client for one server: connections are kept, answers come in chunks, and nothing is interpreted.

Client.request -> Response (status, headers, chunks of the body as they come)

A general client does much that has no place between a client and its model server: cookies, which one user's answer
would set for the next; redirects; compression. It also costs several times as much a request (docs/log.md).
"""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

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


class Response:
    """An answer whose head is here. Always `close` it: an unfinished one gives up its connection."""

    def __init__(self, status: int, headers: Pairs, connection: "_Connection") -> None:
        self.status = status
        self.headers = headers  # names in lower case
        self._connection: _Connection | None = connection  # None: the answer is complete, or has failed
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


class _Connection(asyncio.Protocol):
    """One connection with at most one request under way; httptools calls the `on_` methods."""

    def __init__(self, client: "Client") -> None:
        self._client = client
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
            self._timer = self._loop.call_later(self._client.timeouts.read, self._listen)
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
        if silent < self._client.timeouts.read:
            self._timer = self._loop.call_later(self._client.timeouts.read - silent, self._listen)
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
        self._client.made(self)

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
        if self._head_bytes > LONGEST_HEAD and self._response is None and self._head is not None:
            self._fail(NotHttp("the head of the answer does not end"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The server has ended it, or `abort`."""
        if self._timer is not None:
            self._timer.cancel()
        if self._head is not None:
            if self._response is not None and not self._by_length and exc is None:
                self.on_message_complete()
            else:
                stale = self._silent and self._answered > 0 and self._loop.time() - self._sent < STALE_S
                self._fail(BrokenOff(str(exc or "the connection was closed"), stale=stale))
        self._client.gone(self)

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header of the head."""
        self._pairs.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        """The head is here."""
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
        """The answer is complete: the connection is free for the next, while the reader still reads."""
        if self._interim or self._response is None:
            return
        response, self._response, self._head = self._response, None, None
        self._answered += 1
        response.end()
        self.flow()
        if self._by_length and self._parser.should_keep_alive():
            self._client.free(self)
        elif self._transport is not None:
            self._transport.close()


class Client:
    """Keeps connections to the server of `url`; `most` open at once (0: any number), idle ones for `keep_s`."""

    def __init__(self, url: str, timeouts: Timeouts, *, most: int = 0, keep_s: float = 3.0) -> None:
        parts = urlsplit(url)
        self.timeouts = timeouts
        self._host = parts.hostname or "localhost"
        self._secure = parts.scheme == "https"
        self._port = parts.port or (443 if self._secure else 80)
        self._path = parts.path.rstrip("/")
        self._about = f"HTTP/1.1\r\nhost: {parts.netloc.rpartition('@')[2]}"
        self._most = most
        self._keep_s = keep_s
        self._tls: ssl.SSLContext | None = None
        self._open: set[_Connection] = set()
        self._making = 0  # connections on their way, or promised to a waiter
        self._idle: list[_Connection] = []  # the one used last comes last, and is used next
        self._waiting: deque[asyncio.Future[_Connection | None]] = deque()  # None: make one
        self._sweeping: asyncio.TimerHandle | None = None

    async def request(self, method: str, path: str, headers: Iterable[tuple[str, str]], body: bytes) -> Response:
        """Send one request to `path` below the URL. Raises Refused, BrokenOff, NotHttp, ConnectTimeout, TimeoutError.

        Safe to send again after Refused, and after BrokenOff that is `stale`: the server cannot have begun it.
        """
        lines = [f"{method} {self._path}{path} {self._about}", *[f"{name}: {value}" for name, value in headers]]
        if body:
            lines.append(f"content-length: {len(body)}")
        head = "\r\n".join(lines)
        if head.count("\n") != len(lines):  # the first line has one of its own
            raise ValueError("a header holds a line break")
        connection = await self._connection()
        return await connection.ask(b"%b\r\n\r\n%b" % (head.encode("latin-1"), body))

    async def close(self) -> None:
        """Close every connection."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        for connection in list(self._open):
            connection.abort()

    def made(self, connection: _Connection) -> None:
        """A connection is open."""
        self._open.add(connection)

    def free(self, connection: _Connection) -> None:
        """A connection has done its work."""
        if self._hand_over(connection):
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._sweeping is None:
            self._sweeping = loop.call_later(self._keep_s, self._sweep)

    def gone(self, connection: _Connection) -> None:
        """A connection has ended."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._promise()

    def _hand_over(self, connection: _Connection | None) -> bool:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return True
        return False

    def _promise(self) -> None:
        """Let a waiter make a connection where there is room for one."""
        if self._room() and self._hand_over(None):
            self._making += 1

    def _room(self) -> bool:
        return not self._most or len(self._open) + self._making < self._most

    def _sweep(self) -> None:
        """Close what was idle for too long."""
        loop = asyncio.get_running_loop()
        oldest = loop.time() - self._keep_s
        for connection in [item for item in self._idle if not item.usable(oldest)]:
            self._idle.remove(connection)
            connection.abort()
        self._sweeping = loop.call_later(self._keep_s, self._sweep) if self._idle else None

    async def _connection(self) -> _Connection:
        oldest = asyncio.get_running_loop().time() - self._keep_s
        while self._idle:
            connection = self._idle.pop()
            if connection.usable(oldest):
                return connection
            connection.abort()
        if self._room():
            self._making += 1
        elif (given := await self._wait()) is not None:
            return given
        return await self._make()

    async def _wait(self) -> _Connection | None:
        waiter: asyncio.Future[_Connection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(self.timeouts.connect + self.timeouts.read):
                return await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():  # given in the same moment: the next one has it
                self._give_back(waiter.result())
            if isinstance(error, TimeoutError):
                raise ConnectTimeout("all connections are in use") from error
            raise

    def _give_back(self, given: _Connection | None) -> None:
        if given is not None:
            self.free(given)
        else:
            self._making -= 1
            self._promise()

    async def _make(self) -> _Connection:
        """A new connection, whose place was counted in `_making`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.timeouts.connect):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self), self._host, self._port, ssl=self._context()
                )  # fmt: skip
        except TimeoutError as error:
            raise ConnectTimeout(f"no connection within {self.timeouts.connect:g} s") from error
        except OSError as error:
            raise Refused(str(error)) from error
        else:
            return connection
        finally:
            self._making -= 1
            self._promise()

    def _context(self) -> ssl.SSLContext | None:
        if self._secure and self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls
