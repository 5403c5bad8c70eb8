"""logtune as a system of the comparison: through its real gateway, on a tiny model."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from logtune import testing
from logtune.records import LogRecord, Message

pytest.importorskip("torch", reason="the extra local is not installed")

from logtune.edges.local_model import LocalModel
from logtune.edges.weights import base_model

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
def make(types: ModuleType, tmp_path: Path, local: LocalModel) -> Callable[[str], Any]:
    systems = importlib.import_module("compare_systems")

    class Engine:
        tools = replace(testing.tools(local), likelihood=local, adapters=local)

    def made(name: str) -> Any:
        return systems.SYSTEMS[name](
            types.Setting(
                folder=tmp_path / name,
                engine=Engine(),
                seed=0,
                max_tokens=4,
                teacher=None,
                settings={},
                say=lambda line: None,
            )
        )

    return made


def requests(types: ModuleType, count: int, user: str = "user") -> list[Any]:
    return [
        types.Request(
            id=f"{user}-{n}", week=1, user=f"{user}-{n}", at=1.75e9 + n,
            messages=(Message(role="system", content="Sort."), Message(role="user", content=f"where is parcel {n}")),
        )
        for n in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["logtune", "logtune_unfiltered", "logtune+few_shot"])
async def test_a_week_goes_through_the_gateway_and_a_cycle(
    name: str, make: Callable[[str], Any], types: ModuleType
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
    logged = next(log for log in again._store.logs() if log.user == "later-0")
    assert len(logged.request["messages"]) == 2  # and nothing of it is logged
    assert more.id
    await again.close()


def test_presets_keep_the_papers_choices_without_its_reranker(make: Callable[[str], Any], types: ModuleType) -> None:
    system = make("uno_single")
    assert system._config.ladder.rungs == ("expert",)
    assert system._config.gap.method == "embedding"
    assert system._config.train.max_rank == 64
    system._book.close()
