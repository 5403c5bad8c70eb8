"""A lean HTTP/1.1 client for one server: connections are kept, answers come in chunks, and nothing is interpreted.

Client.request -> Response (status, headers, chunks of the body as they come)

A general client does much that has no place between a client and its model server: cookies, which one user's answer
would set for the next; redirects; compression. It also costs several times as much a request (docs/log.md).
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Iterable
from urllib.parse import urlsplit

from logtune.edges.http_connection import Connection, ConnectTimeout, Refused, Response, Timeouts


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
        self._open: set[Connection] = set()
        self._making = 0  # connections on their way, or promised to a waiter
        self._idle: list[Connection] = []  # the one used last comes last, and is used next
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()  # None: make one
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

    def made(self, connection: Connection) -> None:
        """A connection is open."""
        self._open.add(connection)

    def free(self, connection: Connection) -> None:
        """A connection has done its work."""
        if self._hand_over(connection):
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._sweeping is None:
            self._sweeping = loop.call_later(self._keep_s, self._sweep)

    def gone(self, connection: Connection) -> None:
        """A connection has ended."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._promise()

    def _hand_over(self, connection: Connection | None) -> bool:
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

    async def _connection(self) -> Connection:
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

    async def _wait(self) -> Connection | None:
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
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

    def _give_back(self, given: Connection | None) -> None:
        if given is not None:
            self.free(given)
        else:
            self._making -= 1
            self._promise()

    async def _make(self) -> Connection:
        """A new connection, whose place was counted in `_making`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.timeouts.connect):
                _, connection = await loop.create_connection(
                    lambda: Connection(self), self._host, self._port, ssl=self._context()
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
