"""What passes unchanged between a client and a model server, byte for byte on real sockets; and what is sent again."""

import asyncio
import http.client
import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from gateway_kit import WAIT_S, Kit, gateway, post

from logtune.config_gateway import ServeSettings
from logtune.edges.upstream import HttpBackend, UpstreamCall
from logtune.errors import RequestError
from logtune.records import LogRecord

PATH = "/v1/chat/completions"


@dataclass
class Asked:
    """A request as it came over the wire."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int  # number of the connection it came over

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)


Script = Callable[[socket.socket, Asked], bool]  # answers; False: closes the connection


@dataclass
class Recorder:
    """A model server on a socket: keeps every byte it is sent, and answers as its script says."""

    script: Script
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    url: str = ""

    def serve(self, connection: socket.socket) -> None:
        self.connections += 1
        number, file = self.connections, connection.makefile("rb")
        while line := file.readline():
            headers = []
            while (header := file.readline()).strip():
                name, value = header.decode("latin-1").strip().split(": ", 1)
                headers.append((name, value))
            length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
            asked = Asked(line.decode().strip(), headers, file.read(length), number)
            if "/models" in asked.line:
                connection.sendall(whole(b'{"data": []}'))
                continue
            self.asked.append(asked)
            if not self.script(connection, asked):
                return


@contextmanager
def recording(script: Script) -> Iterator[Recorder]:
    recorder = Recorder(script)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            recorder.serve(self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A gateway that hangs up is no error of the test's."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        recorder.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        yield recorder
        server.shutdown()
        thread.join()


def whole(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """An answer in one piece."""
    sent = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = [
        f"HTTP/1.1 {status}",
        *(f"{name}: {value}" for name, value in sent.items()),
        f"content-length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


STREAMED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(part: bytes) -> bytes:
    return f"{len(part):x}\r\n".encode() + part + b"\r\n"


def says(answer: bytes) -> Script:
    def script(connection: socket.socket, _: Asked) -> bool:
        connection.sendall(answer)
        return True

    return script


@dataclass
class Chain:
    """A gateway in front of a recorder, whose script each test sets."""

    kit: Kit
    recorder: Recorder

    def answering(self, script: Script) -> "Chain":
        self.recorder.script = script
        self.recorder.asked.clear()
        return self

    def post(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        return post(self.kit.url, PATH, body)

    def record(self, headers: dict[str, str]) -> LogRecord:
        return self.kit.store.record(headers["x-logtune-interaction"])


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("gateway")
    with recording(says(whole(completion()))) as recorder, gateway(folder, backend=HttpBackend(recorder.url)) as kit:
        yield Chain(kit, recorder)


@pytest.fixture
def chain(started: Chain) -> Chain:
    return started.answering(says(whole(completion())))


def completion(message: str = '{"role": "assistant", "content": "hello"}', more: str = "") -> bytes:
    """A completion with odd spacing, number forms and escapes, as no two servers write it alike."""
    return (
        '{ "id":"chatcmpl-1" ,"object":"chat.completion","created":5,"model":"big", "choices":[ {"index":0,'
        f'"message":{message},"finish_reason":"stop"{more}}} ],"usage":{{"prompt_tokens":3,"completion_tokens":1,'
        '"total_tokens":4},"system_fingerprint":null,"odd":{"kept":[1.50,1e3,"\\u00e9","é"]}}\n'
    ).encode()


# requests

MESSAGES = '"messages": [{"role": "user", "content": "hi \\u00e9 é \\ud83d\\ude00"}]'
REQUESTS = {
    "plain": f'{{"model":"big",{MESSAGES}}}',
    "odd spacing and key order": f'\r\n {{ {MESSAGES} ,\t"stream" : false , "model" : "big" }} \n',
    "unknown fields of vLLM and SGLang": (
        f'{{"model": "big", {MESSAGES}, "top_k": 5, "min_p": 1e-2, "guided_choice": ["a", "b"], "priority": -1,'
        ' "chat_template_kwargs": {"enable_thinking": false}, "mystery": {"deep": [[[]], null]}}'
    ),
    "several choices": f'{{"model": "big", {MESSAGES}, "n": 3, "logprobs": true, "top_logprobs": 5}}',
    "structured output": (
        f'{{"model": "big", {MESSAGES}, "response_format": {{"type": "json_schema", "json_schema": {{"name": "x",'
        ' "strict": true, "schema": {"type": "object", "properties": {"é": {"type": "number", "minimum": 1.0}}}}}}'
    ),
    "tools": (
        f'{{"model": "big", {MESSAGES}, "parallel_tool_calls": false, "tool_choice": {{"type": "function", "function":'
        ' {"name": "f"}}, "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]}'
    ),
    "a turn of tools": (
        '{"model": "big", "messages": [{"role": "user", "content": "weather?"}, {"role": "assistant", "content": null,'
        ' "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\\"a\\": 1.0}"}}'
        "]},"
        ' {"role": "tool", "tool_call_id": "call_1", "content": "rain"}]}'
    ),
    "content in parts": (
        '{"model": "big", "messages": [{"role": "user", "content": [{"type": "text", "text": "what is this?"},'
        ' {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}},'
        ' {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}]}]}'
    ),
    "long numbers": f'{{"model": "big", {MESSAGES}, "seed": 123456789012345678901234567890, "temperature": 1.00}}',
    "a user": f'{{"model": "big", {MESSAGES}, "user": "ann", "metadata": {{"session_id": "s"}}, "store": true}}',
}  # fmt: skip


@pytest.mark.parametrize("body", REQUESTS.values(), ids=REQUESTS.keys())
def test_a_request_reaches_the_model_server_byte_for_byte(chain: Chain, body: str) -> None:
    status, headers, answer = chain.post(body.encode())
    assert (status, answer) == (200, completion())
    (asked,) = chain.recorder.asked
    assert asked.line == "POST /v1/chat/completions HTTP/1.1"
    assert asked.body == body.encode()
    assert chain.record(headers).request == json.loads(body)


# answers

CALLS = '{"id":"call_1","type":"function","function":{"name":"f","arguments":"{\\"a\\": 1.0, \\"b\\": \\"é\\"}"}}'
LOGPROBS = ',"logprobs":{"content":[{"token":"hé","logprob":-1.0E-5,"bytes":[104,195,169],"top_logprobs":[]}]}'
ANSWERS = {
    "unknown fields": completion(more=',"stop_reason":107,"content_filter_results":{}'),
    "tool calls": completion(f'{{"role":"assistant","content":null,"tool_calls":[{CALLS}],"reasoning_content":"hm"}}'),
    "log-probabilities": completion(more=LOGPROBS),
    "several choices": completion(more='},{"index":1,"message":{"role":"assistant","content":"other"}'),
    "a refusal": completion('{"role":"assistant","content":null,"refusal":"no"}'),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_an_answer_reaches_the_client_byte_for_byte(chain: Chain, answer: bytes) -> None:
    chain.answering(says(whole(answer, x_request_id="r-1", openai_processing_ms="12")))
    status, headers, got = chain.post(REQUESTS["plain"].encode())
    assert (status, got) == (200, answer)
    assert (headers["x-request-id"], headers["openai-processing-ms"]) == ("r-1", "12")
    assert chain.record(headers).response == json.loads(answer)


ERRORS = [
    ("400 Bad Request", b'{"error": {"message": "max_tokens is too large", "type": "BadRequestError", "code": 400}}'),
    ("401 Unauthorized", b'{"error":"Unauthorized"}'),
    ("404 Not Found", b'{"object":"error","message":"The model `big` does not exist.","type":"NotFoundError"}'),
    ("413 Request Entity Too Large", b"<html><body>nginx</body></html>"),
    ("422 Unprocessable Entity", b'{"detail":[{"loc":["body","messages"],"msg":"field required"}]}'),
    ("429 Too Many Requests", b'{"error": {"message": "slow down", "type": "rate_limit_exceeded"}}'),
    ("500 Internal Server Error", b"Internal Server Error"),
    ("503 Service Unavailable", b""),
]


@pytest.mark.parametrize(("status", "body"), ERRORS, ids=[status for status, _ in ERRORS])
def test_an_error_reaches_the_client_unchanged_and_is_not_asked_for_twice(
    chain: Chain, status: str, body: bytes
) -> None:  # fmt: skip
    kind = "text/html" if body.startswith(b"<") else "application/json"
    chain.answering(says(whole(body, status, content_type=kind, retry_after="7")))
    got, headers, answer = chain.post(REQUESTS["plain"].encode())
    assert (got, answer) == (int(status[:3]), body)
    assert (headers["content-type"], headers["retry-after"]) == (kind, "7")
    record = chain.record(headers)
    assert (record.response, len(chain.recorder.asked)) == (None, 1)
    assert str(record.error).startswith(f"the model server answered {status[:3]}")


# streams


def piece(delta: str, end: str = "null") -> bytes:
    return (
        f'data: {{"id":"chatcmpl-1","object":"chat.completion.chunk","created":5,"model":"big","odd":1.50,'
        f'"choices":[{{"index":0,"delta":{delta},"finish_reason":{end}}}]}}\n\n'
    ).encode()


HELD = 'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":"日本語 é 😀"}}]}\n\n'.encode()
PIECES = [
    piece('{"role":"assistant","content":""}'), b": a comment\r\n\r\n", HELD, piece('{"content":"!"}'),
    piece('{"tool_calls":[{"index":0,"id":"call_1","function":{"name":"f","arguments":"{\\"a"}}]}'),
    piece("{}", '"stop"'), b'data: {"choices":[],"usage":{"prompt_tokens":3}}\n\n', b"data: [DONE]\n\n",
]  # fmt: skip
STREAM_BODY = (
    b'{"model":"big","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hi"}]}'
)


class Reader:
    """A client that reads a stream as it comes."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=WAIT_S)
        self.connection.request("POST", PATH, STREAM_BODY, {"content-type": "application/json"})
        self.answer = self.connection.getresponse()
        self.headers = {name.lower(): value for name, value in self.answer.getheaders()}

    def until(self, end: bytes) -> bytes:
        """What has come, as soon as it ends so."""
        seen = b""
        while not seen.endswith(end):
            part = self.answer.read1(65536)
            assert part, f"the stream ended after {seen!r}"
            seen += part
        return seen

    def hang_up(self) -> None:
        self.answer.close()
        self.connection.close()


