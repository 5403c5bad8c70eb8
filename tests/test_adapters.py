"""Adapters at the model server: brought back, proven, flipped, drained; and what is never loaded at all."""

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from gateway_kit import WatchedStore, adapter_for, cluster_of, deploy_expert, deployed, gateway, post, write_adapter

from logtune.app.adapters import GRACE_LOOKS, MOST_LOOKS, Adapters
from logtune.app.routing import Router
from logtune.app.samples import KEPT, NO_PAIRS, Sample, samples
from logtune.edges.adapter_folder import checked
from logtune.edges.store import UnitResult
from logtune.errors import ModelError
from logtune.ids import identified
from logtune.records import Adapter, AdapterKind, Message, PreferencePair, Rule
from logtune.testing import MemoryAdapterServer, WordEmbedder

LATE = "where is my late parcel"
ANN = "user:ann"


class TrickyServer(MemoryAdapterServer):
    """Can be silent, and hold a load until it is let go."""

    def __init__(self, dull: Sequence[str] = ()) -> None:
        super().__init__(dull=dull)
        self.silent = False
        self.mute = False
        self.holding: asyncio.Event | None = None
        self.asked: list[tuple[str, tuple[Message, ...], str]] = []

    async def load(self, name: str, path: str) -> None:
        await super().load(name, path)
        if self.holding is not None:
            await self.holding.wait()

    async def unload(self, name: str) -> None:
        if self.silent:
            raise ModelError("the model server does not answer")
        await super().unload(name)

    async def names(self) -> list[str]:
        if self.silent:
            raise ModelError("the model server does not answer")
        return await super().names()

    async def changes(self, name: str, prompt: tuple[Message, ...], answer: str) -> bool:
        self.asked.append((name, prompt, answer))
        if self.mute:
            raise ModelError("no answer to the probe")
        return await super().changes(name, prompt, answer)

    def loads(self, name: str) -> int:
        return self.events.count(("load", name))


@pytest.fixture
def store(tmp_path: Path) -> WatchedStore:
    return WatchedStore(f"sqlite:///{tmp_path / 'logtune.db'}")


@pytest.fixture
def server() -> TrickyServer:
    return TrickyServer()


@pytest.fixture
def routing(store: WatchedStore, server: TrickyServer) -> Router:
    return Router(store, WordEmbedder(), Adapters(server, store.home / "adapters"))


async def some_looks(routing: Router) -> None:
    """As many as an adapter stays after its last use."""
    for _ in range(GRACE_LOOKS):
        await routing.refresh()


async def reason(routing: Router) -> str:
    return (await routing.choose(LATE, ANN)).reason


async def test_a_restarted_server_gets_its_adapters_back_before_a_request_fails(
    store: WatchedStore, server: TrickyServer, routing: Router
) -> None:
    adapter = deploy_expert(store, "late", LATE)
    await routing.refresh()
    server.loaded.clear()
    server.holding = asyncio.Event()
    await routing.look()
    assert await reason(routing) == f"the model server has lost {adapter.id}"  # and the base model answers meanwhile
    server.holding.set()
    await routing.refresh()
    assert (await routing.choose(LATE, ANN)).model == adapter.path
    assert (routing.adapters.events["loaded"], routing.adapters.events["lost"]) == (2, 1)
    await routing.close()


