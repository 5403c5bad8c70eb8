"""logtune as a system of the comparison: its real gateway, store and weekly cycle, with other settings, or with
retrieval behind the gateway.

    request -> gateway (routes, logs) -> [retrieval adds to the prompt] -> engine        week's end: pipeline.run_cycle

What retrieval adds is not logged: the gateway records what users wrote, so that nothing learns from its own context.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

import weekly
from compare_adapters import Counted
from compare_logs import LogBook, settings_of
from compare_prompted import Way
from compare_types import Learnt, Prepared, Prompt, Reaction, Reply, Request, Setting, System
from poison import stages

from logtune import pipeline
from logtune.app import build
from logtune.app.demo import listening
from logtune.config import Config
from logtune.edges.store import Store
from logtune.edges.upstream import Answer, Backend, UpstreamCall
from logtune.ports import Tools
from logtune.records import Adapter, Cluster, Deployment, Json, Message
from logtune.served import served_rules
from logtune.stages import deploy
from logtune.stages.answer import CRITICS
from logtune.stages.cluster import Routes
from logtune.stages.prompted import with_rules

if TYPE_CHECKING:
    import aiohttp

    from logtune.app.gateway import Gateway

AT_ONCE = 32
TIMEOUT_S = 3600.0
KEPT_S = 1.0  # an idle connection; the gateway closes it after 5, and on a busy machine both may at once
MakeContext = Callable[[Setting, Tools], Way]


class Augmented:
    """A backend that puts more into the prompt than the gateway was asked and has logged."""

    def __init__(self, inner: Backend, way: Way) -> None:
        self._inner, self._way = inner, way

    async def open(self, call: UpstreamCall) -> Answer:
        """As the backend inside, asked with more."""
        messages = cast("list[dict[str, str]]", call.body["messages"])
        prompt = tuple(Message(role=m["role"], content=m["content"]) for m in messages)
        longer: list[Json] = [{"role": m.role, "content": m.content} for m in self._way.prepare(prompt).messages]
        body = {**call.body, "messages": longer}
        return await self._inner.open(replace(call, body=body, raw=json.dumps(body).encode()))

    async def models(self) -> list[dict[str, Json]]:
        """As the backend inside."""
        return await self._inner.models()

    async def close(self) -> None:
        """As the backend inside."""
        await self._inner.close()


class Client:
    """A gateway on a loopback port, as its clients see it."""

    def __init__(self, url: str, http: "aiohttp.ClientSession", max_tokens: int) -> None:
        self._url, self._http, self._max_tokens = url, http, max_tokens
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def ask(self, messages: Prompt, user: str) -> Reply:
        """The answer."""
        asked: list[Json] = [{"role": m.role, "content": m.content} for m in messages]
        body: dict[str, Json] = {
            "model": "base", "messages": asked, "max_tokens": self._max_tokens, "temperature": 0, "user": user,
        }  # fmt: skip
        async with self._gate:
            started = time.perf_counter()
            async with self._http.post(f"{self._url}/v1/chat/completions", json=body) as reply:
                answer = await reply.json()
            latency_ms = 1000 * (time.perf_counter() - started)
        if reply.status != 200:
            raise RuntimeError(f"the gateway answered {reply.status}: {answer}")
        usage = answer["usage"]
        return Reply(
            text=answer["choices"][0]["message"]["content"], prompt_tokens=usage["prompt_tokens"],
            completion_tokens=usage["completion_tokens"], latency_ms=latency_ms, id=answer["id"],
            source=reply.headers.get("x-logtune-adapter", "base"),
        )  # fmt: skip

    async def tell(self, target: str, user: str, reaction: Reaction) -> None:
        """Send feedback."""
        given = {"kind": reaction.kind, "value": reaction.value, "comment": reaction.comment}
        body = {"target": target, "user": user, "correction": reaction.correction, **given}
        found = {name: value for name, value in body.items() if value is not None}
        async with self._http.post(f"{self._url}/v1/feedback", json=found) as reply:
            if reply.status not in (200, 202):
                raise RuntimeError(f"feedback was answered {reply.status}: {await reply.text()}")


class LogtuneSystem:
    """See the module. `context`: retrieval behind the gateway; `filtered` False: no noise filter."""

    def __init__(
        self, name: str, setting: Setting, config: Config, context: MakeContext | None = None, *, filtered: bool = True
    ) -> None:
        self.name = name
        self._setting, self._config, self._filtered = setting, config, filtered
        self._book = LogBook(setting, config)
        self._store = self._book.store
        self._executor = Counted(self._book.tools)
        self._tools = replace(self._book.tools, executor=self._executor)
        self._context = context(setting, self._tools) if context else None
        self._opened = False
        self._served: dict[bool, tuple[AsyncExitStack, Client]] = {}  # by whether it records

    async def answer(self, requests: Sequence[Request], *, record: bool) -> list[Reply]:
        """As in the protocol; a test asks a gateway over a copy of the store."""
        client = await self._client(record=record)
        return list(await asyncio.gather(*(client.ask(request.messages, request.user) for request in requests)))

    async def tell(self, request: Request, reply: Reply, reaction: Reaction | None) -> None:
        """As in the protocol."""
        if reaction is None:
            return
        client = await self._client(record=True)
        if reaction.kind != "reask":
            await client.tell(reply.id, request.user, reaction)
            return
        said = Message(role="assistant", content=reply.text), Message(role="user", content=reaction.reask or "")
        await client.ask((*request.messages, *said), request.user)

    async def learn(self, week: int) -> Learnt:
        """As in the protocol: a cycle; where retrieval is behind the gateway, it learns too."""
        await self._stop_serving()
        await self._open()
        started = time.monotonic()
        with nullcontext() if self._filtered else stages(filtered=False):
            receipt = await asyncio.to_thread(
                pipeline.run_cycle, self._store, self._tools, self._config, self._setting.say
            )
        notes = [receipt.summary]
        if self._context is not None:
            notes.append((await self._context.learn(await self._book.lessons(filtered=self._filtered))).note)
        seconds = time.monotonic() - started
        current = self._store.deployments()
        adapters = self._adapters(current)
        return Learnt(
            seconds=seconds, training_tokens=self._executor.take(),
            adapter_parameters=sum(adapter.parameters for adapter in adapters.values()),
            adapter_share=deploy.live_share(current, adapters, self._tools.base_parameters),
            teacher_calls=int(sum(spent["calls"] + spent["remembered"] for spent in receipt.spent.values())),
            note=" ".join(notes),
            figures={
                "exit_code": receipt.exit_code, "dropped": dict(receipt.dropped), "held": dict(receipt.held),
                "origins": dict(receipt.origins), "taken_for_noise": cast("Json", self._noise(receipt.cycle_id)),
                "serving": {name: row.candidate for name, row in current.items()},
            },
        )  # fmt: skip

    def _noise(self, cycle_id: str) -> list[str]:
        """Users all of whose interactions were taken for noise."""
        return sorted(user for user, bad in weekly.taken_for_noise(self._store, cycle_id).items() if bad)

    async def prepare(self, prompts: Sequence[Prompt]) -> list[Prepared]:
        """As in the protocol, routed as the gateway does. Of a critic's three calls it is the draft."""
        await self._open()
        live = [row for row in self._store.deployments().values() if row.action != "retire"]
        adapters = self._adapters(self._store.deployments())
        for adapter in adapters.values():
            await self._tools.adapters.load(adapter.path, str(Path(self._tools.adapters_dir) / adapter.path))
        routes = Routes(self._store.load(Cluster, [row.cluster_id for row in live]))
        by_cluster = {row.cluster_id: row for row in live}
        vectors = self._tools.embedder.embed([prompt[-1].content for prompt in prompts])
        found = []
        for prompt, vector in zip(prompts, vectors, strict=True):
            group = routes.nearest(vector).cluster
            found.append(self._prepared(prompt, by_cluster[group.id] if group else None, adapters))
        return found

    def _prepared(self, prompt: Prompt, row: Deployment | None, adapters: Mapping[str, Adapter]) -> Prepared:
        rules = [rule.text for rule in served_rules(self._store, row)] if row else []
        asked = with_rules(prompt, rules)
        asked = self._context.prepare(asked).messages if self._context else asked
        adapter = adapters.get(row.adapter_id or "") if row and row.candidate not in CRITICS else None
        return Prepared(messages=asked, model=adapter.path if adapter else "")

    def _adapters(self, current: Mapping[str, Deployment]) -> dict[str, Adapter]:
        return {adapter.id: adapter for adapter in self._store.load(Adapter, deploy.live_adapters(current))}

    async def close(self) -> None:
        """As in the protocol."""
        await self._stop_serving()
        for name in await self._tools.adapters.names():
            if (Path(self._tools.adapters_dir) / name).exists():
                await self._tools.adapters.unload(name)
        if self._context is not None:
            await self._context.close()
        self._book.close()

    # --- the gateway ---

    async def _open(self) -> None:
        if not self._opened and self._context is not None:
            await self._context.open()
        self._opened = True

    async def _client(self, *, record: bool) -> Client:
        """The gateway that records, or one over a copy of the store as it is now; up until the store changes."""
        await self._open()
        if record not in self._served:
            if record:
                await self._stop_serving()  # what a copy was made of is changing
            stack = AsyncExitStack()
            self._served[record] = stack, await stack.enter_async_context(self._serving(record=record))
        return self._served[record][1]

    @asynccontextmanager
    async def _serving(self, *, record: bool) -> AsyncIterator[Client]:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        with TemporaryDirectory() as folder:
            config = self._config if record else weekly.snapshot(self._config, Path(folder))
            store = self._store if record else build.store(config)
            try:
                async with (
                    listening(self._gateway(store, config)) as url,
                    aiohttp.ClientSession(
                        timeout=timeout, connector=aiohttp.TCPConnector(keepalive_timeout=KEPT_S)
                    ) as http,
                ):
                    yield Client(url, http, self._setting.max_tokens)
            finally:
                if not record:
                    store.close()

    def _gateway(self, store: Store, config: Config) -> "Gateway":
        plain = build.gateway(store, self._tools, config)
        if self._context is None:
            return plain
        backend = Augmented(build._backend_of(self._tools, config), self._context)
        served = build.Serving(backend=backend, embedder=self._tools.embedder, adapters=self._tools.adapters)
        return build.gateway(store, served, config)

    async def _stop_serving(self) -> None:
        for stack, _ in self._served.values():
            await stack.aclose()
        self._served.clear()


# --- factories ---


def default(
    name: str, context: MakeContext | None = None, *, filtered: bool = True, **settings: Json
) -> Callable[[Setting], System]:
    """logtune with its default settings but for some."""

    def factory(setting: Setting) -> System:
        return LogtuneSystem(name, setting, settings_of(setting, **settings), context, filtered=filtered)

    return factory


def preset(name: str, chosen: str) -> Callable[[Setting], System]:
    """logtune with a preset; the paper's reranker is replaced by the embedder where none is set."""

    def factory(setting: Setting) -> System:
        own = (
            {}
            if "gap.reranker" in setting.settings or "gap.method" in setting.settings
            else {"gap__method": "embedding"}
        )
        return LogtuneSystem(name, setting, settings_of(setting, preset=chosen, **own))

    return factory