def test_each_chunk_leaves_as_it_arrives(chain: Chain) -> None:
    seen = threading.Semaphore(0)

    def script(connection: socket.socket, _: Asked) -> bool:
        connection.sendall(STREAMED)
        for part in PIECES:
            connection.sendall(chunk(part))
            assert seen.acquire(timeout=WAIT_S), "the client did not get the chunk before the next one"
        connection.sendall(b"0\r\n\r\n")
        return True

    reader = Reader(chain.answering(script).kit.url)
    for part in PIECES:
        assert reader.until(part) == part
        seen.release()
    assert reader.answer.read() == b""
    reader.hang_up()
    assert chain.recorder.asked[0].body == STREAM_BODY
    record = chain.record(reader.headers)
    assert record.error is None
    assert "日本語 é 😀!" in json.dumps(record.response, ensure_ascii=False)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_a_stream_cut_anywhere_keeps_its_bytes(chain: Chain, size: int) -> None:
    stream = b"".join(PIECES)

    def script(connection: socket.socket, _: Asked) -> bool:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        parts = [chunk(stream[start : start + size]) for start in range(0, len(stream), size)]
        connection.sendall(STREAMED + b"".join(parts) + b"0\r\n\r\n")
        return True

    _, headers, answer = chain.answering(script).post(STREAM_BODY)
    assert answer == stream
    assert "日本語 é 😀!" in json.dumps(chain.record(headers).response, ensure_ascii=False)


