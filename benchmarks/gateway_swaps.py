"""Adapter swaps under load with a real model: the embedded engine, or a vLLM server that runs already.

    python benchmarks/gateway_swaps.py [--engine embedded] --swaps 50 --json OUT
    python benchmarks/gateway_swaps.py --engine openai --url http://127.0.0.1:8011/v1 --swaps 50 --json OUT

Two random adapters of rank 1 and 8 take turns as what serves one cluster, while clients ask, streaming and not, one
request after the other. A swap is done when an answer names the new adapter. Keys of the result:

    failed_during_swaps   requests that failed, or took over 1 s longer than the slowest without swaps
    by_base               requests of the cluster that the base model answered: an adapter was missing for a moment
"""

import argparse
import contextlib
import http.client
import json
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, cast
from urllib.parse import urlsplit

import uvicorn

from logtune.app import build
from logtune.config import Config
from logtune.config import build as settings
from logtune.edges.store import Store, UnitResult
from logtune.edges.weights import ModelFolder, base_model
from logtune.ids import identified
from logtune.records import Adapter, Cluster, Deployment, Json
from logtune.testing import random_adapter

QUESTION = "My new card has still not arrived. When will it come?"
RANKS = (1, 8)  # what every vLLM takes
DELAYED_MS = 1000.0
CALM_S = 20.0  # of load before the first swap, to know what is usual
LOOK_S = 0.02
LATEST_S = 300.0  # until a swap must have happened
TOKENS = 4


Swap: TypeAlias = "Callable[[int, Sequence[Asked] | None], None]"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    status: int
    adapter: str
    latency_ms: float


def ask(url: str, *, stream: bool = False, timeout_s: float = LATEST_S) -> Asked:
    """One question to a gateway; status 0 when the connection broke or the stream did not end."""
    parts, begun = urlsplit(url), time.perf_counter()
    body: dict[str, Json] = {
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": TOKENS,
        "temperature": 0,
    }
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=timeout_s)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps({**body, "stream": stream}))
        answer = connection.getresponse()
        ended = answer.read()
        whole = not stream or ended.endswith(b"data: [DONE]\n\n")
        adapter = answer.headers.get("x-logtune-adapter") or ""
        return Asked(answer.status if whole else 0, adapter, 1000 * (time.perf_counter() - begun))
    except (OSError, http.client.HTTPException):
        return Asked(0, "", 1000 * (time.perf_counter() - begun))
    finally:
        connection.close()


@dataclass
class Swaps:
    """Two adapters of one cluster that take turns; call it with the number of the swap."""

    store: Store
    url: str
    cluster: Cluster
    adapters: Sequence[Adapter]
    before: str | None = None

    def __call__(self, number: int, seen: "Sequence[Asked] | None" = None) -> None:
        """Deploy the next adapter and wait until it answers: one of those `seen`, or where nobody asks, us."""
        adapter = self.adapters[number % len(self.adapters)]
        deployment = identified(Deployment(
            id="", cluster_id=self.cluster.id, cluster_name=self.cluster.name, candidate="expert",
            adapter_id=adapter.id, verdict_id=None, previous_id=self.before, action="deploy",
            reason=f"swap {number}", at=time.time(),
        ))  # fmt: skip
        self.store.deploy(deployment, "swaps")
        self.before = deployment.id
        end, begun = time.monotonic() + LATEST_S, len(seen or ())
        while adapter.id not in {asked.adapter for asked in (seen[begun:] if seen is not None else [ask(self.url)])}:
            if time.monotonic() > end:
                raise RuntimeError(f"{adapter.path} did not answer within {LATEST_S:g} s")
            time.sleep(LOOK_S)


