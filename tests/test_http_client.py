"""The lean HTTP client against scripted servers: framing, kept connections, limits, time, ways to break off."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logtune.edges.http_client import Client
from logtune.edges.http_connection import BUFFERED, BrokenOff, ConnectTimeout, NotHttp, Refused, Response, Timeouts

Script = Callable[["Server", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
LONG = Timeouts(connect=30.0, read=30.0)
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Odd: a\r\nx-odd: b\r\n\r\nhello"


@dataclass
class Server:
    """Runs `script` on every connection; keeps what it was asked."""

    script: Script
    asked: list[bytes] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    async def request(self, reader: asyncio.StreamReader) -> bytes:
        """The next request, whole; IncompleteReadError when the client goes."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
        self.asked.append(head + await reader.readexactly(length))
        return self.asked[-1]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self.script(self, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(script: Script, timeouts: Timeouts = LONG, **more: float) -> AsyncIterator[tuple[Server, Client]]:
    server = Server(script)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    client = Client(f"http://127.0.0.1:{server.port}/v1", timeouts, most=int(more.get("most", 0)), keep_s=30.0)
    try:
        yield server, client
    finally:
        await client.close()
        listening.close()


def always(*parts: bytes, then_close: bool = False) -> Script:
    """Answers each request with these parts, one write each."""

    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.request(reader)
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)
            if then_close:
                return

    return script


async def whole(response: Response) -> bytes:
    return b"".join([chunk async for chunk in response.chunks()])


async def ask(client: Client, body: bytes = b"{}") -> bytes:
    return await whole(await client.request("POST", "/chat", [("accept", "*/*")], body))


async def test_a_request_goes_out_as_it_is_given_and_the_answer_comes_back() -> None:
    async with serving(always(HELLO)) as (server, client):
        response = await client.request("POST", "/chat", [("authorization", "Bearer k")], b'{"a": 1}')
        assert response.status == 200
        assert response.headers == [("content-length", "5"), ("x-odd", "a"), ("x-odd", "b")]
        assert await whole(response) == b"hello"
        response.close()
    assert server.asked == [
        f"POST /v1/chat HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\nauthorization: Bearer k\r\n".encode()
        + b'content-length: 8\r\n\r\n{"a": 1}'
    ]


async def test_a_header_with_a_line_break_is_refused() -> None:
    async with serving(always(HELLO)) as (server, client):
        with pytest.raises(ValueError, match="line break"):
            await client.request("POST", "/chat", [("authorization", "Bearer k\r\nx: y")], b"")
    assert server.asked == []


ANSWERS = {
    "length": (HELLO, b"hello"),
    "chunked": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nx: y\r\n\r\n", b"hello"
    ),
    "no body": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "after 100 and 103": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + HELLO, b"hello"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(1, 200), max_size=4))
def test_an_answer_cut_anywhere_is_the_same(name: str, cuts: list[int]) -> None:
    raw, body = ANSWERS[name]
    places = sorted({min(cut, len(raw)) for cut in cuts})
    parts = [raw[start:end] for start, end in zip([0, *places], [*places, len(raw)], strict=True)]

    async def run() -> None:
        async with serving(always(*filter(None, parts))) as (server, client):
            assert [await ask(client), await ask(client)] == [body, body]
        assert server.connections == 1

    asyncio.run(run())