def test_a_line_cut_inside_a_character_leaves_when_it_is_whole(chain: Chain) -> None:
    rest = threading.Event()
    middle = HELD.index("本".encode()) + 1

    def script(connection: socket.socket, _: Asked) -> bool:
        connection.sendall(STREAMED + chunk(PIECES[0]) + chunk(HELD[:middle]))
        assert rest.wait(WAIT_S)
        connection.sendall(chunk(HELD[middle:]) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        return True

    reader = Reader(chain.answering(script).kit.url)
    assert reader.until(PIECES[0]) == PIECES[0]
    rest.set()
    assert reader.answer.read() == HELD + b"data: [DONE]\n\n"
    reader.hang_up()


# a client that goes away


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_hangs_up_ends_the_call_of_the_model_server(tmp_path: Path, streamed: bool) -> None:
    working, ended = threading.Event(), threading.Event()

    def script(connection: socket.socket, _: Asked) -> bool:
        if streamed:
            connection.sendall(STREAMED + chunk(PIECES[0]) + chunk(HELD))
        working.set()
        connection.settimeout(WAIT_S)
        assert connection.recv(1) == b""  # the gateway closes the connection, and so tells the server to stop
        ended.set()
        return False

    with gone(tmp_path, script) as kit:
        parts = urlsplit(kit.url)
        with socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=WAIT_S) as client:
            body = STREAM_BODY if streamed else REQUESTS["plain"].encode()
            kind = "content-type: application/json"
            client.sendall(f"POST {PATH} HTTP/1.1\r\nhost: x\r\n{kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode())
            client.sendall(body)
            assert working.wait(WAIT_S)
            while streamed and "日本語".encode() not in client.recv(65536):
                pass
        assert ended.wait(WAIT_S), "the model server works on for nobody"
        (record,) = kit.store.wait()
    assert record.error == "the client went away"
    assert ("日本語" in json.dumps(record.response, ensure_ascii=False)) is streamed


@contextmanager
def gone(folder: Path, script: Script) -> Iterator[Kit]:
    with recording(script) as recorder, gateway(folder, backend=HttpBackend(recorder.url)) as kit:
        yield kit


# sent again


def call() -> UpstreamCall:
    return UpstreamCall(id="i", body={"model": "big"}, raw=REQUESTS["plain"].encode(), model="big", headers={})


async def read(backend: HttpBackend) -> bytes:
    answer = await backend.open(call())
    try:
        return b"".join([part async for part in answer.chunks])
    finally:
        await answer.close()


async def test_connections_are_used_again() -> None:
    with recording(says(whole(completion()))) as recorder:
        backend = HttpBackend(recorder.url)
        assert [await read(backend) for _ in range(3)] == [completion()] * 3
        await backend.close()
    assert [asked.connection for asked in recorder.asked] == [1, 1, 1]


def once_per_connection() -> Script:
    """Answers the first request of a connection, and closes it at the second without a byte."""
    answered: set[int] = set()

    def script(connection: socket.socket, asked: Asked) -> bool:
        if asked.connection in answered:
            return False
        answered.add(asked.connection)
        connection.sendall(whole(completion()))
        return True

    return script


async def test_an_idle_connection_that_the_server_has_closed_is_replaced() -> None:
    with recording(once_per_connection()) as recorder:
        backend = HttpBackend(recorder.url)
        assert [await read(backend) for _ in range(2)] == [completion()] * 2
        await backend.close()
    assert [asked.connection for asked in recorder.asked] == [1, 1, 2]


async def test_without_retries_it_is_an_error() -> None:
    with recording(once_per_connection()) as recorder:
        backend = HttpBackend(recorder.url, None, ServeSettings(retries=0))
        await read(backend)
        with pytest.raises(RequestError, match="the model server failed") as error:
            await read(backend)
        await backend.close()
    assert (error.value.status, len(recorder.asked)) == (502, 2)


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\ncontent-le"])
async def test_a_server_that_may_have_begun_is_not_asked_again(start: bytes) -> None:
    def script(connection: socket.socket, _: Asked) -> bool:
        connection.sendall(start)
        return False

    with recording(script) as recorder:
        backend = HttpBackend(recorder.url)
        with pytest.raises(RequestError, match="the model server failed") as error:
            await read(backend)
        await backend.close()
    assert (error.value.status, len(recorder.asked)) == (502, 1)


class Waiting(HttpBackend):
    """Lets its server listen during the second wait."""

    def __init__(self, server: socket.socket, settings: ServeSettings) -> None:
        super().__init__(f"http://127.0.0.1:{server.getsockname()[1]}/v1", None, settings)
        self.server = server
        self.waits: list[int] = []
        self.answering = threading.Thread(target=self.answer)

    async def _pause(self, tried: int) -> None:
        self.waits.append(tried)
        if len(self.waits) == 2:
            self.server.listen()
            self.answering.start()

    def answer(self) -> None:
        connection, _ = self.server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(whole(completion()))


async def test_a_refused_connection_is_tried_again() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        backend = Waiting(server, ServeSettings(retries=2))
        assert await read(backend) == completion()
        backend.answering.join()
        await backend.close()
    assert backend.waits == [0, 1]


@pytest.mark.parametrize("retries", [0, 1])
async def test_a_connection_refused_too_often_is_a_502(retries: int) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        backend = Waiting(server, ServeSettings(retries=retries))
        with pytest.raises(RequestError, match="the model server failed") as error:
            await read(backend)
        await backend.close()
    assert (error.value.status, len(backend.waits)) == (502, retries)


async def test_so_many_connections_and_no_more() -> None:
    with recording(says(whole(completion()))) as recorder:
        backend = HttpBackend(recorder.url, None, ServeSettings(max_connections=1))
        assert await asyncio.gather(*(read(backend) for _ in range(5))) == [completion()] * 5
        await backend.close()
    assert recorder.connections == 1
