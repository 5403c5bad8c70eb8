"""A gateway on a loopback port for tests: scripted engine, real store, real uvicorn; an upstream that plays tricks."""

import asyncio
import hashlib
import http.client
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn

from logtune.app.asgi import Receive, Request, Scope, Send
from logtune.app.gateway import Gateway, create
from logtune.config import Config, build
from logtune.edges.intake import Entry
from logtune.edges.store import Store, TargetKind, UnitResult
from logtune.edges.upstream import STREAM_TYPE, Answer, Backend, EmbeddedBackend, UpstreamCall
from logtune.errors import RecordRefused, StoreError
from logtune.ids import identified
from logtune.ports import ChatCall, ChatReply, Embedder, StreamPiece, Vectors
from logtune.records import Adapter, AdapterKind, Cluster, Deployment, Json, LogRecord
from logtune.testing import MemoryAdapterServer, WordEmbedder

WEIGHTS = b"safetensors, as far as the gateway can tell"
WAIT_S = 30.0  # a hang is a failure, never a slow machine


class ScriptedEngine:
    """An embedded engine that answers `adapter: last message`, word by word; an adapter is what `server` has loaded.

    A message with HANG stops before its last word until the client is gone; CRASH fails there, FAIL at once.
    """

    def __init__(self, server: MemoryAdapterServer) -> None:
        self.server = server
        self.calls: list[ChatCall] = []
        self.hanging = threading.Event()
        self.cancelled = threading.Event()

    async def complete(self, call: ChatCall) -> ChatReply:
        words = [word async for word in self.stream(call)]
        last = words[-1]
        return ChatReply(
            text="".join(word.text for word in words), finish_reason=last.finish_reason or "stop",
            prompt_tokens=last.prompt_tokens, completion_tokens=last.completion_tokens,
        )  # fmt: skip

    async def stream(self, call: ChatCall) -> AsyncIterator[StreamPiece]:
        self.calls.append(call)
        said = call.messages[-1].content
        if "FAIL" in said:
            raise StoreError("the engine fell over")
        words = f"{call.model or 'base'}: {said}".split()[: call.max_tokens]
        for number, word in enumerate(words):
            if number == len(words) - 1:
                await self._trick(said)
            await asyncio.sleep(0)
            yield StreamPiece(text=word if number == 0 else f" {word}")
        prompt = sum(len(message.content.split()) for message in call.messages)
        yield StreamPiece(text="", finish_reason="stop", prompt_tokens=prompt, completion_tokens=len(words))

    async def _trick(self, said: str) -> None:
        if "CRASH" in said:
            raise StoreError("the engine fell over")
        if "HANG" in said:
            self.hanging.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()

    async def names(self) -> list[str]:
        return await self.server.names()


class WatchedStore(Store):
    """A store that tests can wait for, and break."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.home = Path(url.removeprefix("sqlite:///")).parent
        self.broken = False
        self.refused = ""  # a record that holds this text is refused
        self.slow = threading.Event()  # cleared: a commit waits until it is set
        self.slow.set()
        self.calls = 0  # of put
        self._written = threading.Condition()

    def put(self, entries: Sequence[Entry], wait_s: float = 30.0) -> int:
        self.calls += 1
        if not self.slow.wait(WAIT_S):
            raise StoreError("the test does not go on")
        if self.broken:
            raise StoreError("the disk is full")
        if any(self.refused in entry.body for entry in entries if self.refused):
            raise RecordRefused("a value out of range")
        new = super().put(entries, wait_s)
        with self._written:
            self._written.notify_all()
        return new

    def known(self, kind: TargetKind, targets: Sequence[str]) -> set[str]:
        if self.broken:
            raise StoreError("the disk is full")
        return super().known(kind, targets)

    def deployments(self) -> dict[str, Deployment]:
        if self.broken:
            raise StoreError("the disk is full")
        return super().deployments()

    def logs(self, since: float = 0.0, *, shadow: bool = False) -> Iterator[LogRecord]:
        if self.broken:
            raise StoreError("the disk is full")
        return super().logs(since, shadow=shadow)

    def wait(self, count: int = 1) -> list[LogRecord]:
        """The records, once there are `count`."""
        with self._written:
            assert self._written.wait_for(lambda: self.count(LogRecord) >= count, WAIT_S), "the record did not come"
        return list(self.logs())

    def record(self, record_id: str) -> LogRecord:
        """The record of an answer, once it is there."""
        until(lambda: self.known("record", [record_id]))
        return self.load(LogRecord, [record_id])[0]


class BrokenEmbedder(WordEmbedder):
    """Fails on every text."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        raise RuntimeError("no vectors today")


