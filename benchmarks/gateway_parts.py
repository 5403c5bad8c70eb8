"""What the gateway benchmark stands on: questions, a deployed cluster set, and the processes with their priority.

mock upstream, `logtune serve`, load generator: each a process of its own, all on this machine
"""

import gzip
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from gateway_load import Spec

from logtune.app import build
from logtune.config import Config
from logtune.edges.store import Store, UnitResult
from logtune.edges.weights import cache_home
from logtune.ids import digest, identified
from logtune.records import Adapter, Cluster, Deployment, Interaction, Json

KEPT = cache_home() / "benchmark-router"
HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared" / "data"
ROUTER_S = 900.0  # for the token table of the router; made once for a machine
SETTLED_S = 5.0  # for the last records of a load
START_S = 120.0  # for a gateway, on a busy machine
TOPICS = 16  # centroids, in CLUSTERS clusters with an adapter each
CLUSTERS = 4
MEMBERS = 20  # queries of a topic that the clusters rest on
RADIUS = 0.55
OWN = ("where is my {}", "I want to cancel my {}", "how much does the {} cost", "my {} does not work", "change the {}")
OWN_THINGS = ("card", "transfer", "loan", "account", "PIN", "address", "order", "invoice", "top-up", "refund")


# --- questions and what is deployed ---


def questions() -> list[dict[str, str]]:
    """Distinct real questions with their intents where the data is there, else some of our own."""
    found = {row["text"]: row for name in ("banking77", "clinc150") for row in _rows(SHARED / name)}
    own = [{"text": text.format(thing), "label": text} for text in OWN for thing in OWN_THINGS]
    rows = list(found.values()) or own
    random.Random(0).shuffle(rows)
    return rows


def _rows(folder: Path) -> Iterator[dict[str, str]]:
    for path in sorted(folder.glob("*.jsonl*")):
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for line in raw.decode().splitlines():
            row = json.loads(line)
            yield {"text": row["text"], "label": row["label"]}


def deploy(config: Config, rows: Sequence[Mapping[str, str]]) -> Path:
    """Clusters around real questions, with the real embedder's centroids, served by an adapter each.

    Where the router's files of these clusters outlive a run: vectors that differ in a last digit make other clusters.
    """
    by_label: dict[str, list[str]] = {}
    for row in rows:
        by_label.setdefault(row["label"], []).append(row["text"])
    topics = sorted(by_label, key=lambda label: -len(by_label[label]))[:TOPICS]
    embedder = build.embedder(config)
    vectors = [embedder.embed(by_label[topic][:MEMBERS]).mean(axis=0) for topic in topics]
    centroids = [tuple(map(float, vector / (vector @ vector) ** 0.5)) for vector in vectors]
    opened = build.store(config)
    clusters: list[str] = []
    for number in range(CLUSTERS):
        texts = [text for topic in topics[number::CLUSTERS] for text in by_label[topic][:MEMBERS]]
        clusters.append(_deploy_one(opened, config, f"topics-{number}", centroids[number::CLUSTERS], texts))
    opened.close()
    kept = KEPT / digest([config.embedder.model_dump(mode="json"), clusters], 12)
    if kept.exists():
        shutil.copytree(kept, Path(config.store.home) / "router", dirs_exist_ok=True)
    return kept


def _deploy_one(
    opened: Store, config: Config, name: str, centroids: Sequence[tuple[float, ...]], texts: Sequence[str]
) -> str:
    members = tuple(_interaction(f"{name}-{number}", text) for number, text in enumerate(texts))
    unit = UnitResult(
        stage="bench-members", key=name, outputs=members, cycle_id="bench", config_hash="", at=time.time()
    )  # fmt: skip
    opened.commit_units([unit])
    cluster = identified(Cluster(
        id="", interaction_ids=tuple(member.id for member in members), centroids=tuple(centroids), radius=RADIUS,
        label=name, name=name,
    ))  # fmt: skip
    _put(opened, cluster, adapter_record(config, cluster.id, name, 1), None)
    return cluster.id


def _interaction(log: str, query: str) -> Interaction:
    return identified(Interaction(
        id="", log_id=log, context=(), query=query, answer="", follow_ups=(), feedback_ids=(), user=None, session=None,
        adapter=None, at=1.0,
    ))  # fmt: skip