async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    async with serving(always(b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo", then_close=True)) as (server, client):
        assert [await ask(client), await ask(client)] == [b"hello", b"hello"]
    assert server.connections == 2


async def test_a_server_that_will_close_is_not_asked_again_on_that_connection() -> None:
    answer = HELLO.replace(b"X-Odd: a", b"Connection: close")
    async with serving(always(answer, then_close=True)) as (server, client):
        assert [await ask(client), await ask(client)] == [b"hello", b"hello"]
    assert server.connections == 2


@pytest.mark.parametrize("part", [
    b"HTTP/1.1 200 OK\r\ncontent-le", HELLO[:-1], ANSWERS["chunked"][0][:-20], ANSWERS["chunked"][0][:-2],
])  # fmt: skip
async def test_an_answer_that_breaks_off_is_an_error_and_was_begun(part: bytes) -> None:
    async with serving(always(part, then_close=True)) as (_, client):
        with pytest.raises(BrokenOff) as error:
            await ask(client)
    assert not error.value.stale


async def test_an_idle_connection_that_was_closed_is_told_apart() -> None:
    async def once(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(HELLO)
        await server.request(reader)

    async with serving(once) as (_, client):
        await ask(client)
        with pytest.raises(BrokenOff) as error:
            await ask(client)
    assert error.value.stale


@pytest.mark.parametrize("raw", [
    b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", b"\x16\x03\x01",
])  # fmt: skip
async def test_what_is_no_http_is_told(raw: bytes) -> None:
    async with serving(always(raw)) as (_, client):
        with pytest.raises(NotHttp):
            await ask(client)


async def test_an_answer_that_nobody_asked_for_goes_to_nobody() -> None:
    async with serving(always(HELLO + HELLO)) as (server, client):
        assert await ask(client) == b"hello"
        assert await ask(client) == b"hello"
    assert server.connections == 2


async def test_nobody_there_is_refused() -> None:
    async with serving(always(HELLO)) as (server, _):
        port = server.port
    with pytest.raises(Refused):
        await ask(Client(f"http://127.0.0.1:{port}", LONG))


@pytest.mark.parametrize("start", [b"", HELLO[:-1]])
async def test_silence_is_a_timeout(start: bytes) -> None:
    quick = Timeouts(connect=30.0, read=0.05)
    async with serving(always(start), quick) as (_, client):
        with pytest.raises(TimeoutError, match="nothing came"):
            await ask(client)


async def test_a_cancelled_request_closes_its_connection() -> None:
    gone, asked = asyncio.Event(), asyncio.Event()

    async def waiting(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        asked.set()
        await reader.read()
        gone.set()

    async with serving(waiting) as (_, client):
        task = asyncio.create_task(ask(client))
        await asked.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await gone.wait()


async def test_an_answer_that_is_closed_early_closes_its_connection() -> None:
    gone = asyncio.Event()

    async def streaming(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(HELLO[:-1])
        await reader.read()
        gone.set()

    async with serving(streaming) as (_, client):
        response = await client.request("POST", "/chat", [], b"")
        assert await anext(response.chunks()) == b"hell"
        response.close()
        await gone.wait()


async def test_a_slow_reader_makes_the_server_wait() -> None:
    size, sent = 40 * BUFFERED, 0

    async def pouring(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await server.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(0, size, BUFFERED):
            writer.write(bytes(BUFFERED))
            await writer.drain()
            sent += BUFFERED

    async with serving(pouring) as (_, client):
        response = await client.request("POST", "/chat", [], b"")
        before = -1
        while sent != before:  # until nothing more can be sent
            before = sent
            for _ in range(200):
                await asyncio.sleep(0)
        assert sent < size
        assert len(await whole(response)) == size


async def test_no_more_connections_than_allowed_and_everybody_is_served() -> None:
    async with serving(always(HELLO), most=2) as (server, client):
        assert await asyncio.gather(*(ask(client) for _ in range(20))) == [b"hello"] * 20
    assert server.connections == 2


def holding(asked: asyncio.Event, release: asyncio.Event) -> Script:
    """Answers nothing until it is told to."""

    async def script(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.request(reader)
            asked.set()
            await release.wait()
            writer.write(HELLO)

    return script


async def test_waiting_for_a_connection_has_an_end() -> None:
    asked, release = asyncio.Event(), asyncio.Event()
    async with serving(holding(asked, release), most=1) as (_, client):
        first = asyncio.create_task(ask(client))
        await asked.wait()
        client.timeouts = Timeouts(connect=0.01, read=0.01)
        with pytest.raises(ConnectTimeout, match="in use"):
            await ask(client)
        client.timeouts = LONG
        release.set()
        assert [await first, await ask(client)] == [b"hello"] * 2


async def test_a_waiter_that_is_cancelled_takes_no_connection_with_it() -> None:
    asked, release = asyncio.Event(), asyncio.Event()
    async with serving(holding(asked, release), most=1) as (server, client):
        first = asyncio.create_task(ask(client))
        await asked.wait()
        gone, stays = asyncio.create_task(ask(client)), asyncio.create_task(ask(client))
        await asyncio.sleep(0)
        gone.cancel()
        release.set()
        assert [await first, await stays] == [b"hello"] * 2
    assert server.connections == 1


async def test_idle_connections_are_closed_after_their_time() -> None:
    closed = asyncio.Event()

    async def watching(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(HELLO)
        await reader.read()
        closed.set()

    server = Server(watching)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    client = Client(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", LONG, keep_s=0.01)
    assert await ask(client) == b"hello"
    await closed.wait()
    await client.close()
    listening.close()
