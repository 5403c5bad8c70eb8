"""One run of the gateway benchmark: phases of load, each a row of figures, and what rows say together."""

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from gateway_load import Spec
from gateway_parts import Loading, Priority, Process, Serving

from logtune.records import Json

Row = dict[str, Json]
QUANTILES = (50, 95, 99)
SETTLE_S = 0.3  # between two phases


def say(line: str) -> None:
    """One line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


@dataclass(kw_only=True)
class Bench:
    """What all phases share."""

    folder: Path
    texts: str  # file with the questions
    priority: Priority
    upstream: Process
    upstream_port: int
    asked: int = 0  # questions so far; each is asked once
    rows: list[Row] = field(default_factory=list)

    def spec(self, port: int, rate: float, count: int, stream: str = "none", *, keep_ids: bool = False) -> Spec:
        """A phase with questions of its own."""
        self.asked += count
        return Spec(
            port=port, texts=self.texts, rate=rate, count=count, stream=stream, offset=self.asked - count,
            keep_ids=keep_ids,
        )  # fmt: skip

    def load(self, spec: Spec) -> Loading:
        """The load generator, under way."""
        return Loading(spec, self.folder / "load.log")

    def warm(self, port: int, stream: str = "none", count: int = 200) -> int:
        """Requests that are not counted; how many."""
        self.load(self.spec(port, 100.0, count, stream)).result()
        return count

    def phase(self, name: str, target: str, port: int, rate: float, count: int, stream: str, server: Process) -> Row:
        """Measure one phase at the raised priority and keep its row."""
        spec = self.spec(port, rate, count, stream)
        time.sleep(SETTLE_S)
        before = _cpu_s(server.pid)
        loading = self.load(spec)
        with self.priority.raised(loading.pid, server.pid, self.upstream.pid):
            found = loading.result()
        row: Row = {
            "phase": name, "target": target, "rate": rate, "stream": stream, "count": count,
            "achieved_rps": round(cast("float", found["rate"]), 1), "answered": found["answered"],
            "errors": found["errors"], "routed": found["routed"], "rss_mb": round(server.rss_mb(), 1),
            "server_cpu_us_per_request": round(1e6 * (_cpu_s(server.pid) - before) / count),
            **_quantiles("latency", found["latencies_ms"]), **_quantiles("first", found["first_ms"]),
            **_quantiles("overhead", found["overheads_ms"]),
        }  # fmt: skip
        self.rows.append(row)
        say(told(row))
        return row


def told(row: Row) -> str:
    """A row as a line of progress."""
    stream = "" if row["stream"] == "none" else f", first chunk {row.get('first_p50_ms')} / {row.get('first_p99_ms')}"
    rate = f"{row['rate']:g}/s" if row["rate"] else "one at a time"
    errors = f", errors {row['errors']}" if row["errors"] else ""
    return (
        f"{row['phase']:<8} {rate:>13} {row['target']:<9} p50 {row.get('latency_p50_ms')} p99 "
        f"{row.get('latency_p99_ms')} ms{stream}, {row['achieved_rps']}/s, {row['rss_mb']} MB, "
        f"{row['server_cpu_us_per_request']} us CPU{errors}"
    )


def _quantiles(name: str, values: Json) -> Row:
    """p50, p95, p99 and the largest, in ms."""
    ordered = sorted(cast("list[float]", values))
    if not ordered:
        return {}
    row: Row = {
        f"{name}_p{percent}_ms": round(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], 3)
        for percent in QUANTILES
    }
    return row | {f"{name}_max_ms": round(ordered[-1], 3)}


def _cpu_s(pid: int) -> float:
    """Processor time of a process so far; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(") ", 1)[1].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / 100


def added(rows: Sequence[Row], phase: str, rate: float, key: str, target: str = "gateway") -> Row:
    """What `target` adds to the upstream alone in `key`: the median over the rounds, and every round."""
    chosen = [row for row in rows if row["phase"] == phase and row["rate"] == rate and key in row]
    sides = [[cast("float", row[key]) for row in chosen if row["target"] == side] for side in ("upstream", target)]
    rounds = [round(mine - alone, 3) for alone, mine in zip(*sides, strict=False)]
    return {"median": round(statistics.median(rounds), 3) if rounds else None, "rounds": cast("list[Json]", rounds)}


def sustained(bench: Bench, serving: Serving, ladder: Sequence[int], seconds: float) -> float:
    """The highest rate of the ladder without an error, with every record stored and 98% of the rate achieved."""
    best = 0.0
    for rate in ladder:
        before = serving.stored()
        row = bench.phase(
            "ladder", "gateway", serving.port, rate, int(rate * seconds), "none", serving.process
        )  # fmt: skip
        row["stored"] = serving.settled(before + cast("int", row["count"])) - before
        kept_up = not row["errors"] and row["stored"] == row["count"]
        if not kept_up or cast("float", row["achieved_rps"]) < 0.98 * rate:
            break
        best = float(rate)
    return best
