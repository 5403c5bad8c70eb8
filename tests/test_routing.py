import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from gateway_kit import WatchedStore, cluster_of, deploy_expert, deployed
from live_kit import begin, settings

from logtune.app.adapters import Adapters
from logtune.app.routing import Router
from logtune.ports import Vectors
from logtune.records import Adapter
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


async def test_a_test_that_a_guard_ends_while_the_table_is_made_stays_ended(store: WatchedStore) -> None:
    test = begin(store, settings(store.home), time.time() - 60)
    routing = router(store)
    load = store.load

    def loaded(kind: type[Any], ids: Sequence[str]) -> list[Any]:
        if kind is Adapter:  # its arms have been made by then
            routing.end_test(test.id)
        return load(kind, ids)

    store.load = loaded  # type: ignore[method-assign, assignment]
    await routing.refresh()
    (arms,) = routing.table.arms.values()
    assert arms.trial is not None
    assert {arms.of(f"user:u{number}", time.time())[0].name for number in range(200)} == {"base"}
    await routing.close()
