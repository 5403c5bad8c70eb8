"""What the gateway adds to a request, and what it loses: mock upstream, `logtune serve`, load, all on this machine.

    python benchmarks/gateway.py --json OUT [--peer litellm] [--crash 50] [--outage 120] [--swaps 50] [--priority 3]

The gateway is the real command with its store (SQLite), the routing of real questions to four deployed adapters, and
its other settings as they come. The upstream is `gateway_mock.py`, which answers after 10 ms; the load is an open loop
(`gateway_load.py`). At each rate the upstream alone and the gateway are measured in turn, in several rounds;
`added_*` is the difference of their quantiles, the median over the rounds. Keys of the result:

    added_p50_ms, added_p99_ms      at 500 requests a second, not streamed
    first_chunk_added_p50_ms        to the first event of a stream, at 500 a second
    sustained_rps                   highest rate of a ladder: no error, every record stored, 98% of the rate
    peer_ratio_p50                  --peer: LiteLLM's added p50 divided by ours, one request at a time
    lost_after_kill                 --crash N: answers whose end the client saw and that have no record
    memory_growth_mb                --outage S: the gateway's memory with its database locked for S seconds at 500/s
    failed_during_swaps             --swaps N: requests failed or delayed over 1 s while deployments change

On a quiet machine no priority is needed. On a shared one `--priority 3` (root) runs the measured phases as real-time
processes, 6 to 10 s at a time; the kernel leaves 5% to others, which shows in p99 when both cores are full. `--quick`
takes a minute, a whole run with all options about 15.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import gateway_parts as parts
from gateway_bench import Bench, Row, added, say, sustained
from gateway_parts import Priority, Process, Serving

from logtune.records import Json

RATES = (0, 100, 500, 1000)  # 0: one at a time
LADDER = (400, 600, 800, 1000, 1200)
NAMES = {"none": "json", "all": "stream"}


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result there")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of a phase")
    parser.add_argument("--rates", type=float, nargs="*", default=RATES, help="requests a second; 0: one at a time")
    parser.add_argument("--delay-ms", type=float, default=10.0, help="until the mock answers")
    parser.add_argument("--gap-ms", type=float, default=10.0, help="between the events of its streams")
    parser.add_argument("--peer", choices=["litellm"], help="measure this proxy in the same run")
    parser.add_argument("--crash", type=int, nargs="?", const=50, default=0, metavar="N", help="kill -9 N times")
    parser.add_argument("--outage", type=float, nargs="?", const=120.0, default=0.0, metavar="SECONDS")
    parser.add_argument("--swaps", type=int, nargs="?", const=50, default=0, metavar="N")
    parser.add_argument("--priority", type=int, default=0, help="real-time priority of the measured phases")
    parser.add_argument("--only", action="store_true", help="only what --crash, --outage, --swaps or --peer ask for")
    parser.add_argument("--folder", type=Path, help="keep store and logs there; the folder must be new")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON", help="a setting of the gateway")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.rounds, chosen.seconds = 1, 2.0
    return chosen


def latencies(bench: Bench, serving: Serving, chosen: argparse.Namespace) -> None:
    """Upstream and gateway in turn, at each rate, streaming and not; every record must be in the store."""
    sides: list[tuple[str, int, Process]] = [
        ("upstream", bench.upstream_port, bench.upstream), ("gateway", serving.port, serving.process)
    ]  # fmt: skip
    for stream, name in NAMES.items():
        for rate in chosen.rates:
            for number in range(chosen.rounds):
                for target, port, process in sides if number % 2 == 0 else sides[::-1]:
                    before = serving.stored()
                    count = int(chosen.seconds * (rate or 40 if stream == "none" else rate or 15))
                    row = bench.phase(name, target, port, rate, count, stream, process)
                    wanted = before + count if target == "gateway" else 0
                    row |= {"round": number, "stored": serving.settled(wanted) - before}


def summary(rows: Sequence[Row]) -> Row:
    """The figures of the rows."""
    found: Row = {}
    for name in NAMES.values():
        for rate in sorted({cast("float", row["rate"]) for row in rows if row["phase"] == name}):
            keys = ["latency_p50_ms", "latency_p95_ms", "latency_p99_ms"]
            keys += ["first_p50_ms", "first_p99_ms"] if name == "stream" else []
            found[f"{name}_{rate:g}"] = {key: added(rows, name, rate, key) for key in keys}
    measured = [row for row in rows if row["target"] == "gateway" and "stored" in row]
    return {
        "added_p50_ms": added(rows, "json", 500, "latency_p50_ms")["median"],
        "added_p99_ms": added(rows, "json", 500, "latency_p99_ms")["median"],
        "first_chunk_added_p50_ms": added(rows, "stream", 500, "first_p50_ms")["median"],
        "requests": sum(cast("int", row["count"]) for row in measured),
        "records_stored": sum(cast("int", row["stored"]) for row in measured),
        "errors": sum(sum(cast("dict[str, int]", row["errors"]).values()) for row in measured),
        "routed_share": _share(measured), "rss_mb": max((cast("float", row["rss_mb"]) for row in measured), default=0),
        "added": found,
    }  # fmt: skip


def _share(rows: Sequence[Row]) -> float:
    answered = sum(cast("int", row["answered"]) for row in rows)
    return round(sum(cast("int", row["routed"]) for row in rows) / max(answered, 1), 3)


def peer(bench: Bench, serving: Serving, count: int) -> Row:
    """LiteLLM's proxy, the gateway and the upstream in turn, one request at a time."""
    from gateway_peer import litellm, version

    with litellm(bench.folder, bench.upstream_port) as (process, port):
        bench.warm(port, count=50)
        for _ in range(3):
            for target, at, server in (
                ("upstream", bench.upstream_port, bench.upstream), ("gateway", serving.port, serving.process),
                ("litellm", port, process),
            ):  # fmt: skip
                bench.phase("peer", target, at, 0, count, "none", server)
    ours, theirs = (added(bench.rows, "peer", 0, "latency_p50_ms", side) for side in ("gateway", "litellm"))
    ratio = cast("float", theirs["median"]) / cast("float", ours["median"])
    about: Row = {"name": "litellm", "version": version(), "added": theirs, "gateway_added": ours}
    return {"peer_ratio_p50": round(ratio, 2), "peer": about}


