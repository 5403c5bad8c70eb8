"""The gateway's HTTP protocol on a real port, spoken to by raw sockets."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logtune.app.asgi import Receive, Request, Scope, Send, respond
from logtune.app.http_protocol import Limits, limited
from logtune.errors import RequestError

WAIT_S = 30.0
LARGE = b"x" * (32 << 20)
HEAD = b"POST /v1/x HTTP/1.1\r\nHost: here\r\n"
PATIENT = Limits(head_bytes=4096, head_s=WAIT_S, send_s=WAIT_S, connections=100)


@dataclass
class Echo:
    """Answers with the body it was sent; /slow waits for `release` in its middle, /large is large, /endless as well.

    /ten takes ten bytes.
    """

    seen: list[tuple[str, bytes]] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request.of(scope, receive)
        try:
            body = await request.body(10 if request.path == "/ten" else 1 << 20)
        except RequestError as error:
            await respond(send, error.status, str(error).encode(), "text/plain")
            return
        self.seen.append((request.path, body))
        if request.path == "/large":
            await respond(send, 200, LARGE, "text/plain")
            return
        if request.path == "/endless":
            await self._endless(send, request)
            return
        if request.path != "/slow":
            await respond(send, 200, body, "text/plain")
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first ", "more_body": True})
        self.begun.set()
        await asyncio.to_thread(self.release.wait, WAIT_S)
        await send({"type": "http.response.body", "body": b"last", "more_body": False})

    async def _endless(self, send: Send, request: Request) -> None:
        gone = False

        def hear() -> None:
            nonlocal gone
            gone = True

        request.watch(hear)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not gone:
            await send({"type": "http.response.body", "body": LARGE[:65536], "more_body": True})
            await asyncio.sleep(0)
        self.release.set()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


@dataclass
class Port:
    address: tuple[str, int]
    app: Echo
    reasons: list[str]

    def open(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=WAIT_S)

    def says(self, *sent: bytes) -> bytes:
        """All that the server sends until it closes; what is sent may meet a closed connection."""
        with self.open() as client:
            for part in sent:
                client.sendall(part)
            return rest(client)


def rest(client: socket.socket) -> bytes:
    found = b""
    while chunk := client.recv(65536):
        found += chunk
    return found


@contextmanager
def listening(limits: Limits = PATIENT) -> Iterator[Port]:
    reasons: list[str] = []
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.bind(("127.0.0.1", 0))
    app = Echo()
    heard = replace(limits, refused=reasons.append)
    config = uvicorn.Config(
        app, http=limited(heard), ws="none", lifespan="off", log_config=None, proxy_headers=False,
        timeout_keep_alive=WAIT_S,
    )  # fmt: skip
    server = _Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        assert server.up.wait(WAIT_S)
        yield Port(bound.getsockname(), app, reasons)
    finally:
        app.release.set()
        server.should_exit = True
        thread.join(WAIT_S)
        bound.close()


@pytest.fixture(scope="module")
def port() -> Iterator[Port]:
    with listening() as found:
        yield found


def refusal(answer: bytes) -> tuple[int, dict[str, object]]:
    """The status and error of an answer that is one whole OpenAI-shaped error and the end of the connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode("ascii").split("\r\n")
    assert "connection: close" in lines
    assert f"content-length: {len(body)}" in lines
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return int(lines[0].split()[1]), error


@pytest.mark.parametrize(("sent", "status"), [(b"0123456789", 200), (b"0123456789a", 413)])
def test_a_body_that_comes_with_its_head_is_held_to_its_limit(port: Port, sent: bytes, status: int) -> None:
    head = b"POST /ten HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(sent)
    answer = port.says(head + sent)
    assert answer.startswith(b"HTTP/1.1 %d" % status), answer
    assert answer.endswith(sent if status == 200 else b"larger than 10 bytes")


