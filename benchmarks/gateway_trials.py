"""What the gateway loses: when it is killed, while its database is locked, and while deployments change.

crash -> lost_after_kill      outage -> memory_growth_mb      deployments, during_swaps -> failed_during_swaps
"""

import json
import os
import random
import signal
import sqlite3
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from typing import cast

from gateway_bench import Bench, Row, say
from gateway_load import Spec
from gateway_parts import CLUSTERS, Serving, swap_adapter

from logtune.app import build
from logtune.records import Deployment, Json

CRASH_RATE, CRASH_S = 300.0, 2.5  # load between two kills, half of it streamed
OUTAGE_RATE = 500.0
DRAIN_S = 120.0
SWAP_RATE = 200.0
SWAP_S = 1.0  # from one swap to the next
DELAYED_MS = 1000.0
SWAPPED_S = 20.0  # until a swap must have happened


def crash(bench: Bench, serving: Serving, times: int) -> Row:
    """Kill the gateway at random moments under load; count the answers whose end was seen and that have no record."""
    moment, seen, starts = random.Random(1), list[str](), list[float]()
    for number in range(times):
        spec = bench.spec(serving.port, CRASH_RATE, int(CRASH_RATE * CRASH_S), "half", keep_ids=True)
        loading = bench.load(spec)
        time.sleep(moment.uniform(0.5, CRASH_S))
        serving.process.kill()
        seen += cast("list[str]", loading.result()["ids"])
        starts.append(serving.start())
        if number % 10 == 9:
            say(f"crash    {number + 1} kills, {len(seen)} answers seen, restarts {max(starts):.1f} s at most")
    lost = _until_stored(serving, seen)
    say(f"crash    {len(lost)} of {len(seen)} answers have no record")
    return {
        "lost_after_kill": len(lost),
        "crash": {"kills": times, "answers_seen": len(seen), "slowest_start_s": round(max(starts), 2)},
    }


def _until_stored(serving: Serving, ids: list[str]) -> list[str]:
    """The ids without a record, once what was spooled has had its time."""
    end = time.monotonic() + 15
    while (lost := serving.missing(ids)) and time.monotonic() < end:
        time.sleep(0.5)
    return lost


def outage(bench: Bench, serving: Serving, seconds: float) -> Row:
    """Another connection holds the database's write lock; memory is watched, and then every record must arrive."""
    bench.warm(serving.port, count=1000)
    before, memory = serving.stored(), [serving.process.rss_mb()]
    locker = sqlite3.connect(serving.home / "logtune.db", isolation_level=None, timeout=30)
    count = int(OUTAGE_RATE * (seconds + 5))
    loading = bench.load(bench.spec(serving.port, OUTAGE_RATE, count, "half"))
    time.sleep(2)
    locker.execute("BEGIN EXCLUSIVE")
    begun = time.monotonic()
    while time.monotonic() < begun + seconds:
        time.sleep(1)
        memory.append(serving.process.rss_mb())
        if len(memory) % 20 == 0:
            say(f"outage   {len(memory)} s, {memory[-1]:.0f} MB, from {memory[0]:.0f} MB")
    locker.execute("ROLLBACK")
    locker.close()
    found = loading.result()
    drained_s = _drained(serving, before + count)
    memory.append(serving.process.rss_mb())
    row: Row = {
        "seconds": seconds, "requests": count, "answered": found["answered"], "errors": found["errors"],
        "records_stored": serving.stored() - before, "drained_s": drained_s,
        "latency_max_ms": round(max(cast("list[float]", found["latencies_ms"]), default=0.0), 1),
        "rss_mb": [round(value, 1) for value in memory],
    }  # fmt: skip
    say(f"outage   {row['records_stored']} of {count} records stored, {drained_s} s after the load, {row['errors']}")
    return {"memory_growth_mb": round(max(memory) - memory[0], 1), "outage": row}


def _drained(serving: Serving, wanted: int) -> float | None:
    """Seconds until the store holds that many records; None: it never does."""
    begun = time.monotonic()
    while time.monotonic() < begun + DRAIN_S:
        if serving.stored() >= wanted:
            return round(time.monotonic() - begun, 1)
        time.sleep(0.5)
    return None


def during_swaps(bench: Bench, spec: Spec, swap: Callable[[int], None], times: int, every_s: float) -> Row:
    """Requests of `spec` that failed, or took DELAYED_MS longer than without swaps, while `swap` is called `times`.

    `swap(number)` returns when the swap has happened; `spec.rate` is kept up from before the first to after the last.
    """
    calm = cast("list[float]", bench.load(replace(spec, count=int(5 * spec.rate))).result()["latencies_ms"])
    usual = sorted(calm)[len(calm) // 2]
    count = int(spec.rate * (times * every_s * 1.2 + 4))
    loading = bench.load(replace(spec, count=count, offset=spec.offset + len(calm)))
    took = list[float]()
    failure: list[BaseException] = []

    def work() -> None:
        try:
            for number in range(times):
                begun = time.monotonic()
                swap(number)
                took.append(time.monotonic() - begun)
                time.sleep(max(0.0, every_s - took[-1]))
        except BaseException as error:  # noqa: BLE001  raised again below
            failure.append(error)

    swapping = threading.Thread(target=work)
    time.sleep(1)
    swapping.start()
    found = loading.result()
    still = swapping.is_alive()
    swapping.join()
    if failure:
        raise failure[0]
    errors = cast("dict[str, int]", found["errors"])
    delayed = sum(latency > usual + DELAYED_MS for latency in cast("list[float]", found["latencies_ms"]))
    return {
        "swaps": len(took), "failed": sum(errors.values()), "delayed": delayed, "errors": cast("Json", errors),
        "answered": found["answered"], "usual_p50_ms": round(usual, 2), "slowest_swap_s": round(max(took), 2),
        "slowest_ms": round(max(cast("list[float]", found["latencies_ms"])), 1), "outlasted_load": still,
    }  # fmt: skip


def deployments(bench: Bench, serving: Serving, times: int) -> Row:
    """Swaps over the mock upstream: every deployment brings an adapter of a new name, and takes the old one away."""
    opened = build.store(serving.config())
    live = opened.deployments()
    opened.close()

    def swap(number: int) -> None:
        name = f"topics-{number % CLUSTERS}"
        live[name] = _swap(bench, serving, live[name], number + 2)

    spec = bench.spec(serving.port, SWAP_RATE, int(SWAP_RATE * (times * SWAP_S * 1.2 + 10)), "half")
    found = during_swaps(bench, spec, swap, times, SWAP_S)
    say(f"swaps    {found}")
    return {"failed_during_swaps": cast("int", found["failed"]) + cast("int", found["delayed"]), "swaps": found}


def _swap(bench: Bench, serving: Serving, before: Deployment, version: int) -> Deployment:
    """Deploy another adapter, have the gateway look, and wait until the server has it; the old one goes by itself."""
    adapter, made = swap_adapter(serving.config(), before, version)
    os.kill(serving.process.pid, signal.SIGHUP)
    end = time.monotonic() + SWAPPED_S
    while time.monotonic() < end:
        if any(adapter.path in name for name in _listed(bench.upstream_port)):
            return made
        time.sleep(0.05)
    raise RuntimeError(f"{adapter.path} was not loaded within {SWAPPED_S:g} s")


def _listed(port: int) -> list[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5) as answer:
        return [row["id"] for row in json.load(answer)["data"]]