def run(chosen: argparse.Namespace, folder: Path) -> Row:
    """All phases."""
    result: Row = {"machine": parts.machine(), "settings": _settings(chosen), "started_at": time.time()}
    rows = parts.questions()
    texts = folder / "texts.json"
    texts.write_text(json.dumps([row["text"] for row in rows]), encoding="utf-8")
    with parts.mock(folder / "mock.log", chosen.delay_ms, chosen.gap_ms) as (upstream, port):
        overrides = {key: json.loads(value) for key, _, value in (item.partition("=") for item in chosen.set)}
        serving = Serving(folder, port, overrides)
        say(f"{len(rows)} questions; deploying {parts.CLUSTERS} clusters")
        kept = parts.deploy(serving.config(), rows)
        bench = Bench(
            folder=folder, texts=str(texts), priority=Priority(level=chosen.priority), upstream=upstream,
            upstream_port=port,
        )  # fmt: skip
        try:
            say(f"the gateway was ready after {serving.start():.1f} s")
            serving.wait_for_router(kept)
            serving.stop()
            say(f"with its router made after {serving.start():.1f} s")
            for step in _steps(chosen):
                result |= step(bench, serving)
        finally:
            serving.stop()
    return result | {"rows": cast("list[Json]", bench.rows)}


def _steps(chosen: argparse.Namespace) -> list[Callable[[Bench, Serving], Row]]:
    import gateway_trials as trials

    steps: list[Callable[[Bench, Serving], Row]] = [] if chosen.only else [lambda b, s: _speed(b, s, chosen)]
    if chosen.peer:
        steps.append(lambda b, s: peer(b, s, 60 if chosen.quick else 300))
    if chosen.swaps:
        steps.append(lambda b, s: trials.deployments(b, s, chosen.swaps))
    if chosen.outage:
        steps.append(lambda b, s: trials.outage(b, s, chosen.outage))
    if chosen.crash:
        steps.append(lambda b, s: trials.crash(b, s, chosen.crash))
    return steps


def _speed(bench: Bench, serving: Serving, chosen: argparse.Namespace) -> Row:
    for stream in NAMES:
        bench.warm(serving.port, stream)
    latencies(bench, serving, chosen)
    found = summary(bench.rows)
    ladder = LADDER[:3] if chosen.quick else LADDER
    return found | {"sustained_rps": sustained(bench, serving, ladder, chosen.seconds * 5 / 3)}


def _settings(chosen: argparse.Namespace) -> Row:
    names = ("rounds", "seconds", "rates", "delay_ms", "gap_ms", "priority", "quick", "set")
    return {name: getattr(chosen, name) for name in names}


def main() -> None:
    """Measure, print, and write the JSON where asked."""
    chosen = options()
    with tempfile.TemporaryDirectory(prefix="logtune-gateway-") as folder:
        home = chosen.folder or Path(folder)
        home.mkdir(parents=True, exist_ok=not chosen.folder)
        found = run(chosen, home.resolve())
    shown = {key: value for key, value in found.items() if key not in ("rows", "added")}
    print(json.dumps(shown, indent=1))
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
