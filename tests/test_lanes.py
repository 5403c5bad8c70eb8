"""The lanes of projects: opened once however many come, bounded, and closed at the end."""

import asyncio
from pathlib import Path

import pytest

from logtune.app.lanes import Lanes
from logtune.edges.store import Store
from logtune.errors import RequestError, StoreError


class FakeLane:
    """A lane that waits at its start until it may go on."""

    def __init__(self, store: Store | None, go: asyncio.Event | None = None) -> None:
        self.store = store
        self.go = go
        self.did: list[str] = []

    async def start(self) -> None:
        if self.go:
            await self.go.wait()
        self.did.append("start")

    async def look(self) -> None:
        self.did.append("look")

    async def stop(self) -> None:
        self.did.append("stop")


class Stores:
    """Opens stores in memory, counts them, and fails for `broken`."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def __call__(self, project: str) -> Store:
        self.opened.append(project)
        if project == "broken":
            raise StoreError("the disk is full")
        return Store("sqlite://")


def made(go: asyncio.Event | None = None, most: int = 100) -> tuple[Lanes, Stores]:
    stores = Stores()
    return Lanes(FakeLane(None), stores, lambda project, store: FakeLane(store, go), most), stores


async def test_a_lane_is_opened_once_however_many_come_for_it() -> None:
    go = asyncio.Event()
    lanes, stores = made(go)
    waiting = [asyncio.create_task(lanes.opened("a")) for _ in range(5)]
    gone = asyncio.create_task(lanes.opened("a"))
    await asyncio.sleep(0)
    gone.cancel()
    assert lanes.every() == [lanes.main]  # not before it has started
    go.set()
    found = await asyncio.gather(*waiting)
    assert len({id(lane) for lane in found}) == 1
    assert stores.opened == ["a"]
    assert await lanes.opened("a") is lanes.get("a") is found[0]
    await lanes.stop()


async def test_one_project_s_slow_start_holds_up_no_other() -> None:
    stores, go = Stores(), asyncio.Event()
    lanes = Lanes(FakeLane(None), stores, lambda name, store: FakeLane(store, go if name == "slow" else None))
    slow = asyncio.create_task(lanes.opened("slow"))
    assert await lanes.opened("quick")
    assert not slow.done()
    go.set()
    await slow
    await lanes.look()
    await lanes.stop()
    assert [lane.did for lane in lanes.every()] == [
        ["look", "stop"],
        ["start", "look", "stop"],
        ["start", "look", "stop"],
    ]


async def test_a_project_that_fails_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    lanes, stores = made()
    await lanes.open_all(["broken", "a"])
    assert "the project broken cannot be served now" in caplog.text
    with pytest.raises(RequestError, match="cannot be served now") as told:
        await lanes.opened("broken")
    assert told.value.status == 503
    assert sorted(lanes.by_project()) == ["a", "default"]
    assert stores.opened.count("broken") == 2
    await lanes.stop()


async def test_a_lane_that_cannot_be_made_gives_its_store_back(tmp_path: Path) -> None:
    def lane(project: str, store: Store) -> FakeLane:
        raise PermissionError("no spool here")

    lanes = Lanes(FakeLane(None), Stores(), lane)
    with pytest.raises(RequestError, match="cannot be served now"):
        await lanes.opened("a")


async def test_projects_are_bounded() -> None:
    lanes, _ = made(most=2)
    await lanes.open_all(["a", "b"])
    with pytest.raises(RequestError, match="serves 2 projects already"):
        await lanes.opened("c")
    assert await lanes.opened("b")
    await lanes.stop()
