"""Adapters brought in line with what is wanted; the client against a real HTTP server that behaves as vLLM does."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from logtune.edges.adapter_server import Applied, HttpAdapterServer, Wanted, apply
from logtune.errors import ModelError
from logtune.ports import ChatCall
from logtune.records import Message
from logtune.testing import FixedLikelihood, MemoryAdapterServer, ScriptedChat

PROMPT = (Message(role="user", content="where is my parcel"),)


def wanted(name: str) -> Wanted:
    return Wanted(name=name, path=f"adapters/{name}", prompt=PROMPT, answer="late_parcel")


def speaker() -> ScriptedChat:
    """A model whose adapters change what it says, but for the one called dull."""
    return ScriptedChat(lambda call: "base" if call.model in ("", "dull@1") else f"tuned by {call.model}")


class Unequal:
    """A likelihood that only tells the adapter called quiet from the base model."""

    def nll(self, prompts: list[tuple[Message, ...]], answers: list[str], model: str = "") -> list[float]:
        return [0.5 if model == "quiet@1" else 2.0] * len(answers)


async def test_the_missing_are_loaded_and_the_unwanted_go_last() -> None:
    server = MemoryAdapterServer()
    for name in ("old@1", "kept@1", "stranger"):
        await server.load(name, "somewhere")
    server.events.clear()
    done = await apply(server, speaker(), None, [wanted("kept@1"), wanted("new@1"), wanted("other@1")])
    assert done == Applied(loaded=("new@1", "other@1"), kept=("kept@1",), unloaded=("old@1",))
    assert server.events == [("load", "new@1"), ("load", "other@1"), ("unload", "old@1")]
    assert server.loaded["new@1"] == "adapters/new@1"
    assert await server.names() == ["kept@1", "new@1", "other@1", "stranger"]


async def test_doing_it_again_does_nothing() -> None:
    server, chat = MemoryAdapterServer(), speaker()
    await apply(server, chat, None, [wanted("new@1")])
    server.events.clear()
    chat.calls.clear()
    assert await apply(server, chat, None, [wanted("new@1")]) == Applied(loaded=(), kept=("new@1",), unloaded=())
    assert (server.events, chat.calls) == ([], [])


async def test_an_adapter_that_changes_nothing_is_taken_back_and_the_old_ones_serve_on() -> None:
    server = MemoryAdapterServer()
    await server.load("old@1", "somewhere")
    with pytest.raises(ModelError, match="dull@1 changes nothing: with and without it the answer is 'base'"):
        await apply(server, speaker(), FixedLikelihood(), [wanted("new@1"), wanted("dull@1")])
    assert await server.names() == ["old@1"]


async def test_an_adapter_that_does_not_load_leaves_the_old_ones() -> None:
    server = MemoryAdapterServer(broken=["new@1"])
    await server.load("old@1", "somewhere")
    with pytest.raises(ModelError, match="cannot be loaded"):
        await apply(server, speaker(), None, [wanted("new@1")])
    assert await server.names() == ["old@1"]


async def test_a_change_of_likelihood_alone_is_enough() -> None:
    server = MemoryAdapterServer()
    silent = ScriptedChat("always the same")
    done = await apply(server, silent, Unequal(), [wanted("quiet@1")])  # type: ignore[arg-type]
    assert done.loaded == ("quiet@1",)
    assert silent.calls == []


async def test_an_adapter_that_is_not_listed_is_refused() -> None:
    class Forgetful(MemoryAdapterServer):
        async def names(self) -> list[str]:
            return []

    with pytest.raises(ModelError, match="new@1 was loaded and is not listed"):
        await apply(Forgetful(), speaker(), None, [wanted("new@1")])


def test_the_probe_asks_greedily() -> None:
    chat = speaker()
    asyncio.run(apply(MemoryAdapterServer(), chat, None, [wanted("new@1")]))
    assert chat.calls == [ChatCall(messages=PROMPT, model=name, max_tokens=24) for name in ("", "new@1")]


class Vllm:
    """The LoRA routes of a vLLM server, as its 0.11 answers."""

    def __init__(self) -> None:
        self.loaded: dict[str, str] = {}
        self.keys: list[str | None] = []

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes([
            web.get("/v1/models", self.models), web.post("/v1/load_lora_adapter", self.load),
            web.post("/v1/unload_lora_adapter", self.unload),
        ])  # fmt: skip
        return app

    async def models(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers.get("Authorization"))
        base = {"id": "base", "object": "model", "parent": None}
        tuned = [{"id": name, "object": "model", "parent": "base"} for name in self.loaded]
        return web.json_response({"object": "list", "data": [base, *tuned]})

    async def load(self, request: web.Request) -> web.Response:
        body = await request.json()
        if "missing" in body["lora_path"]:
            message = f"Loading lora {body['lora_name']} failed: No adapter found for {body['lora_path']}"
            return web.json_response({"error": {"message": message, "type": "NotFoundError"}}, status=404)
        self.loaded[body["lora_name"]] = body["lora_path"]
        return web.Response(text=f"Success: LoRA adapter '{body['lora_name']}' added successfully.")

    async def unload(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["lora_name"] == "stuck@1":
            return web.Response(text="Internal Server Error", status=500)
        del self.loaded[body["lora_name"]]
        return web.Response(text="Success")


@pytest.fixture
async def vllm() -> AsyncIterator[tuple[Vllm, str]]:
    fake = Vllm()
    async with TestServer(fake.app()) as server:
        yield fake, str(server.make_url("/v1"))


async def test_http_loads_lists_and_unloads(vllm: tuple[Vllm, str]) -> None:
    fake, url = vllm
    server = HttpAdapterServer(url + "/")
    await server.load("late@1", "adapters/late")
    await server.load("late@1", "adapters/another")  # immutable: does nothing
    assert fake.loaded == {"late@1": "adapters/late"}
    assert await server.names() == ["late@1"]
    await server.unload("late@1")
    await server.unload("late@1")
    assert await server.names() == []


async def test_http_sends_the_key(vllm: tuple[Vllm, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_KEY", "secret")
    await HttpAdapterServer(vllm[1], api_key_env="MODEL_KEY").names()
    assert vllm[0].keys == ["Bearer secret"]


async def test_http_errors_tell_the_servers_words(vllm: tuple[Vllm, str]) -> None:
    fake, url = vllm
    server = HttpAdapterServer(url)
    with pytest.raises(
        ModelError, match=r"did not load a@1 from missing: 404 Loading lora a@1 failed.*\n.*can read it"
    ):
        await server.load("a@1", "missing")
    fake.loaded["stuck@1"] = "x"
    with pytest.raises(ModelError, match="did not unload stuck@1: 500 Internal Server Error"):
        await server.unload("stuck@1")


async def test_a_server_without_runtime_lora_is_told_apart() -> None:
    async def missing(request: web.Request) -> web.Response:
        if request.path.endswith("/models"):
            return web.json_response({"data": [{"id": "base", "parent": None}]})
        return web.json_response({"detail": "Not Found"}, status=404)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", missing)
    async with TestServer(app) as other:
        with pytest.raises(ModelError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
            await HttpAdapterServer(str(other.make_url("/v1"))).load("a@1", "x")


@pytest.mark.parametrize("body", ["<html>", "[]", '{"data": 3}', '{"data": [3]}', "null"])
async def test_an_answer_of_another_kind_is_named(body: str) -> None:
    async def odd(_: web.Request) -> web.Response:
        return web.Response(text=body)

    app = web.Application()
    app.router.add_get("/v1/models", odd)
    async with TestServer(app) as other:
        with pytest.raises(ModelError, match=r"/v1/models answered 200"):
            await HttpAdapterServer(str(other.make_url("/v1"))).names()


async def test_a_server_that_is_not_there_is_an_error() -> None:
    async with TestServer(web.Application()) as gone:
        url = str(gone.make_url("/v1"))
    with pytest.raises(ModelError, match="does not answer"):
        await HttpAdapterServer(url).names()