def swap_adapter(config: Config, before: Deployment, version: int) -> tuple[Adapter, Deployment]:
    """Deploy a new adapter in place of what serves the cluster of `before`."""
    opened = build.store(config)
    try:
        cluster = opened.load(Cluster, [before.cluster_id])[0]
        adapter = adapter_record(config, cluster.id, cluster.name, version)
        return adapter, _put(opened, cluster, adapter, before.id)
    finally:
        opened.close()


def _put(opened: Store, cluster: Cluster, adapter: Adapter, previous: str | None) -> Deployment:
    now = time.time()
    unit = UnitResult(
        stage="bench", key=adapter.id, outputs=(cluster, adapter), cycle_id="bench", config_hash="", at=now
    )  # fmt: skip
    opened.commit_units([unit])
    deployment = identified(Deployment(
        id="", cluster_id=cluster.id, cluster_name=cluster.name, candidate="expert", adapter_id=adapter.id,
        verdict_id=None, previous_id=previous, action="deploy", reason="benchmark", at=now,
    ))  # fmt: skip
    opened.deploy(deployment, "bench")
    return deployment


def adapter_record(config: Config, cluster: str, name: str, version: int) -> Adapter:
    """An adapter with its folder, which does nothing."""
    path = f"{name}-expert@{version}"
    return identified(Adapter(
        id="", cluster_id=cluster, pair_ids=(), kind="expert", base="b", rank=2, parameters=10,
        sha256=_adapter_files(build.adapters_dir(config) / path), path=path, losses=(), checks={}, epoch=1,
    ))  # fmt: skip


