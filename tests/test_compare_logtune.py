"""logtune as a system of the comparison: through its real gateway, on a tiny model."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from logtune import testing
from logtune.app.build import TRAINER
from logtune.edges.executor import LocalExecutor
from logtune.ports import ChatCall
from logtune.records import LogRecord, Message

pytest.importorskip("torch", reason="the extra local is not installed")

from logtune.edges.local_model import LocalModel
from logtune.edges.weights import base_model

SETTINGS = {"train.budget": 0.5, "train.epochs": 2}  # the smallest adapter is a large part of a tiny model
BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def types(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("compare_types")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalModel]:
    model = LocalModel(base_model(str(testing.tiny_model(tmp_path_factory.mktemp("tiny")))))
    yield model
    model.close()


@pytest.fixture
def make(types: ModuleType, tmp_path: Path, local: LocalModel) -> Callable[..., Any]:
    systems = importlib.import_module("compare_systems")

    class Engine:
        def __init__(self, changes: Any) -> None:
            tools = replace(testing.tools(local), likelihood=local, adapters=local, base_path=str(local.folder.path))
            own = {"base_fingerprint": local.fingerprint, "lora_sizes": local.lora_sizes()}
            self.tools = replace(tools, base_parameters=local.base_parameters, **own, **changes)

        async def generate(self, asked: Any, *, max_tokens: int, fresh: bool = False) -> list[Any]:
            calls = [ChatCall(messages=a.messages, model=a.model, max_tokens=max_tokens) for a in asked]
            said = [await local.complete(call) for call in calls]
            return [types.Reply(text=r.text, prompt_tokens=9, completion_tokens=1, latency_ms=1.0) for r in said]

    def made(name: str, **changes: Any) -> Any:
        setting = types.Setting(
            folder=tmp_path / name, engine=Engine(changes), seed=0, max_tokens=4, teacher=None, settings=SETTINGS,
            say=lambda line: None,
        )  # fmt: skip
        return systems.SYSTEMS[name](setting)

    return made


def requests(types: ModuleType, count: int, user: str = "user") -> list[Any]:
    return [
        types.Request(
            id=f"{user}-{n}", week=1, user=f"{user}-{n}", at=1.75e9 + n,
            messages=(Message(role="system", content="Sort."), Message(role="user", content=f"where is parcel {n}")),
        )
        for n in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["logtune", "logtune_unfiltered", "logtune+few_shot", "uno_single"])
async def test_a_week_goes_through_the_gateway_and_a_cycle(
    name: str, make: Callable[..., Any], types: ModuleType
) -> None:
    system, asked = make(name), requests(types, 10)
    replies = await system.answer(asked, record=True)
    assert all(reply.prompt_tokens > 0 for reply in replies)
    for request, reply in zip(asked[:8], replies, strict=False):
        await system.tell(request, reply, types.Reaction(kind="edit", correction="late_parcel"))
    await system.tell(asked[8], replies[8], types.Reaction(kind="reask", reask="Again: where is parcel 8"))
    await system.tell(asked[9], replies[9], None)
    learnt = await system.learn(1)
    assert learnt.human_actions == 0
    assert learnt.adapter_share == 0
    assert "interactions" in learnt.note
    assert system._store.count(LogRecord) == 11
    (new,) = requests(types, 1, "new")
    (tested,) = await system.answer([new], record=False)
    assert system._store.count(LogRecord) == 11  # a test leaves nothing behind
    (prepared,) = await system.prepare([new.messages])
    if name == "logtune+few_shot":
        assert [m.content for m in prepared.messages if m.role == "assistant"].count("late_parcel") >= 1
        assert tested.prompt_tokens > replies[0].prompt_tokens  # what the gateway was not asked, the model was
    else:
        assert prepared.messages == new.messages
    await system.close()
    again = make(name)
    (same,) = await again.prepare([new.messages])
    assert same == prepared
    (more,) = await again.answer(requests(types, 1, "later"), record=True)
    await again._stop_serving()  # which writes what is on its way to the store
    logged = next(log for log in again._store.logs() if log.user == "later-0")
    assert len(logged.request["messages"]) == 2  # and nothing of it is logged
    assert more.id
    await again.close()


def test_presets_keep_the_papers_choices_without_its_reranker(make: Callable[..., Any], types: ModuleType) -> None:
    system = make("uno_single")
    assert system._config.ladder.rungs == ("expert",)
    assert system._config.gap.method == "embedding"
    assert system._config.train.max_rank == 64
    system._book.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft_all", "dpo_all"])
async def test_one_adapter_is_really_trained_and_answers_after_a_restart(
    name: str, make: Callable[..., Any], types: ModuleType, local: LocalModel
) -> None:
    for package in ("trl", "peft"):
        pytest.importorskip(package, reason="needs the extra train")
    system, asked = make(name, executor=LocalExecutor(TRAINER, niceness=0, idle_s=0)), requests(types, 16)
    replies = await system.answer(asked, record=True)
    for request, reply in zip(asked, replies, strict=True):
        await system.tell(request, reply, types.Reaction(kind="edit", correction="late"))
    learnt = await system.learn(1)
    assert "16 pairs, losses" in learnt.note, learnt.note
    assert 0 < learnt.adapter_share <= 0.5
    assert learnt.training_tokens > 0
    (prepared,) = await system.prepare([asked[0].messages])
    assert await local.changes(prepared.model, asked[0].messages, "late")
    await system.close()
    assert await local.names() == []
    again = make(name)
    assert await again.prepare([asked[0].messages]) == [prepared]
    assert await local.names() == [prepared.model]
    await again.close()
