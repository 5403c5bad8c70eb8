"""The client of a model server's runtime LoRA, against a real HTTP server that behaves as vLLM and others do."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from logtune.edges.adapter_server import HttpAdapterServer, ours
from logtune.edges.weights import fingerprint_of
from logtune.errors import ModelError
from logtune.records import Json, Message

PROMPT = (Message(role="user", content="where is my parcel"),)


class Vllm:
    """The LoRA routes of a vLLM server, as its 0.11 answers."""

    def __init__(self) -> None:
        self.loaded: dict[str, str] = {}
        self.keys: list[str | None] = []
        self.said: dict[str, list[tuple[str, float]]] = {}  # model -> tokens and their log-probabilities
        self.tells = True  # log-probabilities
        self.root = ""  # where the base model comes from

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes([
            web.get("/v1/models", self.models), web.post("/v1/load_lora_adapter", self.load),
            web.post("/v1/unload_lora_adapter", self.unload), web.post("/v1/chat/completions", self.chat),
        ])  # fmt: skip
        return app

    async def models(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers.get("Authorization"))
        base = {"id": "base", "object": "model", "parent": None, "root": self.root}
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

    async def chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body.get("logprobs") and not self.tells:
            return web.json_response({"error": {"message": "logprobs are not supported"}}, status=400)
        if body["model"] not in self.said:
            return web.json_response({"error": {"message": f"no model {body['model']}"}}, status=404)
        tokens = self.said[body["model"]]
        rows = [{"token": token, "logprob": logprob} for token, logprob in tokens] if body.get("logprobs") else None
        message = {"role": "assistant", "content": "".join(token for token, _ in tokens)}
        return web.json_response({"choices": [{"message": message, "logprobs": rows and {"content": rows}}]})


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


async def test_an_adapter_of_another_base_model_is_never_loaded(vllm: tuple[Vllm, str], tmp_path: Path) -> None:
    fake, url = vllm
    served, other = (weights(tmp_path / name, name) for name in ("served", "other"))
    adapter = tmp_path / "adapters" / "late"
    adapter.mkdir(parents=True)
    (adapter / "logtune.json").write_text(json.dumps({"base": fingerprint_of(str(served)), "id": "ada-1"}))
    fake.root = str(served)
    await HttpAdapterServer(url, model=str(served)).load("late@1", str(adapter))
    assert "late@1" in fake.loaded
    with pytest.raises(ModelError, match=r"late@1 was trained on hf@\w+, and model.base is hf@\w+\n.*logtune rebase"):
        await HttpAdapterServer(url, model=str(other)).load("late@1", str(adapter))  # not even where it is loaded
    fake.root = str(other)  # somebody has started the server with another model
    with pytest.raises(ModelError, match=rf"was trained on hf@\w+, and the model server serves {other}"):
        await HttpAdapterServer(url, model=str(served)).load("late@2", str(adapter))
    for unknown in ("", "owner/model", str(tmp_path / "elsewhere")):  # nobody here can tell what that is
        fake.root = unknown
        await HttpAdapterServer(url, model="owner/model").load("late@3", str(adapter))
    assert await HttpAdapterServer(url).root() == unknown


def weights(folder: Path, content: str) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_text(content)
    return folder


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


@pytest.mark.parametrize(("status", "body"), [
    (404, '{"detail": "Not Found"}'),  # FastAPI: vLLM without the variable, SGLang of old
    (404, '{"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}'),  # llama.cpp
    (404, "404 page not found"),  # Ollama
    (405, '{"detail": "Method Not Allowed"}'),
])  # fmt: skip
async def test_a_server_without_runtime_lora_is_told_apart(status: int, body: str) -> None:
    async def missing(request: web.Request) -> web.Response:
        if request.path.endswith("/models"):
            return web.json_response({"data": [{"id": "base", "parent": None}]})
        return web.Response(text=body, status=status)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", missing)
    async with TestServer(app) as other:
        with pytest.raises(ModelError, match=r"has no runtime LoRA.*\n.*VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
            await HttpAdapterServer(str(other.make_url("/v1"))).load("a@1", "x")


async def test_sglangs_paths_lie_beside_v1() -> None:
    fake = Vllm()
    app = web.Application()
    app.add_routes([
        web.get("/v1/models", fake.models), web.post("/load_lora_adapter", fake.load),
        web.post("/unload_lora_adapter", fake.unload),
        web.post("/v1/{tail:.*}", _not_found),
    ])  # fmt: skip
    async with TestServer(app) as sglang:
        server = HttpAdapterServer(str(sglang.make_url("/v1")))
        await server.load("a@1", "adapters/a")
        assert fake.loaded == {"a@1": "adapters/a"}
        await server.unload("a@1")
        assert fake.loaded == {}


async def _not_found(_: web.Request) -> web.Response:
    return web.json_response({"detail": "Not Found"}, status=404)


def test_names_of_ours() -> None:
    assert ours("late-expert@1")
    assert not ours("somebody-elses")


# the probe

SAID = [("late", -0.10), ("_parcel", -0.20)]


@pytest.mark.parametrize(("tuned", "changes"), [
    (SAID, False),
    ([("late", -0.11), ("_parcel", -0.21)], True),  # the same words, surer or less sure
    ([("late", -0.102), ("_parcel", -0.202)], False),  # rounding
    ([("lost", -0.10), ("_parcel", -0.20)], True),
    ([("late", -0.10), ("_letter", -0.20)], True),
])  # fmt: skip
async def test_an_adapter_must_change_words_or_their_likelihood(
    vllm: tuple[Vllm, str], tuned: list[tuple[str, float]], changes: bool
) -> None:
    fake, url = vllm
    fake.said = {"base": SAID, "late@1": tuned}
    assert await HttpAdapterServer(url).changes("late@1", PROMPT, "") is changes


async def test_a_server_that_tells_no_likelihood_is_judged_by_its_words(vllm: tuple[Vllm, str]) -> None:
    fake, url = vllm
    fake.said = {"big": SAID, "late@1": [("late", -9.0), ("_parcel", -9.0)], "lost@1": [("lost", -0.1)]}
    fake.tells = False
    server = HttpAdapterServer(url, base="big")
    assert not await server.changes("late@1", PROMPT, "")
    assert await server.changes("lost@1", PROMPT, "")


@pytest.mark.parametrize(("tuned", "again", "changes"), [
    ([("late", -0.12)], [("late", -0.11)], False),  # as far from the base as the base from itself
    ([("late", -0.52)], [("late", -0.11)], True),
    ([("lost", -0.69)], [("lost", -0.69)], False),  # a tie that falls either way
])  # fmt: skip
async def test_noise_of_the_server_is_no_change(
    tuned: list[tuple[str, float]], again: list[tuple[str, float]], changes: bool
) -> None:
    answers = iter([[("late", -0.10)], tuned, again])

    async def chat(_: web.Request) -> web.Response:
        ((token, logprob),) = next(answers)
        likeliest = {"late": -0.10 if token == "late" else -0.70, "lost": -3.0, token: logprob}
        top = [{"token": one, "logprob": value} for one, value in likeliest.items()]
        row = {"token": token, "logprob": logprob, "top_logprobs": top}
        choice = {"message": {"content": token}, "logprobs": {"content": [row]}}
        return web.Response(text=json.dumps({"choices": [choice]}))

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    async with TestServer(app) as noisy:
        assert await HttpAdapterServer(str(noisy.make_url("/v1"))).changes("late@1", PROMPT, "") is changes


async def test_a_probe_asks_as_the_adapter_was_trained() -> None:
    asked: list[dict[str, Json]] = []

    async def chat(request: web.Request) -> web.Response:
        asked.append(await request.json())
        return web.Response(text=json.dumps({"choices": [{"message": {"content": "late"}}]}))

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    thinks_not: dict[str, Json] = {"chat_template_kwargs": {"enable_thinking": False}}
    async with TestServer(app) as server:
        await HttpAdapterServer(str(server.make_url("/v1")), extra_body=thinks_not).changes("late@1", PROMPT, "")
    assert len(asked) == 3
    assert all(body["chat_template_kwargs"] == {"enable_thinking": False} for body in asked)


async def test_a_probe_without_an_answer_is_an_error(vllm: tuple[Vllm, str]) -> None:
    with pytest.raises(ModelError, match="base did not answer a training prompt: 404 no model base"):
        await HttpAdapterServer(vllm[1]).changes("late@1", PROMPT, "")


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
