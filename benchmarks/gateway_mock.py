"""A model server that costs next to nothing: OpenAI's HTTP by hand, one fixed answer, adapters that are mere names.

    python benchmarks/gateway_mock.py --delay-ms 10 --gap-ms 10        prints its port as JSON

POST /v1/chat/completions (JSON and server-sent events), /v1/load_lora_adapter, /v1/unload_lora_adapter; GET /v1/models.
An answer begins after the delay; the events of a stream follow one another by the gap. `GET /failures` tells how many
requests named a model that was not loaded. `GET /adapter/NAME/failing`, `slow` or `well` says how an adapter does.
"""

import argparse
import asyncio
import json
import os
import selectors
import socket

NUMBER = b"7c1d9e5f3b2a4860"  # in the id of every answer, and another one each time
WORDS = (
    "Your card was sent to the address in your profile two working days ago, and it usually takes five to seven days "
    "to arrive. If it has not come by the end of next week, open the app, choose Cards and then Report missing, and we "
    "will block it and send you another one at no charge. You can go on paying with the virtual card meanwhile; its "
    "number is under Cards as well. Tell me if your address has changed, because then we should stop the delivery now."
)
SLOW_S = 0.5  # that a slow adapter takes beyond the delay
EVENTS = 4  # events with text in a stream: more of them, and load and mock take both cores at 1,000 streams a second
HEAD = {"id": f"chatcmpl-{NUMBER.decode()}", "created": 1790000000, "model": "base"}
USAGE = {"prompt_tokens": 176, "completion_tokens": 96, "total_tokens": 272}
WHOLE = json.dumps({
    **HEAD, "object": "chat.completion", "usage": USAGE, "system_fingerprint": None,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": WORDS, "refusal": None, "tool_calls": []},
                 "logprobs": None, "finish_reason": "stop", "stop_reason": None}],
}).encode()  # fmt: skip


def _event(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return f"data: {json.dumps({**HEAD, 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n".encode()


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %b\r\nserver: mock\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (status, len(body)) + body


def _stream() -> list[bytes]:
    """What is written one after the other."""
    head = b"HTTP/1.1 200 OK\r\nserver: mock\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    cut = -(-len(WORDS) // EVENTS)
    texts = [_chunked(_event({"content": WORDS[start : start + cut]})) for start in range(0, len(WORDS), cut)]
    first = head + b"transfer-encoding: chunked\r\n\r\n" + _chunked(_event({"role": "assistant", "content": ""}))
    last = _chunked(_event({}, "stop") + b"data: [DONE]\n\n") + b"0\r\n\r\n"
    return [first + texts[0], *texts[1:], last]


def _adapted(answer: bytes) -> bytes:
    """The same length in other words, since an adapter must change what the model says."""
    return answer.replace(b"Your card was", b"The card was ")


ANSWERS = (_answer(WHOLE), _adapted(_answer(WHOLE)))
STREAMS = (_stream(), list(map(_adapted, _stream())))
NOT_FOUND = _answer(b'{"error":{"message":"no such model","type":"NotFoundError","code":404}}', b"404 Not Found")


class Server:
    """What all connections share."""

    def __init__(self, delay_s: float, gap_s: float) -> None:
        self.delay_s = delay_s
        self.gap_s = gap_s
        self.adapters: set[str] = set()
        self.broken: dict[bytes, bytes] = {}  # name of an adapter -> how it is: failing, slow
        self.failures = 0
        self.answered = 0

    def answer(self, path: bytes, body: bytes) -> bytes:
        """Everything but a chat."""
        if path == b"/v1/models":
            rows = [{"id": "base", "object": "model"}]
            rows += [{"id": name, "object": "model", "parent": "base"} for name in sorted(self.adapters)]
            return _answer(json.dumps({"object": "list", "data": rows}).encode())
        if path.startswith(b"/adapter/"):
            _, _, name, how = path.split(b"/")
            self.broken[name] = how
            return _answer(b'"Success"')
        if path == b"/failures":
            return _answer(str(self.failures).encode())
        name = json.loads(body)["lora_name"]
        (self.adapters.add if path == b"/v1/load_lora_adapter" else self.adapters.discard)(name)
        return _answer(b'"Success"')

    def version(self, body: bytes) -> int | None:
        """Which answer a chat gets: the base model's (0) or an adapter's (1); None: there is no such model.

        The name is looked for in the bytes, as parsing would cost.
        """
        if b'"base"' in body:
            return 0
        return 1 if any(b'"%b"' % name.encode() in body for name in self.adapters) else None


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, one request after the other."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._data = b""
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Part of a request, or a whole one."""
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._data[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self._data) < end + 4 + length:
            return
        body = self._data[end + 4 : end + 4 + length]
        path = self._data.split(b" ", 2)[1]
        self._data = self._data[end + 4 + length :]
        self._answer(path, body)

    def _answer(self, path: bytes, body: bytes) -> None:
        if path != b"/v1/chat/completions":
            self._transport.write(self._server.answer(path, body))
        else:
            self._chat(body)

    def _chat(self, body: bytes) -> None:
        version = self._server.version(body)
        if version is None:
            self._server.failures += 1
            self._transport.write(NOT_FOUND)
            return
        how = next((how for name, how in self._server.broken.items() if b'"%b"' % name in body), b"well")
        if how == b"failing":
            self._transport.write(_answer(b'{"error":{"message":"broken","code":500}}', b"500 Internal Server Error"))
            return
        stream = b'"stream": true' in body or b'"stream":true' in body
        self._server.answered += 1
        number = b"%016x" % (self._server.answered * 0x9E3779B97F4A7C15 % 2**64)
        parts = STREAMS[version] if stream else [ANSWERS[version]]
        delay_s = self._server.delay_s + (SLOW_S if how == b"slow" else 0.0)
        self._later(delay_s, [part.replace(NUMBER, number) for part in parts], 0)

    def _later(self, delay_s: float, parts: list[bytes], number: int) -> None:
        if delay_s > 0:
            self._loop.call_later(delay_s, self._send, parts, number)
        else:
            self._loop.call_soon(self._send, parts, number)

    def _send(self, parts: list[bytes], number: int) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(parts[number])
        if number + 1 < len(parts):
            self._later(self._server.gap_s, parts, number + 1)


async def serve(delay_s: float, gap_s: float) -> None:
    """Listen on a free port, say which, and answer until killed."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named: so Nagle's delay is off
    listening.bind(("127.0.0.1", 0))
    server = Server(delay_s, gap_s)
    accepting = await asyncio.get_running_loop().create_server(
        lambda: Connection(server), sock=listening, backlog=1024
    )  # fmt: skip
    print(json.dumps({"port": listening.getsockname()[1], "pid": os.getpid()}), flush=True)
    async with accepting:
        await accepting.serve_forever()


def main() -> None:
    """Run until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay-ms", type=float, default=10.0)
    parser.add_argument("--gap-ms", type=float, default=10.0)
    options = parser.parse_args()

    def loop() -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(selectors.SelectSelector())  # timers in microseconds; epoll rounds up to 1 ms

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(serve(options.delay_ms / 1000, options.gap_ms / 1000))


if __name__ == "__main__":
    main()
