"""One process at a time: a lease is taken once, renewed, given back, and lost by who dies."""

import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from logtune.edges import lease as lease_module
from logtune.edges.lease import Lease
from logtune.edges.store import Store
from logtune.errors import InUse


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path / 'logtune.db'}")


def test_one_has_it_and_another_is_told_who(store: Store) -> None:
    first, second = Lease(store, "cycle"), Lease(store, "cycle")
    with first.held():
        assert second.holder() == first.me
        with pytest.raises(InUse, match="cycle is under way: process"), second.held():
            raise AssertionError
        assert Lease(store, "other").take()
    assert second.holder() == ""
    with second.held():
        assert first.holder() == second.me


def test_who_does_not_renew_loses_it(store: Store) -> None:
    now = [1000.0]
    dead, next_one = (Lease(store, "cycle", 120, clock=lambda: now[0]) for _ in range(2))
    assert dead.take()
    now[0] += 119
    assert not next_one.take()
    assert dead.take()  # renewed
    now[0] += 121
    assert next_one.holder() == ""
    assert next_one.take()
    assert not dead.take()
    dead.release()  # which is not its own any more
    assert dead.holder() == next_one.me


def test_who_stood_still_too_long_is_told_even_after_the_other_has_ended(store: Store) -> None:
    now = [1000.0]
    slow, other = (Lease(store, "cycle", 120, clock=lambda: now[0]) for _ in range(2))
    assert slow.take()
    now[0] += 121
    slow.check()  # nobody has wanted it
    now[0] += 121
    assert other.take()
    with pytest.raises(InUse, match="cycle was taken over by process"):
        slow.check()
    other.check()
    other.release()
    with pytest.raises(InUse, match="another process"):
        slow.check()


def test_who_took_it_with_a_clock_years_ahead_does_not_keep_it_for_years(store: Store) -> None:
    now = [1e9]
    wrong, right = (Lease(store, "cycle", clock=lambda: now[0]) for _ in range(2))
    assert wrong.take()
    now[0] -= 3e7
    assert right.holder() == ""
    assert right.take()


def test_it_is_renewed_while_it_is_held(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Lease(store, "cycle", held_s=0.2)
    renewed = []
    renew = Lease.renew
    monkeypatch.setattr(lease_module.Lease, "renew", lambda self: (renewed.append(1), renew(self))[1])
    with held.held():
        while len(renewed) < 4:
            pass
        assert Lease(store, "cycle").holder() == held.me


def test_an_error_within_gives_it_back(store: Store) -> None:
    with pytest.raises(ValueError, match="within"), Lease(store, "cycle").held():
        raise ValueError("within")
    assert Lease(store, "cycle").take()


def _try(url: str, barrier: "multiprocessing.synchronize.Barrier", won: "multiprocessing.Queue[bool]") -> None:
    store = Store(url)
    barrier.wait()
    won.put(Lease(store, "cycle").take())
    barrier.wait()  # who has died holds nothing


def test_of_several_processes_one_gets_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'logtune.db'}"
    Store(url).close()
    context = multiprocessing.get_context("spawn")
    barrier, won = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_try, args=(url, barrier, won)) for _ in range(3)]
    for process in processes:
        process.start()
    found = sorted(won.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert found == [False, False, True]


def test_on_the_same_machine_nobody_waits_for_who_was_killed(store: Store) -> None:
    dead = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    lease, other_boot = Lease(store, "cycle"), Lease(store, "elsewhere")
    mine = f"process {os.getpid()} on"
    lease.me, other_boot.me = (item.me.replace(mine, f"process {dead.pid} on") for item in (lease, other_boot))
    other_boot.me = re.sub(r"\(\w+-", "(0123abcd-", other_boot.me)
    assert lease.take()
    assert other_boot.take()
    assert not Lease(store, "cycle").take()  # it lives
    dead.kill()
    dead.wait()
    assert lease_module.Lease(store, "cycle").holder() == ""
    assert Lease(store, "cycle").take()
    assert not Lease(store, "elsewhere").take()  # the same number of another machine says nothing
