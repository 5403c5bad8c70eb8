from collections.abc import Sequence
from pathlib import Path

import pytest
from gateway_kit import WatchedStore, cluster_of, deploy_expert, deployed, expert

from logtune.app.routing import Router, RoutingTable
from logtune.ports import Vectors
from logtune.records import Deployment, identified
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
    return Router(store, CountingEmbedder(), server or MemoryAdapterServer(), Path("adapters"))


async def test_the_table_is_loaded_from_the_store_with_its_adapters(store: WatchedStore) -> None:
    adapter = str(deploy_expert(store, "late", LATE).adapter_id)
    server = MemoryAdapterServer()
    routing = router(store, server)
    assert (await routing.choose(LATE)).reason == "nothing is deployed"
    assert await routing.refresh()
    assert server.loaded == {adapter: "adapters/late-2"}
    choice = await routing.choose(LATE)
    assert (choice.adapter, choice.cluster) == (adapter, "late")
    assert choice.similarity == pytest.approx(1.0)
    assert not await routing.refresh()
    await routing.close()


async def test_an_adapter_in_use_is_unloaded_after_its_last_request(store: WatchedStore) -> None:
    old = str(deploy_expert(store, "late", LATE).adapter_id)
    server = MemoryAdapterServer()
    routing = router(store, server)
    await routing.refresh()
    with routing.using(old):
        deployed(store, cluster_of("late", LATE), None, at=2.0)
        assert await routing.refresh()
        assert (await routing.choose(LATE)).adapter is None
        assert await server.names() == [old]
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
    adapter = str(deploy_expert(store, "late", LATE).adapter_id)
    server = MemoryAdapterServer(broken=[adapter])
    routing = router(store, server)
    await routing.refresh()
    assert "could not be loaded" in (await routing.choose(LATE)).reason
    server.broken = frozenset()
    assert not await routing.refresh()
    assert (await routing.choose(LATE)).adapter == adapter
    await routing.close()


async def test_a_query_is_embedded_once(store: WatchedStore) -> None:
    deploy_expert(store, "late", LATE)
    embedder = CountingEmbedder()
    routing = Router(store, embedder, MemoryAdapterServer(), Path("adapters"))
    await routing.refresh()
    for text in (LATE, "something else", LATE, "  "):
        await routing.choose(text)
    assert embedder.texts == [LATE, "something else"]
    assert (await routing.choose(" ")).reason == "no user text to route by"
    await routing.close()


def test_what_is_deployed_decides() -> None:
    cluster = cluster_of("late", LATE)
    adapter = expert(cluster)
    (vector,) = WordEmbedder().embed([LATE])
    (far,) = WordEmbedder().embed(["bake bread"])

    def table(candidate: str, state: str = "") -> RoutingTable:
        deployment = identified(Deployment(
            id="", cluster_id=cluster.id, cluster_name="late", candidate=candidate, adapter_id=adapter.id,
            verdict_id=None, previous_id=None, action="deploy", reason="", at=1.0,
        ))  # fmt: skip
        return RoutingTable(clusters=(cluster,), deployments={cluster.id: deployment}, adapters={adapter.id: state})

    assert table("expert").choose(vector).adapter == adapter.id
    assert table("expert").choose(far).reason == "out of distribution"
    assert table("expert", "broken").choose(vector).reason == "broken"
    assert table("base").choose(vector).reason == "the base model is deployed for late"
    assert table("critic").choose(vector).reason == "candidate 'critic' cannot be served yet"
    assert table("expert", "broken").live() == ()