def _adapter_files(folder: Path) -> str:
    """A folder that looks like an adapter; no model is behind the mock."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "base", "r": 2, "lora_alpha": 4})
    )
    empty = (2).to_bytes(8, "little") + b"{}"
    (folder / "adapter_model.safetensors").write_bytes(empty)
    return hashlib.sha256(empty).hexdigest()


# --- processes ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Priority:
    """Real-time priority while a phase is measured, so that other work on the machine does not count; 0: none."""

    level: int

    @contextmanager
    def raised(self, *pids: int) -> Iterator[None]:
        """Raise all threads of these processes, and lower them again."""
        self._set(pids, self.level)
        try:
            yield
        finally:
            self._set(pids, 0)

    def _set(self, pids: Sequence[int], level: int) -> None:
        policy = os.SCHED_RR if level else os.SCHED_OTHER
        for pid in pids if self.level else ():
            for task in Path(f"/proc/{pid}/task").iterdir() if Path(f"/proc/{pid}").exists() else ():
                with suppress(ProcessLookupError):
                    os.sched_setscheduler(int(task.name), policy, os.sched_param(level))


class Process:
    """A server of the benchmark, stopped at the end."""

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, *, output: bool = True
    ) -> None:
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE if output else errors, stderr=errors, env=environment
            )
        self.pid = self._process.pid
        self._log = log

    def line(self) -> dict[str, Json]:
        """The next line of its output, a JSON object."""
        assert self._process.stdout is not None
        raw = self._process.stdout.readline()
        if not raw:
            raise RuntimeError(f"a process ended with code {self._process.wait()}: {self.last_words()}")
        found = json.loads(raw)
        assert isinstance(found, dict)
        return found

    def last_words(self) -> str:
        """The end of its log."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-2000:]

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it and wait for that."""
        if self.alive():
            self._process.send_signal(how)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def family(self) -> list[int]:
        """Its process id and those of its children."""
        return [self.pid, *_children(self.pid)]

    def rss_mb(self) -> float:
        """Resident memory, children included."""
        return sum(map(_rss_mb, self.family()))


def _rss_mb(pid: int) -> float:
    with suppress(FileNotFoundError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20
    return 0.0


def _children(pid: int) -> list[int]:
    with suppress(FileNotFoundError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as plug:
        plug.bind(("127.0.0.1", 0))
        return int(plug.getsockname()[1])


@contextmanager
def mock(log: Path, delay_ms: float, gap_ms: float) -> Iterator[tuple[Process, int]]:
    """The mock upstream and its port."""
    options = ["--delay-ms", str(delay_ms), "--gap-ms", str(gap_ms)]
    process = Process([sys.executable, str(HERE / "gateway_mock.py"), *options], log)
    try:
        port = process.line()["port"]
        assert isinstance(port, int)
        yield process, port
    finally:
        process.kill()


class Serving:
    """`logtune serve` on one home folder; can be killed and started again on the same store."""

    def __init__(self, home: Path, upstream: int, settings: Mapping[str, Json] | None = None) -> None:
        self.home = home
        self._set: dict[str, Json] = {
            "store.home": str(home), "store.url": f"sqlite:///{home / 'logtune.db'}", "model.engine": "openai",
            "model.url": f"http://127.0.0.1:{upstream}/v1", "model.served_name": "base", "serve.port": 0,
            "serve.admin_port": 0, **(settings or {}),
        }  # fmt: skip
        self._process: Process | None = None
        self.mock: Process | None = None  # the upstream, where whoever serves it says so
        self.port = 0

    @property
    def process(self) -> Process:
        """The server under way."""
        assert self._process is not None
        return self._process

    def config(self) -> Config:
        """The gateway's settings."""
        nested: dict[str, dict[str, Json]] = {}
        for key, value in self._set.items():
            section, name = key.split(".")
            nested.setdefault(section, {})[name] = value
        return Config.model_validate(nested)

    def start(self) -> float:
        """Start, wait until it is ready; seconds that took."""
        begun = time.perf_counter()
        command = [sys.executable, "-m", "logtune.app.cli", "serve", "--json"]
        for key, value in self._set.items():
            command += ["--set", f"{key}={json.dumps(value)}"]
        self._process = Process(command, self.home / "gateway.log")
        said = self.process.line()
        if "url" not in said:
            raise RuntimeError(f"the gateway did not start: {said}")
        url = str(said["url"])
        self.port = int(url.rsplit(":", 1)[1])
        self._ready(url)
        return time.perf_counter() - begun

    def wait_for_router(self, kept: Path) -> None:
        """Wait until the router's files are made, beside serving after a first start, and keep them there."""
        end = time.monotonic() + ROUTER_S
        while time.monotonic() < end and self.process.alive():
            if list((self.home / "router").glob("*.npz")):
                shutil.copytree(self.home / "router", kept, dirs_exist_ok=True)
                return
            time.sleep(0.5)
        raise RuntimeError(f"the router was not ready in time: {self.process.last_words()}")

    def _ready(self, url: str) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end and self.process.alive():
            with suppress(OSError), urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
                if answer.status == 200:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"the gateway did not become ready: {self.process.last_words()}")

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None:
            self._process.kill(signal.SIGTERM)

    def settled(self, wanted: int) -> int:
        """Log records in the database, once there are so many or a moment has passed: they come after their answers."""
        end = time.monotonic() + SETTLED_S
        while (found := self.stored()) < wanted and time.monotonic() < end:
            time.sleep(0.02)
        return found

    def stored(self) -> int:
        """Log records in the database."""
        found = sqlite3.connect(f"file:{self.home / 'logtune.db'}?mode=ro", uri=True, timeout=60)
        try:
            return int(found.execute("select count(*) from logs").fetchone()[0])
        finally:
            found.close()

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Those of the ids that have no record."""
        found = sqlite3.connect(f"file:{self.home / 'logtune.db'}?mode=ro", uri=True, timeout=60)
        try:
            known = {row[0] for row in found.execute("select id from logs")}
        finally:
            found.close()
        return [name for name in ids if name not in known]


class Loading:
    """The load generator, at work on one phase."""

    def __init__(self, spec: Spec, log: Path) -> None:
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "gateway_load.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=errors,
            )  # fmt: skip
        self.pid = self._process.pid
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(spec)).encode())
        self._process.stdin.close()
        self._process.stdin = None

    def result(self) -> dict[str, Json]:
        """Wait for its end; gateway_load.Result as JSON."""
        out, _ = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError(f"the load generator ended with code {self._process.returncode}; see load.log")
        found = json.loads(out)
        assert isinstance(found, dict)
        return found


def machine() -> dict[str, Json]:
    """What the figures were taken on."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0].split(":", 1)[1].strip() if names else "", "cores": os.cpu_count(),
        "load_average": list(os.getloadavg()), "python": sys.version.split()[0], "kernel": os.uname().release,
    }  # fmt: skip