async def test_a_server_that_does_not_answer_changes_nothing(
    store: WatchedStore, server: TrickyServer, routing: Router, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = deploy_expert(store, "late", LATE)
    await routing.refresh()
    server.silent = True
    await routing.refresh()
    await routing.refresh()
    assert (await routing.choose(LATE, ANN)).model == adapter.path
    assert routing.adapters.unreachable == "the model server does not answer"
    assert caplog.text.count("cannot be listed") == 1
    server.silent = False
    await routing.refresh()
    assert not routing.adapters.unreachable
    await routing.close()


async def test_an_adapter_that_changes_nothing_leaves_what_served(
    store: WatchedStore, server: TrickyServer, routing: Router, caplog: pytest.LogCaptureFixture
) -> None:
    old = deploy_expert(store, "late", LATE)
    await routing.refresh()
    new = adapter_for(cluster_of("late", LATE), rank=4)
    server.dull = frozenset({new.path})
    deploy_expert(store, "late", LATE, at=2.0, rank=4)
    for _ in range(4):
        await routing.refresh()
    choice = await routing.choose(LATE, ANN)
    assert (choice.adapter, choice.model) == (old.id, old.path)
    assert choice.reason == f"{routing.table.problems()[new.id]}; {old.id} serves on"
    assert "says the same with it and without" in routing.table.problems()[new.id]
    assert await server.names() == [old.path]  # what failed is taken back, what serves stays
    assert [r.levelno for r in caplog.records if "says the same" in r.message] == [logging.WARNING]
    server.dull = frozenset()
    for _ in range(MOST_LOOKS):
        await routing.refresh()
    assert (await routing.choose(LATE, ANN)).adapter == new.id
    await some_looks(routing)
    assert await server.names() == [new.path]
    await routing.close()


async def test_without_an_earlier_adapter_the_base_model_answers(
    store: WatchedStore, server: TrickyServer, routing: Router
) -> None:
    adapter = deploy_expert(store, "late", LATE)
    server.dull = frozenset({adapter.path})
    await routing.refresh()
    choice = await routing.choose(LATE, ANN)
    assert (choice.kind, choice.adapter, choice.model, choice.arm) == ("base", None, "", "candidate")
    assert "says the same" in choice.reason
    await routing.close()


async def test_an_earlier_adapter_that_the_server_has_lost_too_is_not_named(
    store: WatchedStore, server: TrickyServer, routing: Router
) -> None:
    deploy_expert(store, "late", LATE)
    await routing.refresh()
    server.dull = frozenset({"late-expert@4"})
    new = deploy_expert(store, "late", LATE, at=2.0, rank=4)
    await routing.refresh()
    server.loaded.clear()
    await routing.refresh()
    choice = await routing.choose(LATE, ANN)
    assert (choice.adapter, choice.reason) == (None, routing.table.problems()[new.id])
    await routing.close()


async def test_what_served_serves_on_while_its_successor_loads(
    store: WatchedStore, server: TrickyServer, routing: Router
) -> None:
    old = deploy_expert(store, "late", LATE)
    await routing.refresh()
    server.holding = asyncio.Event()
    new = deploy_expert(store, "late", LATE, at=2.0, rank=4)
    assert await routing.look()
    choice = await routing.choose(LATE, ANN)
    assert (choice.adapter, choice.reason) == (old.id, f"{new.id} is not loaded yet; {old.id} serves on")
    server.holding.set()
    await routing.refresh()
    assert (await routing.choose(LATE, ANN)).adapter == new.id
    await routing.close()


async def test_a_rollback_does_not_wait_for_a_load_that_hangs(
    store: WatchedStore, server: TrickyServer, routing: Router
) -> None:
    server.holding = asyncio.Event()
    deploy_expert(store, "late", LATE)
    await routing.look()
    deployed(store, cluster_of("late", LATE), None, at=2.0)
    await routing.look()
    assert await reason(routing) == "the base model is deployed for late"
    server.holding.set()
    await routing.refresh()  # until the load has ended; only then do looks count as idle
    await some_looks(routing)
    assert (server.loaded, routing.adapters.states) == ({}, {})
    server.holding = asyncio.Event()
    deploy_expert(store, "late", LATE, at=3.0)
    await routing.look()
    await routing.close()  # also while a load hangs


async def test_an_adapter_in_use_is_unloaded_after_its_last_request(
    store: WatchedStore, server: TrickyServer, routing: Router
) -> None:
    old = deploy_expert(store, "late", LATE)
    await routing.refresh()
    with routing.adapters.using(old.path):
        deployed(store, cluster_of("late", LATE), None, at=2.0)
        assert await routing.refresh()
        assert (await routing.choose(LATE, ANN)).adapter is None
        await some_looks(routing)
        assert await server.names() == [old.path]
    for _ in range(GRACE_LOOKS - 1):
        await routing.refresh()
    assert await server.names() == [old.path]  # another process may still send requests to it
    await routing.refresh()
    assert await server.names() == []
    await routing.close()


async def test_an_unload_that_fails_is_tried_again(store: WatchedStore, server: TrickyServer) -> None:
    adapters = Adapters(server, store.home / "adapters")
    adapter = deploy_expert(store, "late", LATE)
    adapters.want([adapter])
    await adapters.bring(adapter, [NO_PAIRS])
    adapters.want([])
    adapters.keep([])
    for _ in range(GRACE_LOOKS):
        await adapters.look()
    server.silent = True
    await adapters.unload_drained()
    assert list(server.loaded) == [adapter.path]
    server.silent = False
    await adapters.unload_drained()
    assert (server.loaded, adapters.events["unloaded"]) == ({}, 1)


async def test_an_adapter_somebody_else_loaded_is_left_alone(server: TrickyServer, routing: Router) -> None:
    await server.load("of-the-gate", "x")
    await routing.refresh()
    assert await server.names() == ["of-the-gate"]
    await routing.close()


async def test_a_broken_adapter_is_tried_again_ever_more_rarely(
    store: WatchedStore, server: TrickyServer, routing: Router
) -> None:
    adapter = deploy_expert(store, "late", LATE)
    server.broken = frozenset({adapter.path})
    tried = []
    for look in range(3 * MOST_LOOKS):
        before = server.loads(adapter.path)
        await routing.refresh()
        tried += [look] if server.loads(adapter.path) > before else []
    assert tried == [0, 1, 3, 7, 15, 31, 63, 95]
    assert "could not be loaded" in await reason(routing)
    server.broken = frozenset()
    for _ in range(MOST_LOOKS):
        await routing.refresh()
    assert (await routing.choose(LATE, ANN)).adapter == adapter.id
    await routing.close()


async def test_a_probe_that_gets_no_answer_leaves_the_adapter_loaded_for_the_next_try(
    store: WatchedStore, server: TrickyServer, routing: Router
) -> None:
    server.mute = True
    adapter = deploy_expert(store, "late", LATE)
    await routing.refresh()
    assert "no answer to the probe" in await reason(routing)
    assert await server.names() == [adapter.path]  # another process may have proven it, and use it
    server.mute = False
    await routing.refresh()
    assert (await routing.choose(LATE, ANN)).adapter == adapter.id
    await routing.close()


async def test_what_the_folder_check_refuses_is_never_sent_to_the_server(
    store: WatchedStore, server: TrickyServer, routing: Router
) -> None:
    adapter = deploy_expert(store, "late", LATE)
    (store.home / "adapters" / adapter.path / "adapter_model.safetensors").write_bytes(b"something else")
    await routing.refresh()
    assert "SHA-256" in await reason(routing)
    assert server.events == []
    await routing.close()


# samples


def pair(number: int, **more: object) -> PreferencePair:
    fields: dict[str, object] = {
        "id": "", "interaction_id": f"int-{number}", "rule_ids": (), "chosen": f"late_parcel {number}",
        "rejected": "no idea", "origin": "stated", "margin": None,
        "prompt": (Message(role="user", content=LATE + "!" * number),),
    }  # fmt: skip
    return identified(PreferencePair(**{**fields, **more}))  # type: ignore[arg-type]


def trained_on(pairs: Sequence[PreferencePair], kind: AdapterKind = "expert") -> Adapter:
    adapter = adapter_for(cluster_of("late", LATE), kind=kind)
    return identified(Adapter(**{
        **{name: getattr(adapter, name) for name in Adapter.__slots__}, "pair_ids": tuple(p.id for p in pairs),
    }))  # fmt: skip


def keep(store: WatchedStore, *records: PreferencePair | Rule) -> None:
    store.commit_units([UnitResult(stage="t", key="k", outputs=records, cycle_id="c", config_hash="h", at=1.0)])


def test_an_expert_is_proven_on_the_shortest_prompts_of_its_training(store: WatchedStore) -> None:
    pairs = [pair(number) for number in (5, 1, 4, 2, 3)]
    keep(store, *pairs)
    found = samples(store, trained_on(pairs))
    assert found == [Sample(pair(n).prompt, f"late_parcel {n}") for n in range(1, KEPT + 1)]


def test_a_critic_is_proven_on_what_it_was_trained_to_say(store: WatchedStore) -> None:
    rule = identified(Rule(
        id="", text="Name the intent.", interaction_ids=("int-1",), signal_ids=(), from_feedback=True, covered=None,
        distinct_users=1,
    ))  # fmt: skip
    taught = pair(1, rule_ids=(rule.id,))
    keep(store, rule, taught)
    (found,) = samples(store, trained_on([taught], "critic"))
    assert LATE in found.prompt[0].content
    assert "no idea" in found.prompt[0].content
    assert found.answer == "1. Name the intent."


def test_an_adapter_whose_pairs_are_gone_is_proven_on_a_general_prompt(store: WatchedStore) -> None:
    assert samples(store, trained_on([pair(1)])) == samples(store, trained_on([])) == [NO_PAIRS]


async def test_the_server_is_asked_about_the_training(
    store: WatchedStore, server: TrickyServer, routing: Router
) -> None:
    taught = pair(1)
    keep(store, taught)
    adapter = trained_on([taught])
    deployed(store, cluster_of("late", LATE), adapter, at=1.0)
    await routing.refresh()
    assert server.asked == [(adapter.path, taught.prompt, taught.chosen)]
    await routing.close()


# folders


@pytest.fixture
def adapter(tmp_path: Path) -> Adapter:
    made = adapter_for(cluster_of("late", LATE))
    write_adapter(tmp_path, made)
    return made


def home(tmp_path: Path) -> Path:
    return tmp_path / "adapters"


def test_a_folder_of_ours_is_resolved(tmp_path: Path, adapter: Adapter) -> None:
    (home(tmp_path) / adapter.path / "README.md").write_text("a card", encoding="utf-8")
    (tmp_path / "linked").symlink_to(home(tmp_path))  # the store itself may lie anywhere
    assert checked(tmp_path / "linked", adapter) == (home(tmp_path) / adapter.path).resolve()


@pytest.mark.parametrize(
    "name", ["../adapters/x", "/etc", "..", "a/b", "", "base", "-rf", "a b", "a\nb", "späte", "x" * 129, ".hidden"]
)
def test_a_name_that_is_no_plain_name_is_refused(tmp_path: Path, adapter: Adapter, name: str) -> None:
    with pytest.raises(ModelError, match="is not allowed"):
        checked(home(tmp_path), _called(adapter, name))


def _called(adapter: Adapter, name: str) -> Adapter:
    return Adapter(**{**{field: getattr(adapter, field) for field in Adapter.__slots__}, "path": name})


def pickled(folder: Path) -> None:
    (folder / "adapter_model.bin").write_bytes(b"pickle")


def linked_weights(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.rename(folder.parent.parent / "elsewhere.safetensors")
    weights.symlink_to(folder.parent.parent / "elsewhere.safetensors")


def a_folder_inside(folder: Path) -> None:
    (folder / "more").mkdir()


def no_settings(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def broken_settings(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{", encoding="utf-8")


def settings_that_are_a_list(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("[]", encoding="utf-8")


def another_method(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "IA3"}', encoding="utf-8")


def classes_to_import(folder: Path) -> None:
    text = '{"peft_type": "LORA", "auto_mapping": {"parent_library": "os"}}'
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")


def no_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def other_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"other")


def moved_and_linked(folder: Path) -> None:
    elsewhere = folder.parent.parent / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)


def gone(folder: Path) -> None:
    folder.rename(folder.parent / "other")


@pytest.mark.parametrize(("spoil", "said"), [
    (pickled, "of a kind that is never served"), (linked_weights, "is no plain file"),
    (a_folder_inside, "is no plain file"), (no_settings, "cannot be read"), (broken_settings, "cannot be read"),
    (settings_that_are_a_list, "peft_type None"), (another_method, "peft_type 'IA3'"),
    (classes_to_import, "auto_mapping"), (no_weights, "cannot be read"), (other_weights, "has SHA-256"),
    (moved_and_linked, "is a link"), (gone, "there is no folder"),
])  # fmt: skip
def test_a_folder_that_must_not_be_served_is_refused(
    tmp_path: Path, adapter: Adapter, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(home(tmp_path) / adapter.path)
    with pytest.raises(ModelError, match=said):
        checked(home(tmp_path), adapter)


# the gateway's word


def test_readyz_says_why_an_adapter_does_not_serve(tmp_path: Path) -> None:
    server = MemoryAdapterServer(dull=["late-expert@2"])
    with gateway(tmp_path, server=server, deploy=[("late", LATE)], poll_s=3600) as kit:
        said = json.loads(post(kit.url, "/readyz", b"", "GET")[2])
    (problem,) = said["adapter_problems"].values()
    assert "says the same with it and without" in problem
    assert said["adapters"] == []
    assert said["status"] == "ready"
