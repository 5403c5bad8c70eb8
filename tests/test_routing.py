from collections.abc import Sequence
from pathlib import Path

import pytest
from gateway_kit import WatchedStore, adapter_for, cluster_of, deploy_expert, deployed

from logtune.app.adapters import Adapters, Loaded
from logtune.app.routing import Choice, Router, RoutingTable
from logtune.ports import Vectors
from logtune.records import CandidateKind, Deployment, identified
from logtune.testing import MemoryAdapterServer, WordEmbedder

LATE = "where is my late parcel"


class CountingEmbedder(WordEmbedder):
    """Counts the texts."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.texts.extend(texts)
        return super().embed(texts)


@pytest.fixture
def store(tmp_path: Path) -> WatchedStore:
    return WatchedStore(f"sqlite:///{tmp_path / 'logtune.db'}")


def router(store: WatchedStore, server: MemoryAdapterServer | None = None) -> Router:
    return Router(store, CountingEmbedder(), Adapters(server or MemoryAdapterServer(), Path("adapters")))


async def test_the_table_is_loaded_from_the_store_with_its_adapters(store: WatchedStore) -> None:
    adapter = deploy_expert(store, "late", LATE)
    server = MemoryAdapterServer()
    routing = router(store, server)
    assert (await routing.choose(LATE)).reason == "nothing is deployed"
    assert await routing.refresh()
    assert server.loaded == {adapter.path: f"adapters/{adapter.path}"}
    choice = await routing.choose(LATE)
    assert (choice.adapter, choice.model, choice.cluster) == (adapter.id, adapter.path, "late")
    assert choice.similarity == pytest.approx(1.0)
    assert not await routing.refresh()
    await routing.close()


async def test_an_adapter_in_use_is_unloaded_after_its_last_request(store: WatchedStore) -> None:
    old = deploy_expert(store, "late", LATE)
    server = MemoryAdapterServer()
    routing = router(store, server)
    await routing.refresh()
    with routing.adapters.using(old.path):
        deployed(store, cluster_of("late", LATE), None, at=2.0)
        assert await routing.refresh()
        assert (await routing.choose(LATE)).adapter is None
        assert await server.names() == [old.path]
    await routing.refresh()
    assert await server.names() == []
    await routing.close()


async def test_an_adapter_somebody_else_loaded_is_left_alone(store: WatchedStore) -> None:
    server = MemoryAdapterServer()
    await server.load("of-the-gate", "x")
    routing = router(store, server)
    await routing.refresh()
    assert await server.names() == ["of-the-gate"]
    await routing.close()


async def test_a_broken_adapter_is_tried_again(store: WatchedStore) -> None:
    adapter = deploy_expert(store, "late", LATE)
    server = MemoryAdapterServer(broken=[adapter.path])
    routing = router(store, server)
    await routing.refresh()
    assert "could not be loaded" in (await routing.choose(LATE)).reason
    server.broken = frozenset()
    assert not await routing.refresh()
    assert (await routing.choose(LATE)).adapter == adapter.id
    await routing.close()


async def test_a_query_is_embedded_once(store: WatchedStore) -> None:
    deploy_expert(store, "late", LATE)
    embedder = CountingEmbedder()
    routing = Router(store, embedder, Adapters(MemoryAdapterServer(), Path("adapters")))
    await routing.refresh()
    for text in (LATE, "something else", LATE, "  "):
        await routing.choose(text)
    assert embedder.texts == [LATE, "something else"]
    assert (await routing.choose(" ")).reason == "no user text to route by"
    await routing.close()


def test_what_is_deployed_decides() -> None:
    cluster = cluster_of("late", LATE)
    adapter = adapter_for(cluster)
    (vector,) = WordEmbedder().embed([LATE])
    (far,) = WordEmbedder().embed(["bake bread"])

    def table(candidate: CandidateKind, problem: str = "") -> RoutingTable:
        deployment = identified(Deployment(
            id="", cluster_id=cluster.id, cluster_name="late", candidate=candidate, adapter_id=adapter.id,
            verdict_id=None, previous_id=None, action="deploy", reason="", at=1.0,
        ))  # fmt: skip
        loaded = {adapter.id: Loaded(name=adapter.path, problem=problem)}
        return RoutingTable(clusters=(cluster,), deployments={cluster.id: deployment}, adapters=loaded)

    for kind in ("expert", "critic"):
        choice = table(kind).choose(vector)
        assert (choice.kind, choice.adapter, choice.model) == (kind, adapter.id, adapter.path)
    assert table("expert").choose(far).reason == "out of distribution"
    fallen = table("expert", "broken").choose(vector)
    assert fallen == Choice(cluster="late", similarity=fallen.similarity, reason="broken")
    assert table("base").choose(vector).reason == "the base model is deployed for late"
    assert table("rules").choose(vector).reason == "candidate 'rules' cannot be served yet"
    assert table("expert").live() == (adapter.path,)
    assert table("expert", "broken").live() == ()
    assert table("expert").asked_for(adapter.id) == table("expert").asked_for(adapter.path)
    assert table("expert").asked_for("other").model == "other"