class OddBackend:
    """Fails in a way that nobody foresaw: at once, or in the middle of a stream."""

    async def open(self, call: UpstreamCall) -> Answer:
        if not call.body.get("stream"):
            raise KeyError("a bug")
        return Answer(status=200, content_type=STREAM_TYPE, chunks=self._chunks())

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        yield chunk_line({"content": "so far"})
        raise KeyError("a bug")

    async def models(self) -> list[dict[str, Json]]:
        return []

    async def close(self) -> None:
        pass


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


@contextmanager
def serving(app: Callable[..., object]) -> Iterator[str]:
    """Run an ASGI app under uvicorn in a thread; gives its URL, stops it gracefully."""
    # asyncio turns Nagle's algorithm off only where the protocol is named: without it, every small chunk waits 40 ms.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="critical", access_log=False, lifespan="auto")
    server = _Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        assert server.up.wait(WAIT_S), "the gateway did not start"
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
        listening.close()
        assert not thread.is_alive(), "the gateway did not stop"


@dataclass
class Kit:
    """One gateway and what it stands on."""

    url: str
    store: WatchedStore
    engine: ScriptedEngine
    server: MemoryAdapterServer
    gateway: Gateway

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"

    def logs(self) -> list[LogRecord]:
        """What is stored, once no record is on its way to the store."""
        until(lambda: not any(lane.journal.queued for lane in self.gateway.lanes().values()))
        return list(self.store.logs())


@contextmanager
def gateway(
    folder: Path, *, backend: Backend | None = None, server: MemoryAdapterServer | None = None,
    embedder: Embedder | None = None, deploy: Sequence[tuple[str, str]] = (), broken: bool = False,
    **serve: float | str,
) -> Iterator[Kit]:  # fmt: skip
    """A running gateway; `deploy` holds (cluster name, example query) of clusters with an expert each."""
    store = WatchedStore(f"sqlite:///{folder / 'logtune.db'}")
    server = server or MemoryAdapterServer()
    engine = ScriptedEngine(server)
    for name, query in deploy:
        deploy_expert(store, name, query)
    store.broken = broken
    app = create(
        store, backend or EmbeddedBackend(engine), embedder or WordEmbedder(), server, settings(folder, **serve)
    )
    with serving(app) as url:
        yield Kit(url, store, engine, server, app)
    store.close()


