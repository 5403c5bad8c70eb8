"""What Prometheus reads: requests, the gateway's own time, the model server's, tokens, routing, records and adapters.

Counted(app) counts requests; Metrics.exchange counts answers; Metrics.sample -> series -> Metrics.page -> text

Names and units follow Prometheus' conventions (base units, _total, _seconds, _bytes). Labels hold what is known from
elsewhere, paths of ours and names that our store deployed, so that no client can make series. With several processes
the numbers lie in files of `PROMETHEUS_MULTIPROC_DIR`, and any process gives the page of all.

A request is counted in plain dicts and lists, which `sample` adds to the client library's series once a second: their
locks, checks and files cost more than the counting.
"""

import os
import time
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, multiprocess
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector

from logtune import __version__
from logtune.app.asgi import Event, Headers, Receive, Scope, Send
from logtune.app.exchange import Exchange
from logtune.app.lane import Lane
from logtune.app.logs import ACCESS
from logtune.app.table import Choice
from logtune.records import Feedback

App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Mode: TypeAlias = Literal["livesum", "livemax", "livemin", "max"]  # how gauges of several processes make one
SHARED = "PROMETHEUS_MULTIPROC_DIR"  # where several processes keep their numbers
OVERHEAD_S = (0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1)
UPSTREAM_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
SERIES = 1000  # of one metric; further label values are counted together
PATHS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/feedback", "/healthz", "/health", "/readyz"})
DECISIONS: Mapping[str, str] = {  # how a routing reason begins -> what is counted
    "deployed for": "deployed", "the base model is deployed": "base", "out of distribution": "out_of_distribution",
    "nothing is deployed": "nothing_deployed", "no user text": "no_text", "the request names": "named",
    "no deployed cluster was made with": "other_embedder", "routing failed": "failed",
    "a text completion": "not_routed",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sample:
    """Numbers that are read now and then, over all projects."""

    under_way: int
    connections: int
    waiting: int  # records that wait for the store
    stored: int
    dropped: int
    rejected: int
    spool_records: int
    spool_bytes: int
    store_up: bool
    ready: bool
    adapters: int
    adapter_problems: int
    cycle_success: float = 0.0  # end of the newest cycle that ended well, seconds since 1970; 0: none did
    cycle_failures: int = 0


class Metrics:
    """All metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.under_way = 0
        self._before: dict[str, int] = {}
        self._tallies: list[Tally | Times] = []
        self._requests = self._tally("requests", "HTTP requests answered", "endpoint", "status")
        self._overhead = self._times("overhead", "The gateway's own time until the answer began", OVERHEAD_S)
        self._first_byte = self._times("upstream_first_byte", "From asking the model to its first byte", UPSTREAM_S)
        self._upstream = self._times("upstream", "From asking the model to its last byte", UPSTREAM_S)
        self._upstream_errors = self._tally("upstream_errors", "Exchanges without a complete answer", "status")
        self._tokens = self._tally("tokens", "Tokens as the model server counted them", "kind")
        self._decisions = self._tally("routing_decisions", "Where exchanges went, by why", "decision")
        self._routed = self._tally("routed", "Exchanges of clusters, by what answered", "cluster", "arm", "adapter")
        self._feedback = self._tally("feedback", "Feedback taken in", "kind", "shape")
        self._refused = self._tally("connections_refused", "Connections ended by the gateway", "reason")
        self._records = {name: self._counter(f"records_{name}", f"Records {name}") for name in RECORDS}
        self._gauges = {name: self._gauge(name, about, mode) for name, (about, mode) in GAUGES.items()}
        build = Gauge("logtune_build_info", "Version", ["version"], registry=self.registry, multiprocess_mode="max")
        build.labels(__version__).set(1)
        if SHARED not in os.environ:
            ProcessCollector(registry=self.registry)

    # what is counted

    def request(self, path: str, status: int) -> None:
        """One answered request; status 499 where the client went before there was an answer."""
        self._requests.add((endpoint(path, status), str(status)))

    def exchange(self, exchange: Exchange) -> None:
        """One exchange with the model, once it has ended."""
        if exchange.overhead_ms is not None:
            self._overhead.add(exchange.overhead_ms / 1000)
        if exchange.first_byte_s is not None:
            self._first_byte.add(exchange.first_byte_s)
        if exchange.upstream_s is not None:
            self._upstream.add(exchange.upstream_s)
        if exchange.error is not None:
            self._upstream_errors.add((str(exchange.status) if 400 <= exchange.status < 600 else "broken",))
        usage = exchange.usage()
        if usage:
            self._tokens.add(("prompt",), _count(usage.get("prompt_tokens")))
            self._tokens.add(("completion",), _count(usage.get("completion_tokens")))
        choice = exchange.choice
        self._decisions.add((decision(choice),))
        if choice.cluster is not None:
            self._routed.add((choice.cluster, choice.arm or "none", choice.adapter or choice.kind))

    def feedback(self, feedback: Feedback, shape: str) -> None:
        """One item of feedback that was taken in; `shape` names the system whose words it came in."""
        kind = "unread_score" if feedback.score is not None else feedback.kind
        self._feedback.add(("revoked" if feedback.revoked else kind, shape))

    def refused(self, reason: str) -> None:
        """One connection ended by the protocol."""
        self._refused.add((reason,))

    def sample(self, sample: Sample) -> None:
        """Bring what was counted into the series and set the gauges; belongs to the thread that counts.

        Counters that others keep grow by what they grew.
        """
        for tally in self._tallies:
            tally.flush()
        for name, gauge in self._gauges.items():
            gauge.set(getattr(sample, name))
        for name, counter in self._records.items():
            now = int(getattr(sample, name))
            counter.inc(max(0, now - self._before.get(name, 0)))
            self._before[name] = now

    def page(self, accept: str = "") -> tuple[bytes, str]:
        """The text of all series, and its content type; may take milliseconds."""
        registry = self.registry
        if SHARED in os.environ:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type

    # how they are made

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"logtune_{name}_total", about, labels, registry=self.registry)

    def _tally(self, name: str, about: str, *labels: str) -> "Tally":
        tally = Tally(self._counter(name, about, *labels))
        self._tallies.append(tally)
        return tally

    def _times(self, name: str, about: str, buckets: Sequence[float]) -> "Times":
        times = Times(Histogram(f"logtune_{name}_seconds", about, registry=self.registry, buckets=buckets), buckets)
        self._tallies.append(times)
        return times

    def _gauge(self, name: str, about: str, mode: Mode) -> Gauge:
        return Gauge(f"logtune_{GAUGE_NAMES.get(name, name)}", about, registry=self.registry, multiprocess_mode=mode)


RECORDS = ("stored", "dropped", "rejected")
GAUGES: Mapping[str, tuple[str, Mode]] = {
    "under_way": ("Requests under way", "livesum"),
    "connections": ("Open connections of clients", "livesum"),
    "waiting": ("Records that wait for the store in memory", "livesum"),
    "spool_records": ("Records that wait for the store on disk", "livesum"),
    "spool_bytes": ("Size of the records that wait on disk", "livesum"),
    "store_up": ("1: the store takes records", "livemin"),
    "ready": ("1: requests are welcome", "livemin"),
    "adapters": ("Adapters that serve", "livemax"),
    "adapter_problems": ("Deployed adapters that do not serve", "livemax"),
    "cycle_success": ("End of the newest cycle that ended well, of the project where that is longest ago", "livemax"),
    "cycle_failures": ("Cycles of the schedule that failed in a row, where that are most", "livemax"),
}
GAUGE_NAMES = {
    "under_way": "requests_under_way", "waiting": "journal_records", "adapters": "adapters_loaded",
    "cycle_success": "cycle_last_success_timestamp_seconds", "cycle_failures": "cycle_failures_in_a_row",
}  # fmt: skip


class Tally:
    """Counts by label values until they are flushed into a counter; its series are bounded."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._counts: dict[tuple[str, ...], int] = {}
        self._series: dict[tuple[str, ...], Counter] = {}

    def add(self, values: tuple[str, ...], by: int = 1) -> None:
        """Count `by` more for these label values."""
        self._counts[values] = self._counts.get(values, 0) + by

    def flush(self) -> None:
        """Bring the counts into the series; those of too many label values into `other`."""
        counts, self._counts = self._counts, {}
        for values, count in counts.items():
            series = self._series.get(values)
            if series is None:
                if len(self._series) >= SERIES:
                    values = ("other",) * len(values)
                series = self._series[values] = self._counter.labels(*values)
            series.inc(count)


class Times:
    """Durations in seconds until they are flushed into a histogram."""

    def __init__(self, histogram: Histogram, bounds: Sequence[float]) -> None:
        self._histogram = histogram
        self._bounds = tuple(bounds)
        self._found: list[float] = []

    def add(self, seconds: float) -> None:
        """One more."""
        self._found.append(seconds)

    def flush(self) -> None:
        """Bring them into the histogram: each bucket once, where `observe` would take a lock for every value."""
        found, self._found = self._found, []
        if found:
            for bucket, count in Counts(bisect_left(self._bounds, value) for value in found).items():
                self._histogram._buckets[bucket].inc(count)
            self._histogram._sum.inc(sum(found))


class Counted:
    """The app with every request counted, and told in the access log where that is wanted."""

    def __init__(self, app: App, metrics: Metrics, *, access_log: bool = False) -> None:
        self._app = app
        self._metrics = metrics
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        metrics, started, status = self._metrics, time.perf_counter(), 499
        headers: Headers = []

        async def noted(message: Event) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status, headers = cast("int", message["status"]), cast("Headers", message.get("headers", []))
            await send(message)

        metrics.under_way += 1
        try:
            await self._app(scope, receive, noted)
        finally:
            metrics.under_way -= 1
            metrics.request(str(scope["path"]), status)
            if self._access_log:
                _tell(scope, status, headers, 1000 * (time.perf_counter() - started))


def _tell(scope: Scope, status: int, headers: Headers, took_ms: float) -> None:
    fields = {"method": scope["method"], "path": str(scope["path"])[:200], "status": status, "ms": round(took_ms, 1)}
    interaction = next((value.decode("latin-1") for name, value in headers if name == b"x-logtune-interaction"), None)
    ACCESS.info("request", extra={"fields": fields | ({"interaction": interaction} if interaction else {})})


def endpoint(path: str, status: int) -> str:
    """The path as a label: one of ours, without what a client put into it; what is not there is `other`."""
    if path in PATHS:
        return path
    if status == 404:
        return "other"
    parts = path.split("/")
    return f"/{parts[1]}/{parts[2]}" if len(parts) > 2 and parts[1] in ("v1", "compat") else "other"


def decision(choice: Choice) -> str:
    """What a choice is counted as."""
    return _decision(choice.reason, choice.kind)


@lru_cache(maxsize=1024)
def _decision(reason: str, kind: str) -> str:
    if not reason:
        return "not_routed"
    found = next((name for begin, name in DECISIONS.items() if reason.startswith(begin)), None)
    return found or ("stand_in" if kind != "base" else "fallback")


def sampled(lanes: Iterable[Lane], *, ready: bool, under_way: int, connections: int) -> Sample:
    """What the lanes hold now."""
    every = list(lanes)
    journals = [lane.journal for lane in every]
    tables = [lane.router.table for lane in every]
    succeeded = [lane.course.succeeded_at for lane in every if lane.course.succeeded_at is not None]
    return Sample(
        under_way=under_way, connections=connections, waiting=sum(journal.queued for journal in journals),
        stored=sum(journal.stored for journal in journals), dropped=sum(journal.dropped for journal in journals),
        rejected=sum(journal.rejected for journal in journals), ready=ready,
        spool_records=sum(journal.spooled for journal in journals),
        spool_bytes=sum(journal.spool_bytes for journal in journals),
        store_up=not any(journal.problem for journal in journals),
        adapters=sum(len(table.live()) for table in tables),
        adapter_problems=sum(1 for table in tables for loaded in table.adapters.values() if loaded.problem),
        cycle_success=min(succeeded, default=0.0),
        cycle_failures=max((lane.course.failures for lane in every), default=0),
    )  # fmt: skip


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
