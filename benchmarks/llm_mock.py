"""A language model that costs next to nothing: OpenAI's chat endpoint, each call answered after a delay.

    python benchmarks/llm_mock.py --delay-ms 100 --at-once 64        prints its port as JSON

What it says fits what is asked: rules, a verdict or a rating by the schema of the request, else a rewritten answer.
A verdict prefers a rewritten answer in either order. `GET /counts`: calls, and the most that were under way at once.
"""

import argparse
import asyncio
import json
import zlib
from collections.abc import Mapping
from typing import cast

REWRITTEN = "Here is the answer in full:"  # how a rewritten answer begins
RULES = (
    "Say in how many days it happens.", "Name the page where it is done.", "Answer in one sentence.",
    "Give the steps as a numbered list.", "Say what it costs, with the currency.",
    "Name the document that is needed.", "Say whom to call when it fails.", "Begin with yes or no.",
)  # fmt: skip


class Model:
    """What all connections share."""

    def __init__(self, delay_s: float, at_once: int) -> None:
        self._delay_s = delay_s
        self._places = asyncio.Semaphore(at_once)
        self.calls = self._running = self.most = 0

    async def answer(self, body: bytes) -> bytes:
        """The completion, after the delay; calls beyond the limit wait."""
        async with self._places:
            self.calls += 1
            self._running += 1
            self.most = max(self.most, self._running)
            await asyncio.sleep(self._delay_s)
            self._running -= 1
        text = said(json.loads(body))
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": len(body) // 4, "completion_tokens": len(text) // 4 + 1}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return json.dumps({"id": "chatcmpl-1", "choices": [choice], "usage": usage}).encode()


def said(request: Mapping[str, object]) -> str:
    """What the model says to a request; the same to the same one."""
    messages = cast("list[dict[str, str]]", request["messages"])
    asked = messages[-1]["content"]
    number = zlib.crc32(json.dumps([messages, request.get("seed")]).encode())
    form = cast("dict[str, dict[str, dict[str, object]]]", request.get("response_format", {}))
    wanted = cast("Mapping[str, object]", form.get("json_schema", {}).get("schema", {}).get("properties", {}))
    if "rules" in wanted:
        return json.dumps({"rules": [RULES[number % len(RULES)]]})
    if "better" in wanted:
        first = asked.find("\n\nA: ") < asked.find(REWRITTEN) < asked.find("\n\nB: ")
        return json.dumps({"better": "A" if first else "B"})
    if "score" in wanted:
        return json.dumps({"score": 9 if REWRITTEN in asked else 3})
    return f"{REWRITTEN} it takes {number % 9 + 2} days, reference {number}."


async def _connection(model: Model, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """HTTP/1.1 with keep-alive, one request after the other."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            body = await reader.readexactly(length)
            if head.startswith(b"get /counts"):
                said_back = json.dumps({"calls": model.calls, "most": model.most}).encode()
            else:
                said_back = await model.answer(body)
            fields = b"content-type: application/json\r\ncontent-length: %d" % len(said_back)
            writer.write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n%b" % (fields, said_back))
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def serve(delay_s: float, at_once: int) -> None:
    """Listen on a free port, say which, and answer until killed."""
    model = Model(delay_s, at_once)
    server = await asyncio.start_server(lambda r, w: _connection(model, r, w), "127.0.0.1", 0, backlog=1024)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Run until killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay-ms", type=float, default=100.0)
    parser.add_argument("--at-once", type=int, default=64)
    options = parser.parse_args()
    asyncio.run(serve(options.delay_ms / 1000, options.at_once))


if __name__ == "__main__":
    main()
