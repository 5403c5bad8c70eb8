"""Load for the gateway benchmark: an open loop over kept-alive connections, a process of its own.

    specification (JSON, stdin) -> requests at fixed times -> times and what came back (JSON, stdout)

A request is due at a time that does not depend on earlier answers, and its latency counts from that time, so a stall
shows in every request that it held up (no coordinated omission). With rate 0 one request follows the other.
"""

import asyncio
import gc
import json
import selectors
import socket
import statistics
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

CHUNKED = -1
WAIT_S = 30.0  # after the last request was due
SYSTEM = (
    "You are the assistant of a bank's app. Answer briefly and kindly, in the language of the user. Say what the user "
    "can do next and where in the app it is found. Never ask for a PIN or a whole card number. If you are not sure, "
    "say so, and offer to pass the conversation on to a colleague."
)
EARLIER = (
    "Hello, can you help me with my account?",
    "Of course. I can see your account and your cards here. What would you like to know or change today?",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One phase."""

    port: int
    texts: str  # file: a JSON list of questions
    rate: float  # a second; 0: one at a time
    count: int
    stream: str = "none"  # none, all, or half
    offset: int = 0  # number of the first question; every question is asked once
    connections: int = 400  # at most; more would hide a queue in the server's backlog
    key: str | None = None
    model: str = "base"
    max_tokens: int = 256
    keep_ids: bool = False  # report the interactions whose end was seen


@dataclass(slots=True, kw_only=True)
class Result:
    """What came back."""

    rate: float = 0.0  # answers a second, from the first due time to the last answer less the median latency
    latencies_ms: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)  # to the first event of a stream
    overheads_ms: list[float] = field(default_factory=list)  # what the gateway says itself
    answered: int = 0
    routed: int = 0  # answered by an adapter
    errors: dict[str, int] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)


def question(texts: Sequence[str], number: int) -> str:
    """The question with this number; a second round through the texts gets a tail, so that no two are equal."""
    text, again = texts[number % len(texts)], number // len(texts)
    return f"{text} (my reference is {number * 7919 % 900001})" if again else text


def payload(spec: Spec, texts: Sequence[str], number: int) -> bytes:
    """A whole request as bytes: a system prompt, an earlier turn for every second one, a user of some thousands."""
    stream = spec.stream == "all" or (spec.stream == "half" and number % 2 == 1)
    messages = [{"role": "system", "content": SYSTEM}]
    if number % 2:
        roles = zip(("user", "assistant"), EARLIER, strict=True)
        messages += [{"role": role, "content": text} for role, text in roles]
    messages.append({"role": "user", "content": question(texts, number)})
    options = {"stream_options": {"include_usage": False}} if stream else {}
    body = json.dumps({
        "model": spec.model, "messages": messages, "temperature": 0.7, "max_tokens": spec.max_tokens,
        "stream": stream, **options,
        "user": f"user-{number * 31 % 3001}", "metadata": {"session_id": f"session-{number // 4}"},
    }).encode()  # fmt: skip
    key = f"authorization: Bearer {spec.key}\r\n" if spec.key else ""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{spec.port}\r\nuser-agent: load\r\n{key}"
        f"accept: */*\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection(asyncio.Protocol):
    """One kept-alive connection; holds the answer under way."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self.transport: asyncio.Transport | None = None
        self.due: float | None = None  # of the request under way
        self._head = b""
        self._begun = False  # the head is complete
        self._left = 0  # bytes of the body still to come, or CHUNKED
        self._tail = b""
        self._first: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self, request: bytes, due: float) -> None:
        """Send a request."""
        assert self.transport is not None
        self.due, self._head, self._tail, self._first, self._begun = due, b"", b"", None, False
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Part of an answer."""
        now = time.perf_counter()
        if not self._begun:
            data = self._begin(data)
        if not data:
            return
        self._first = self._first or now
        if self._left != CHUNKED:
            self._left -= len(data)
            done = self._left == 0
        else:
            self._tail = (self._tail + data)[-7:]
            done = self._tail.endswith(b"\r\n0\r\n\r\n")
        if done:
            self._load.answered(self, self._head, now, self._first if self._left == CHUNKED else None)

    def _begin(self, data: bytes) -> bytes:
        """Take the head; what follows it."""
        whole = self._head + data
        end = whole.find(b"\r\n\r\n")
        self._head = whole if end < 0 else whole[:end].lower()
        if end < 0:
            return b""
        self._begun = True
        at = self._head.find(b"\r\ncontent-length:")
        self._left = CHUNKED if at < 0 else int(self._head[at + 17 :].split(b"\r\n", 1)[0])
        return whole[end + 4 :]

    def connection_lost(self, exc: Exception | None) -> None:
        """The server has closed, or died."""
        self._load.lost(self)


class Load:
    """One phase under way."""

    def __init__(self, spec: Spec, requests: Sequence[bytes]) -> None:
        self._spec = spec
        self._requests = requests
        self._free: list[Connection] = []
        self._waiting: deque[int] = deque()  # due, and no connection is free
        self._open_now: set[Connection] = set()
        self._next = 0
        self._over = 0  # answered or failed
        self._start = 0.0
        self._last = 0.0
        self._done, self._closed = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self.result = Result()

    async def run(self) -> Result:
        """Ask everything, wait for the answers, report."""
        first = min(self._spec.connections, 1 if not self._spec.rate else 32)
        await asyncio.gather(*(self._open() for _ in range(first)))
        self._start = time.perf_counter()
        self._tick() if self._spec.rate else self._send(0, self._start)
        seconds = len(self._requests) / self._spec.rate if self._spec.rate else 4 * WAIT_S
        try:
            await asyncio.wait_for(self._done.wait(), seconds + WAIT_S)
        except TimeoutError:
            self._wrong("no answer in time", len(self._requests) - self._over)
        self.result.rate = self._rate()
        await self._close()
        return self.result

    def _rate(self) -> float:
        latencies = self.result.latencies_ms
        if not latencies:
            return 0.0
        took = self._last - self._start - (statistics.median(latencies) / 1000 if self._spec.rate else 0.0)
        return len(latencies) / max(took, (len(self._requests) - 1) / (self._spec.rate or 1e9), 1e-9)

    def answered(self, connection: Connection, head: bytes, now: float, first: float | None) -> None:
        """A whole answer has come."""
        due, connection.due = connection.due, None
        assert due is not None
        result = self.result
        if head[9:12] == b"200":
            result.answered += 1
            self._last = now
            result.latencies_ms.append(1000 * (now - due))
            if first is not None:
                result.first_ms.append(1000 * (first - due))
            self._note(head)
        else:
            self._wrong(head[:40].split(b"\r\n")[0].decode())
        self._free.append(connection)
        if self._waiting:
            number = self._waiting.popleft()
            self._send(number, self._due(number))
        self._ended()
        self._go_on()

    def lost(self, connection: Connection) -> None:
        """A connection is gone, with or without a request on it."""
        self._open_now.discard(connection)
        if not self._open_now:
            self._closed.set()
        if connection in self._free:
            self._free.remove(connection)
        if connection.due is not None:
            connection.due = None
            self._wrong("connection lost")
            self._ended()
            self._go_on()

    def _note(self, head: bytes) -> None:
        head += b"\r\n"
        overhead = _value(head, b"\r\nx-logtune-overhead-ms: ")
        if overhead:
            self.result.overheads_ms.append(float(overhead))
            self.result.routed += _value(head, b"\r\nx-logtune-adapter: ") not in ("", "base")
            if self._spec.keep_ids:
                self.result.ids.append(_value(head, b"\r\nx-logtune-interaction: "))

    def _go_on(self) -> None:
        """The next request when they follow one another."""
        if not self._spec.rate and self._over < len(self._requests):
            self._send(self._over, time.perf_counter())

    def _due(self, number: int) -> float:
        return self._start + number / self._spec.rate if self._spec.rate else time.perf_counter()

    def _tick(self) -> None:
        """Send what is due, come back when the next one is."""
        while self._next < len(self._requests):
            due = self._due(self._next)
            wait = due - time.perf_counter()
            if wait > 0:
                self._loop.call_later(wait, self._tick)
                return
            self._send(self._next, due)
            self._next += 1

    def _send(self, number: int, due: float) -> None:
        while self._free:
            connection = self._free.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                connection.ask(self._requests[number], due)
                return
        self._waiting.append(number)
        if len(self._open_now) + len(self._opening) < self._spec.connections:
            task = self._loop.create_task(self._open_for_waiting())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open_for_waiting(self) -> None:
        try:
            await self._open()
        except OSError:
            if self._waiting:
                self._waiting.popleft()
                self._wrong("no connection")
                self._ended()
            return
        if self._waiting:
            number = self._waiting.popleft()
            self._send(number, self._due(number))

    async def _open(self) -> None:
        plug = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        plug.setblocking(False)
        try:
            await self._loop.sock_connect(plug, ("127.0.0.1", self._spec.port))
            _, connection = await self._loop.create_connection(lambda: Connection(self), sock=plug)
        except OSError:
            plug.close()
            raise
        self._open_now.add(connection)
        self._free.append(connection)

    async def _close(self) -> None:
        self._closed.clear()
        for connection in list(self._open_now):
            connection.due = None  # nothing is lost
            if connection.transport is not None:
                connection.transport.abort()
        if self._open_now:
            await self._closed.wait()

    def _wrong(self, what: str, count: int = 1) -> None:
        self.result.errors[what] = self.result.errors.get(what, 0) + count

    def _ended(self) -> None:
        self._over += 1
        if self._over >= len(self._requests):
            self._done.set()


def _value(head: bytes, name: bytes) -> str:
    at = head.find(name)
    return "" if at < 0 else head[at + len(name) : head.find(b"\r\n", at + len(name))].decode()


async def _phase(spec: Spec) -> Result:
    texts = json.loads(Path(spec.texts).read_text(encoding="utf-8"))  # noqa: ASYNC240  nothing has begun yet
    requests = [payload(spec, texts, spec.offset + number) for number in range(spec.count)]
    gc.collect()
    gc.disable()
    return await Load(spec, requests).run()


def main() -> None:
    """Run the phase of the specification on stdin."""
    spec = Spec(**json.load(sys.stdin))

    def loop() -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(selectors.SelectSelector())  # timers in microseconds; epoll rounds up to 1 ms

    with asyncio.Runner(loop_factory=loop) as runner:
        result = runner.run(_phase(spec))
    json.dump(asdict(result), sys.stdout)


if __name__ == "__main__":
    main()