def prepared(
    config: Config, folder: ModelFolder, store: Store, vector: Sequence[float]
) -> tuple[Cluster, list[Adapter]]:
    """A cluster around the question, and its adapters, in the store and on disk."""
    cluster = identified(Cluster(
        id="", interaction_ids=(), centroids=(tuple(vector),), radius=0.5, label="cards", name="cards",
    ))  # fmt: skip
    adapters = []
    for rank in RANKS:
        path = f"cards-expert@rank{rank}"
        total = random_adapter(build.adapters_dir(config) / path, folder.path, rank, rank, folder.fingerprint)
        adapters.append(identified(Adapter(
            id="", cluster_id=cluster.id, pair_ids=(), kind="expert", base=folder.fingerprint, rank=rank, parameters=0,
            path=path, sha256=total, losses=(), checks={}, epoch=1,
        )))  # fmt: skip
    unit = UnitResult(stage="s", key="s", outputs=(cluster, *adapters), cycle_id="swaps", config_hash="", at=1.0)
    store.commit_units([unit])
    return cluster, adapters


@dataclass
class Load:
    """Clients that ask one request after the other until they are told to stop."""

    url: str
    clients: int
    answers: list[Asked] = field(default_factory=list)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The clients are under way inside."""
        done = threading.Event()

        def work(number: int) -> None:
            while not done.is_set():
                self.answers.append(ask(self.url, stream=number % 2 == 0))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(self.clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            done.set()
            for thread in threads:
                thread.join()


def measure(url: str, swap: Swap, times: int, clients: int = 4) -> dict[str, Json]:
    """Figures of `times` swaps under load; `swap(number, answers)` returns when the swap has happened."""
    swap(0, None)
    calm, busy, took = Load(url, clients), Load(url, clients), []
    with calm.running():
        time.sleep(CALM_S)
    with busy.running():
        for number in range(1, times + 1):
            begun = time.perf_counter()
            swap(number, busy.answers)  # asked by nobody else: one client more would slow all the others
            took.append(time.perf_counter() - begun)
    usual = max(asked.latency_ms for asked in calm.answers)
    failed = [asked for asked in busy.answers if asked.status != 200]
    delayed = [asked for asked in busy.answers if asked.latency_ms > usual + DELAYED_MS]
    return {
        "failed_during_swaps": len({id(asked) for asked in (*failed, *delayed)}), "failed": len(failed),
        "delayed": len(delayed), "by_base": sum(asked.adapter == "base" for asked in busy.answers), "swaps": times,
        "requests": len(busy.answers), "requests_without_swaps": len(calm.answers),
        "slowest_without_swaps_ms": round(usual, 1),
        "slowest_ms": round(max(asked.latency_ms for asked in busy.answers), 1),
        "swap_median_s": round(sorted(took)[len(took) // 2], 2), "swap_slowest_s": round(max(took), 2),
        "statuses": cast("Json", {str(k): n for k, n in Counter(asked.status for asked in busy.answers).items()}),
    }  # fmt: skip


@contextlib.contextmanager
def listening(config: Config, store: Store) -> Iterator[tuple[str, Sequence[float]]]:
    """The gateway on a loopback port, in a thread; and the vector of the question."""
    made = build.serving(config)
    vector = cast("list[list[float]]", made.embedder.embed([QUESTION]).tolist())[0]
    sock = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(build.gateway(store, made, config), log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}", vector
    finally:
        server.should_exit = True
        thread.join()
        sock.close()


def run(engine: str, url: str, times: int, clients: int) -> dict[str, Json]:
    """Start the gateway in front of an engine and measure it."""
    with tempfile.TemporaryDirectory() as home:
        model: dict[str, Json] = {"engine": engine, **({"url": url} if engine == "openai" else {})}
        config = settings({"store": {"home": home}, "model": model, "serve": {"poll_s": 0.5, "router": "full"}})
        folder, store = base_model(config.model.base), build.store(config)
        with listening(config, store) as (gateway, vector):
            cluster, adapters = prepared(config, folder, store, vector)
            found = measure(gateway, Swaps(store, gateway, cluster, adapters), times, clients)
        store.close()
    return {"engine": engine, "model": folder.fingerprint, **found}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["embedded", "openai"], default="embedded")
    parser.add_argument("--url", default="", help="of the vLLM server, with /v1; it must see this machine's files")
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--json", type=Path, metavar="OUT")
    chosen = parser.parse_args()
    found = json.dumps(run(chosen.engine, chosen.url, chosen.swaps, chosen.clients), indent=1)
    print(found)
    if chosen.json:
        chosen.json.write_text(found + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