def one(client: socket.socket) -> bytes:
    """One answer with a length, its head included."""
    found = b""
    while b"\r\n\r\n" not in found:
        found += client.recv(65536)
    head, _, body = found.partition(b"\r\n\r\n")
    length = int(next(line[16:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: ")))
    while len(body) < length:
        body += client.recv(65536)
    return body


# what passes


def test_requests_follow_each_other_on_a_connection(port: Port) -> None:
    with port.open() as client:
        for number in range(3):
            body = b"%d" % number
            client.sendall(HEAD + b"Content-Length: 1\r\n\r\n" + body)
            assert one(client) == body


def test_a_request_may_come_byte_by_byte(port: Port) -> None:
    with port.open() as client:
        for byte in HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n":
            client.sendall(bytes([byte]))
        assert one(client) == b"ab"


def test_pipelined_requests_larger_than_a_head_are_no_large_head(port: Port) -> None:
    whole = HEAD + b"Content-Length: 9000\r\n\r\n" + b"x" * 9000
    with port.open() as client:
        client.sendall(whole + whole + HEAD)
        assert one(client)[:9000] == b"x" * 9000
        client.sendall(b"Connection: close\r\n\r\n")
        assert rest(client).endswith(b"\r\n\r\n")


def test_an_offer_of_another_protocol_is_declined_and_the_connection_stays(port: Port) -> None:
    offer = HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    with port.open() as client:
        client.sendall(offer + b"Content-Length: 2\r\n\r\nab")
        assert one(client) == b"ab"
        client.sendall(HEAD + b"Content-Length: 2\r\n\r\ncd")
        assert one(client) == b"cd"


def test_http_1_0_needs_no_host(port: Port) -> None:
    assert port.says(b"GET /old HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 OK")


# heads that are too large, too slow, or could be read in two ways


@pytest.mark.parametrize("large", [
    b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: here\r\n\r\n",
    HEAD + b"X: " + b"a" * 5000 + b"\r\n\r\n",
    HEAD + b"X: y\r\n" * 2000 + b"\r\n",
    HEAD + b"X: " + b"a" * 5000,
    HEAD + b"X: " + b"a" * 500_000,
])  # fmt: skip
def test_a_large_head_is_refused(port: Port, large: bytes) -> None:
    status, error = refusal(port.says(large))
    assert (status, error["code"]) == (431, "headers_too_large")
    assert "4096 bytes" in str(error["message"])
    assert port.reasons[-1] == "head_too_large"


def test_a_head_that_grows_chunk_by_chunk_is_refused_before_it_ends(port: Port) -> None:
    with port.open() as client:
        client.sendall(HEAD)
        for _ in range(5):
            client.sendall(b"X: " + b"a" * 1000 + b"\r\n")
        assert refusal(rest(client))[0] == 431


def test_a_large_body_is_no_large_head(port: Port) -> None:
    with port.open() as client:
        client.sendall(HEAD + b"Content-Length: 500000\r\n\r\n" + b"x" * 500_000)
        assert len(one(client)) == 500_000


@pytest.mark.parametrize("twice", [
    b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nab",
    b"Content-Length: 2, 2\r\n\r\nab",
    b"Content-Length: +2\r\n\r\nab",
    b"Content-Length: -2\r\n\r\nab",
    b"Content-Length: 0x2\r\n\r\nab",
    b"Content-Length: 2 2\r\n\r\nab",
    b"Content-Length : 2\r\n\r\nab",
    b"Content-Length: 99999999999999999999999\r\n\r\nab",
    b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nab",
    b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"X: a\r\n Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\nab",
    b"X: a\nContent-Length: 2\r\n\r\nab",
    b"X: a\x00b\r\nContent-Length: 2\r\n\r\nab",
    b"X\x00: a\r\nContent-Length: 2\r\n\r\nab",
    b"Host: there\r\nContent-Length: 2\r\n\r\nab",
])  # fmt: skip
def test_a_request_that_could_be_read_in_two_ways_is_refused(port: Port, twice: bytes) -> None:
    seen = len(port.app.seen)
    status, error = refusal(port.says(HEAD + twice))
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert port.reasons[-1] in ("ambiguous", "malformed")
    assert [body for _, body in port.app.seen[seen:]] in ([], [b""])  # at most a request whose body then went wrong
    assert not any(path == "/smuggled" for path, _ in port.app.seen)


@pytest.mark.parametrize(("odd", "status"), [
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/2.0\r\nHost: here\r\n\r\n", 505),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    (b"SSH-2.0-OpenSSH_9.6\r\n", 400),
    (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: here\r\n\r\n", 400),
    (b"CONNECT there:443 HTTP/1.1\r\nHost: there:443\r\n\r\n", 405),
    (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
])  # fmt: skip
def test_what_is_no_request_is_told_so(port: Port, odd: bytes, status: int) -> None:
    assert refusal(port.says(odd))[0] == status


@pytest.mark.parametrize("body", [b"zz\r\n", b"2\r\nabc\r\n", b"ffffffffffffffffff\r\n"])
def test_a_bad_chunk_ends_the_connection(port: Port, body: bytes) -> None:
    seen = len(port.app.seen)
    assert refusal(port.says(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", body))[0] == 400
    assert len(port.app.seen) == seen


# clients that take their time


def test_a_head_that_does_not_arrive_is_given_up() -> None:
    with listening(Limits(head_bytes=4096, head_s=0.05, send_s=WAIT_S, connections=100)) as port, port.open() as client:
        client.sendall(HEAD + b"X: y")
        status, error = refusal(rest(client))
        assert (status, error["code"]) == (408, "request_timeout")
        assert port.reasons == ["head_too_late"]


def test_a_client_that_says_nothing_hears_nothing() -> None:
    with listening(Limits(head_bytes=4096, head_s=0.05, send_s=WAIT_S, connections=100)) as port, port.open() as client:
        assert rest(client) == b""
        assert port.reasons == ["no_request"]


@pytest.mark.parametrize("noise", [b"\r\n", b"G"])
def test_a_kept_connection_is_held_to_the_same_time(noise: bytes) -> None:
    with listening(Limits(head_bytes=4096, head_s=0.05, send_s=WAIT_S, connections=100)) as port, port.open() as client:
        client.sendall(HEAD + b"Content-Length: 1\r\n\r\nx")
        assert one(client) == b"x"
        client.sendall(noise)
        answer = rest(client)
        assert answer == b"" if noise == b"\r\n" else refusal(answer)[0] == 408


def test_a_slow_answer_is_no_slow_client() -> None:
    with listening(Limits(head_bytes=4096, head_s=0.05, send_s=WAIT_S, connections=100)) as port, port.open() as slow:
        slow.sendall(b"GET /slow HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        assert port.app.begun.wait(WAIT_S)
        with port.open() as quiet:
            assert rest(quiet) == b""  # the time of a head is over
        port.app.release.set()
        assert b"last" in rest(slow)


def test_what_follows_an_answer_under_way_does_not_cut_it() -> None:
    with listening() as port, port.open() as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: here\r\n\r\n")
        assert port.app.begun.wait(WAIT_S)
        client.sendall(b"nonsense\r\n\r\n")
        while not port.reasons:
            assert client.recv(65536)
            with port.open() as other:  # a round trip: the server has read what came before
                other.sendall(HEAD + b"Content-Length: 1\r\n\r\nx")
                one(other)
        port.app.release.set()
        assert rest(client).endswith(b"4\r\nlast\r\n0\r\n\r\n")
        assert port.reasons == ["malformed"]


UNREAD = Limits(head_bytes=4096, head_s=WAIT_S, send_s=0.1, connections=100)


def test_a_client_that_stops_reading_holds_no_request() -> None:
    with listening(UNREAD) as port, port.open() as client:
        client.sendall(b"GET /endless HTTP/1.1\r\nHost: here\r\n\r\n")
        assert port.app.release.wait(WAIT_S)
        assert port.reasons == ["not_read"]
        with pytest.raises(ConnectionResetError):
            rest(client)


def test_the_rest_of_an_answer_that_is_not_read_holds_no_connection() -> None:
    with listening(UNREAD) as port, port.open() as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        until(lambda: bool(port.reasons))
        assert port.reasons == ["not_read"]
        with pytest.raises(ConnectionResetError):
            rest(client)


def test_a_client_that_reads_on_is_not_cut_off() -> None:
    with listening(replace(UNREAD, send_s=0.5)) as port, port.open() as client:
        client.sendall(b"GET /endless HTTP/1.1\r\nHost: here\r\n\r\n")
        end = time.monotonic() + 1.2
        while time.monotonic() < end:
            assert client.recv(1 << 16)
        assert port.reasons == []
        client.close()
        assert port.app.release.wait(WAIT_S)


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_more_connections_than_allowed_are_refused() -> None:
    with listening(Limits(head_bytes=4096, head_s=WAIT_S, send_s=WAIT_S, connections=1)) as port, port.open() as first:
        first.sendall(HEAD + b"Content-Length: 1\r\n\r\nx")
        assert one(first) == b"x"
        assert refusal(port.says())[0] == 503
        first.sendall(HEAD + b"Content-Length: 1\r\n\r\ny")
        assert one(first) == b"y"
        assert port.reasons == ["too_many_connections"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=200), split=st.integers(0, 200), prefix=st.sampled_from([b"", HEAD, HEAD + b"X: "]))
def test_whatever_is_sent_the_server_lives_on(port: Port, noise: bytes, split: int, prefix: bytes) -> None:
    sent = prefix + noise
    with port.open() as client:
        client.sendall(sent[:split])
        client.sendall(sent[split:])
        client.shutdown(socket.SHUT_WR)
        answer = rest(client)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
    with port.open() as client:
        client.sendall(HEAD + b"Content-Length: 1\r\n\r\nx")
        assert one(client) == b"x"
