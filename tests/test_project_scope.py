"""Projects on one model server: none sees, asks, loads or unloads another's adapters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logtune.edges.project_scope import DEFAULT, Names, ScopedAdapters, ScopedBackend, ScopedChat, ScopedLikelihood
from logtune.edges.upstream import JSON_TYPE, Answer, UpstreamCall
from logtune.errors import RequestError
from logtune.ports import ChatCall, ChatReply
from logtune.records import Json, Message
from logtune.testing import MemoryAdapterServer

ADAPTERS = st.from_regex(r"[a-z_]{1,8}-(expert|critic)@[0-9a-f]{4}", fullmatch=True)
PROJECTS = st.one_of(st.just(DEFAULT), st.from_regex(r"[a-z0-9][a-z0-9-]{0,8}", fullmatch=True))


@given(ADAPTERS, PROJECTS, PROJECTS)
def test_an_adapter_is_seen_by_its_own_project_alone(name: str, mine: str, theirs: str) -> None:
    there = Names(mine).there(name)
    assert Names(mine).here(there) == name
    assert Names(mine).there(there) == there  # the server's name for it is understood too
    if mine != theirs:
        assert Names(theirs).here(there) is None


@given(st.text(max_size=30), PROJECTS, PROJECTS, ADAPTERS)
def test_no_name_that_a_client_gives_reaches_anothers_adapter(asked: str, mine: str, theirs: str, name: str) -> None:
    target = Names(theirs).there(name)
    for text in (asked, target, f"{target}@{mine}", f"{name}@{asked}", f"{asked}@{theirs}"):
        reached = Names(mine).there(text)
        if mine != theirs and "@" in reached and Names(mine).here(reached) is not None:
            assert reached != target


class Everything:
    """A backend, chat and likelihood that keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def open(self, call: UpstreamCall) -> Answer:
        self.asked.append(call.model)
        return Answer(status=200, content_type=JSON_TYPE, chunks=None)

    async def models(self) -> list[dict[str, Json]]:
        return [{"id": name} for name in ("meta@v2", "sql", "a-expert@1", "a-expert@1@acme", "a-expert@1@other")]

    async def close(self) -> None:
        raise AssertionError("the backend is everybody's")

    async def complete(self, call: ChatCall) -> ChatReply:
        self.asked.append(call.model)
        return ChatReply(text="")

    def nll(self, prompts: object, answers: object, model: str = "") -> list[float]:
        self.asked.append(model)
        return [0.0]


def call(model: str, **body: Json) -> UpstreamCall:
    return UpstreamCall(id="1", body={"model": model, **body}, raw=b"{}", model=model, headers={})


async def test_a_project_asks_for_its_own_adapters_and_for_what_is_nobodys() -> None:
    behind = Everything()
    backend = ScopedBackend(behind, "acme", "meta@v2")
    for name in ("meta@v2", "sql", "a-expert@1", "a-expert@1@acme", ""):
        await backend.open(call(name))
    assert behind.asked == ["meta@v2", "sql", "a-expert@1@acme", "a-expert@1@acme", ""]
    assert [row["id"] for row in await backend.models()] == ["meta@v2", "sql", "a-expert@1"]
    await backend.close()
    main = ScopedBackend(behind, DEFAULT, "meta@v2")
    assert [row["id"] for row in await main.models()] == ["meta@v2", "sql", "a-expert@1"]


@pytest.mark.parametrize("project", [DEFAULT, "acme"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "a-expert@1@other"),
        ("lora_path", "a-expert@1@other"),
        ("lora_path", ["sql", "a-expert@1@other"]),
        ("adapter_id", "a-expert@1@other"),
    ],
)
async def test_anothers_adapter_does_not_exist_however_it_is_named(project: str, field: str, value: Json) -> None:
    behind = Everything()
    backend = ScopedBackend(behind, project, "base")
    asked = call("a-expert@1@other") if field == "model" else call("base", **{field: value})
    with pytest.raises(RequestError) as told:
        await backend.open(asked)
    assert (told.value.status, told.value.code, told.value.param) == (404, "model_not_found", field)
    assert behind.asked == []


async def test_a_cycle_of_one_project_unloads_nothing_of_another() -> None:
    server = MemoryAdapterServer()
    views = {name: ScopedAdapters(server, name) for name in (DEFAULT, "acme", "other")}
    await server.load("sql", "s")
    for view in views.values():
        await view.load("a-expert@1", "p")
    assert await server.names() == ["a-expert@1", "a-expert@1@acme", "a-expert@1@other", "sql"]
    assert {name: await view.names() for name, view in views.items()} == {name: ["a-expert@1"] for name in views}
    for name in await views["acme"].names():
        await views["acme"].unload(name)
    assert await server.names() == ["a-expert@1", "a-expert@1@other", "sql"]


async def test_a_cycle_asks_its_own_adapters() -> None:
    behind = Everything()
    chat, likelihood = ScopedChat(behind, "acme"), ScopedLikelihood(behind, "acme")
    for model in ("", "a-expert@1"):
        await chat.complete(ChatCall(messages=(Message(role="user", content="hi"),), model=model))
        likelihood.nll([], [], model)
    assert behind.asked == ["", "", "a-expert@1@acme", "a-expert@1@acme"]
