from collections.abc import Sequence
from pathlib import Path

import pytest
from gateway_kit import WatchedStore, cluster_of, deploy_expert, deployed

from logtune.app.adapters import Adapters
from logtune.app.routing import Router
from logtune.ports import Vectors
from logtune.testing import MemoryAdapterServer, WordEmbedder

LATE = "where is my late parcel"
ANN = "user:ann"


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
    return Router(store, CountingEmbedder(), Adapters(server or MemoryAdapterServer(), store.home / "adapters"))


async def test_the_table_is_loaded_from_the_store_with_its_adapters(store: WatchedStore) -> None:
    adapter = deploy_expert(store, "late", LATE)
    server = MemoryAdapterServer()
    routing = router(store, server)
    assert (await routing.choose(LATE, ANN)).reason == "nothing is deployed"
    assert await routing.refresh()
    assert server.loaded == {adapter.path: str(store.home / "adapters" / adapter.path)}
    choice = await routing.choose(LATE, ANN)
    assert (choice.adapter, choice.model, choice.cluster) == (adapter.id, adapter.path, "late")
    assert choice.similarity == pytest.approx(1.0)
    assert not await routing.refresh()
    await routing.close()


async def test_a_query_is_embedded_once(store: WatchedStore) -> None:
    deploy_expert(store, "late", LATE)
    embedder = CountingEmbedder()
    routing = Router(store, embedder, Adapters(MemoryAdapterServer(), store.home / "adapters"))
    await routing.refresh()
    for text in (LATE, "something else", LATE, "  "):
        await routing.choose(text, ANN)
    assert embedder.texts == [LATE, "something else"]
    assert (await routing.choose(" ", ANN)).reason == "no user text to route by"
    await routing.close()


async def test_a_remembered_query_follows_a_new_deployment(store: WatchedStore) -> None:
    deploy_expert(store, "late", LATE)
    routing = router(store)
    await routing.refresh()
    assert (await routing.choose(LATE, ANN)).adapter is not None
    deployed(store, cluster_of("late", LATE), None, at=2.0)
    await routing.refresh()
    assert (await routing.choose(LATE, ANN)).reason == "the base model is deployed for late"
    await routing.close()
