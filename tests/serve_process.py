"""A gateway process for tests of its life: real signals, sockets and store, an engine that waits for a line on stdin.

python serve_process.py FOLDER [KEY=VALUE ...]        stdout: the screen of --json; an embedder of words
"""

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from logtune.app.commands.serve import Serving, sockets, token_of
from logtune.app.console import Console
from logtune.app.gateway import Gateway, create
from logtune.app.logs import logging_to
from logtune.config import Config, build
from logtune.edges.store import Store
from logtune.edges.upstream import EmbeddedBackend
from logtune.errors import ModelError
from logtune.ports import ChatCall, ChatReply, StreamPiece
from logtune.testing import MemoryAdapterServer, WordEmbedder

FLOOD = "word " * 10_000


class Engine:
    """Says `first`, and after a line on stdin `last`, where the message says wait; else both at once; flood: 25 MB."""

    async def complete(self, call: ChatCall) -> ChatReply:
        words = [piece.text async for piece in self.stream(call)]
        return ChatReply(text="".join(words), finish_reason="stop", prompt_tokens=1, completion_tokens=2)

    async def stream(self, call: ChatCall) -> AsyncIterator[StreamPiece]:
        yield StreamPiece(text="first ")
        if "wait" in call.messages[-1].content:
            loop, line = asyncio.get_running_loop(), asyncio.Event()
            loop.add_reader(sys.stdin.fileno(), line.set)
            try:
                await line.wait()
            finally:
                loop.remove_reader(sys.stdin.fileno())
        for _ in range(500 if "flood" in call.messages[-1].content else 0):
            yield StreamPiece(text=FLOOD)
        yield StreamPiece(text="last")
        yield StreamPiece(text="", finish_reason="stop", prompt_tokens=1, completion_tokens=2)

    async def names(self) -> list[str]:
        return []


def make(store: Store, config: Config) -> Gateway:
    if os.environ.get("FAIL_AT_START"):
        raise ModelError("there is no such model", "look for it")
    return create(store, EmbeddedBackend(Engine()), WordEmbedder(), MemoryAdapterServer(), config)


def main(folder: str, *given: str) -> int:
    values = {key: json.loads(value) for key, value in (text.split("=", 1) for text in given)}
    serve = {"port": 0, "admin_port": 0, "poll_s": 0.05, "log_format": "json", **values}
    config = build({"store": {"home": folder, "url": f"sqlite:///{folder}/logtune.db"}, "serve": serve})
    with logging_to(sys.stderr, config.serve.log_format), sockets(config.serve) as (listening, admin):
        Store(config.store.url).close()
        serving = Serving(Console(True, None), config, listening, admin, token_of(config.serve), "none", make)
        code = serving.alone() if config.serve.workers == 1 else serving.together()
    logging.shutdown()
    return code


if __name__ == "__main__":
    sys.exit(main(str(Path(sys.argv[1]).resolve()), *sys.argv[2:]))