def post(url: str, path: str, body: bytes, method: str = "POST", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (lower-case names) and body of one request."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=WAIT_S)
    try:
        connection.request(method, path, body, {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def settings(folder: Path, **serve: float | str) -> Config:
    return build({"store": {"home": str(folder)}, "serve": {"poll_s": 0.02, **serve}})


def deploy_expert(store: Store, name: str, query: str, at: float = 1.0, rank: int = 2) -> Adapter:
    """A cluster around one query, served by an expert."""
    cluster = cluster_of(name, query)
    adapter = adapter_for(cluster, rank)
    deployed(store, cluster, adapter, at)
    return adapter


def adapter_for(cluster: Cluster, rank: int = 2, kind: AdapterKind = "expert") -> Adapter:
    return identified(Adapter(
        id="", cluster_id=cluster.id, pair_ids=(), kind=kind, base="b", rank=rank, parameters=10,
        path=f"{cluster.name}-{kind}@{rank}", sha256=hashlib.sha256(WEIGHTS).hexdigest(), losses=(), checks={}, epoch=1,
    ))  # fmt: skip


def write_adapter(home: Path, adapter: Adapter) -> Path:
    """The folder of an adapter of `adapter_for`, as the gateway checks it before it is loaded."""
    folder = home / "adapters" / adapter.path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(WEIGHTS)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    return folder


def deployed(store: Store, cluster: Cluster, adapter: Adapter | None, at: float) -> Deployment:
    """Make `adapter`, or the base model, the one that serves `cluster`."""
    outputs = (cluster, adapter) if adapter else (cluster,)
    unit = UnitResult(stage="test", key=f"{cluster.id}{at}", outputs=outputs, cycle_id="c", config_hash="h", at=at)
    store.commit_units([unit])
    if adapter and isinstance(store, WatchedStore) and not (store.home / "adapters" / adapter.path).exists():
        write_adapter(store.home, adapter)
    deployment = identified(Deployment(
        id="", cluster_id=cluster.id, cluster_name=cluster.name, candidate=adapter.kind if adapter else "base",
        adapter_id=adapter.id if adapter else None, verdict_id=None, previous_id=None, action="deploy", at=at,
        reason=str(at),
    ))  # fmt: skip
    store.deploy(deployment, "c")
    return deployment


def cluster_of(name: str, query: str) -> Cluster:
    (vector,) = WordEmbedder().embed([query]).tolist()
    return identified(
        Cluster(id="", interaction_ids=(), centroids=(tuple(vector),), radius=0.5, label=name, name=name)
    )  # fmt: skip


@dataclass
class Upstream:
    """An OpenAI-compatible server that keeps what it was sent and answers by the words in it."""

    bodies: list[bytes]
    headers: list[dict[str, str]]
    known: set[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("no lifespan here")
        request = Request.of(scope, receive)
        if request.path == "/v1/models":
            await self._send(send, 200, json.dumps({"object": "list", "data": [{"id": "big", "extra": 1}]}).encode())
            return
        body = await request.body(1 << 30)
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        await self._answer(json.loads(body), send)

    async def _answer(self, body: dict[str, object], send: Send) -> None:
        said = str(body["messages"][-1]["content"])
        if body.get("model") not in self.known:
            await self._send(send, 404, b'{"error":{"message":"no such model","type":"NotFoundError","code":404}}')
        elif "busy" in said:
            await self._send(send, 429, b'{"error":{"message":"slow down","odd":true}}', [(b"retry-after", b"7")])
        elif "cut" in said:
            await self._cut(send, streamed=bool(body.get("stream")))
        elif body.get("stream"):
            await self._send(send, 200, STREAM, [(b"content-type", b"text/event-stream")])
        else:
            await self._send(send, 200, WHOLE, [(b"x-request-id", b"r1")])

    async def _send(self, send: Send, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        given = dict(headers)
        kind = given.pop(b"content-type", b"application/json")
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-type", kind), *given.items()]}
        )
        for start in range(0, len(body), 17):
            await send({"type": "http.response.body", "body": body[start : start + 17], "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _cut(self, send: Send, *, streamed: bool) -> None:
        kind = b"text/event-stream" if streamed else b"application/json"
        length = [(b"content-length", b"100000")]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind), *length]})
        part = STREAM[:400] if streamed else WHOLE[:50]
        await send({"type": "http.response.body", "body": part, "more_body": True})
        raise ConnectionResetError("the model server dies")


def upstream(*known: str) -> Upstream:
    return Upstream(bodies=[], headers=[], known=set(known))


WHOLE = json.dumps({
    "id": "chatcmpl-up", "object": "chat.completion", "created": 5, "model": "big", "odd": {"kept": [1.50, "\u00e9"]},
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}, indent=1).encode()  # fmt: skip


def chunk_line(delta: dict[str, object], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    head = {"id": "chatcmpl-up", "object": "chat.completion.chunk", "created": 5, "model": "big"}
    return b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n"


STREAM = (
    b": keep-alive\r\n\r\n"
    + chunk_line({"role": "assistant", "content": ""})
    + chunk_line({"content": "hel"})
    + chunk_line({"content": "lo", "odd": 1})
    + chunk_line({}, "stop")
    + b"data: [DONE]\n\n"
)


def until(holds: Callable[[], object]) -> None:
    """Return once it holds."""
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.005)


def until_stored(kit: Kit, count: int) -> None:
    """Wait until there are `count` records and nothing is left in the spool, which is emptied beside requests."""
    kit.store.wait(count)
    until(lambda: not json.loads(post(kit.url, "/readyz", b"", "GET")[2])["waiting"])
