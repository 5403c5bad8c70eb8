"""What the language-model path costs in time and calls, and what a real teacher's rules and our training are worth.

    python benchmarks/llm_path.py --json OUT                     parts calls and loads: about a minute, no real model
    python benchmarks/llm_path.py --json OUT --parts speed       training against TRL's: minutes of both cores
    python benchmarks/llm_path.py --json OUT --parts rules --teacher http://127.0.0.1:8022/v1

A part that is run replaces its figures in OUT and leaves the others; `measured` says when and on what each was run.

calls   speedup_calls      wall clock of the reference's way (24 calls a log, one after another) divided by ours
        calls_ratio        24 divided by our model calls a log, for rules, predictions, better answers and verdicts
        calls_second_run   model calls of a second run over the same store; `..._memory`: with every unit done again
loads   base_loads         base models loaded while 8 clusters are trained (a tiny model: only the loads are counted)
speed   train_speedup      tokens a second against TRL's DPOTrainer with its defaults (benchmarks/llm_train.py)
rules   rules_valid, injections_followed      a real teacher on real corrections (benchmarks/llm_rules.py)

The reference's way is measured on the first logs and multiplied up, since every call takes the same time: the figures
say on how many. Ours runs the pipeline's own rows up to the gap, with a store on disk; only the embedder is a fake.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from logtune import pipeline
from logtune.app.build import TRAINER, versions
from logtune.config import Config, TrainSettings, build
from logtune.edges.chat import HttpChat
from logtune.edges.executor import LocalExecutor
from logtune.edges.replies import Meter, MeteredChat, RememberedChat, ReplyMemory
from logtune.edges.store import CycleRow, Store, UnitResult
from logtune.ports import ChatCall, Spent, Tools, TrainingJob, TrainingPair
from logtune.prompts import render
from logtune.records import Derived, Failure, Feedback, Gap, Interaction, Json, LogRecord, Message, PreferencePair, Rule
from logtune.runner import Board, Commit, Cycle, Load, run_stage
from logtune.stages.distill import predict
from logtune.stages.judge import pointwise
from logtune.stages.train import LOADS
from logtune.testing import ScriptedChat, sample_log, tiny_model, tools

CALLS_OF_REFERENCE = 24  # a log: about 25,800 calls for 1,075 logs
WRITTEN, RATED = 8, 16  # how the 24 are made up here: rules, predictions, 3 + 3 answers; and ratings for the others
AT_ONCE = 64
LAST = "gap"  # the last row that makes one of the artefacts
THINGS = ("passport", "parking permit", "library card", "tax return", "building plan", "bus pass", "dog licence",
          "birth certificate", "wedding date", "market stall")  # fmt: skip
WISHES = ("too vague, please say in how many days", "that is too long, one sentence please",
          "too many words, give the steps only", "too short, please add the page where I do that")  # fmt: skip
CONFIG = build({"filter": {"off_topic": "off"}, "pairs": {"candidates": ["revised", "afresh"]}})


def logs(count: int) -> tuple[list[LogRecord], list[Feedback]]:
    """Requests to a town office, each of another person who complains and says how it should be."""
    made = [
        sample_log(f"log-{n:04}", f"How do I get a {THINGS[n % 10]} for case {n}?", "It depends.", f"user-{n}", n)
        for n in range(1001, 1001 + count)
    ]
    told = [
        Feedback(id=f"fb-{n:04}", target=log.id, at=log.at + 60, kind="comment", comment=WISHES[n % 4], value=-1.0)
        for n, log in enumerate(made)
    ]
    return made, told


@asynccontextmanager
async def mock(delay_ms: float, at_once: int = AT_ONCE) -> AsyncIterator[str]:
    """The model server in a process of its own; its URL with /v1."""
    script = Path(__file__).with_name("llm_mock.py")
    command = [sys.executable, str(script), "--delay-ms", str(delay_ms), "--at-once", str(at_once)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        line = await process.stdout.readline()
        yield f"http://127.0.0.1:{json.loads(line)['port']}/v1"
    finally:
        process.kill()
        await process.wait()


async def one_by_one(url: str, items: Sequence[LogRecord]) -> tuple[float, int]:
    """(seconds, calls) of the reference's way: every call waits for the one before."""
    counted, chat = Meter(), HttpChat(url, "mock", max_concurrency=1)
    metered = MeteredChat(chat, counted)
    started = time.perf_counter()
    for item in items:
        query = cast("list[dict[str, str]]", item.request["messages"])[-1]["content"]
        for _ in range(2):
            await predict(query, metered, 5)
        prompt = render("revise", "en", query=query, answer="It depends.", rules=WISHES[0])
        for seed in range(WRITTEN - 2):
            asked = (Message(role="user", content=prompt),)
            await metered.complete(ChatCall(messages=asked, temperature=1.0, top_p=0.9, seed=seed))
        for _ in range(RATED):
            await pointwise(metered, query, WISHES[0], "It depends.", samples=1)
    seconds = time.perf_counter() - started
    await chat.close()
    return seconds, counted.total.calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run of ours took and made."""

    seconds: float
    spent: Mapping[str, Spent]
    stage_seconds: Mapping[str, float]
    made: Mapping[str, int]

    @property
    def calls(self) -> int:
        """Calls that reached the model."""
        return sum(spent.calls for spent in self.spent.values())


async def ours(url: str, store: Store, config: Config = CONFIG, forget_units: bool = False) -> Run:
    """The pipeline's rows from the logs to the gap; `forget_units`: as if no unit had ever been done."""
    meter, chat = Meter(), HttpChat(url, "mock", max_concurrency=AT_ONCE)
    teacher = RememberedChat(MeteredChat(chat, meter), "mock", ReplyMemory(store), meter)
    using = replace(tools(ScriptedChat("It depends.")), teacher=teacher)
    began: dict[str, float] = {}
    started = time.perf_counter()
    cycle = _cycle(store, using, config)
    for stage in pipeline.STAGES:
        began[stage.name] = time.perf_counter()
        await run_stage(stage, cycle, _loader(store, forget_units), _committer(store, cycle))
        if stage.name == LAST:
            break
    ended = time.perf_counter()
    await chat.close()
    ends = [*list(began.values())[1:], ended]
    board = cycle.board
    kinds = (Interaction, Rule, PreferencePair, Gap, Failure)
    return Run(
        seconds=ended - started, spent=meter.spent, made={kind.__name__: len(board.all(kind)) for kind in kinds},
        stage_seconds={name: round(end - begin, 3) for (name, begin), end in zip(began.items(), ends, strict=True)},
    )  # fmt: skip


def _cycle(store: Store, using: Tools, config: Config) -> Cycle:
    row = CycleRow(id="cyc-1", config_hash=config.config_hash, started_at=0.0, ended_at=None, receipt={})
    if not store.cycles(limit=1):
        store.open_cycle(row)
    return Cycle(
        id=row.id, config=config, tools=using, board=Board(), logs={log.id: log for log in store.logs()},
        feedback={item.id: item for item in store.feedback()}, serving={}, before={}, progress=lambda line: None,
    )  # fmt: skip


def _loader(store: Store, forget: bool) -> Load:
    def load(stage: str, keys: Sequence[str]) -> dict[str, Sequence[Derived]]:
        found = {} if forget else store.units(stage, keys)
        return {key: pipeline.records(store, outputs) for key, outputs in found.items()}

    return load


def _committer(store: Store, cycle: Cycle) -> Commit:
    def commit(stage: str, done: Sequence[tuple[str, Sequence[Derived]]]) -> None:
        store.commit_units(
            [
                UnitResult(stage=stage, key=key, outputs=tuple(outputs), cycle_id=cycle.id,
                           config_hash=cycle.config.config_hash, at=1.0)
                for key, outputs in done
            ]
        )  # fmt: skip

    return commit


async def measure(count: int, reference_logs: int, delay_ms: float, folder: Path) -> dict[str, Json]:
    """All figures."""
    records, feedback = logs(count)
    store = Store(f"sqlite:///{folder / 'llm_path.db'}")
    store.add_logs(records)
    store.put_feedback(feedback)
    async with mock(delay_ms) as url:
        first = await ours(url, store)
        again = await ours(url, store)
        anew = await ours(url, store, forget_units=True)
        seconds, calls = await one_by_one(url, records[:reference_logs])
    store.close()
    if calls != CALLS_OF_REFERENCE * reference_logs:
        raise RuntimeError(f"the reference's way took {calls} calls for {reference_logs} logs")
    whole = seconds / reference_logs * count
    return {
        "speedup_calls": whole / first.seconds,
        "calls_ratio": CALLS_OF_REFERENCE * count / first.calls,
        "calls_second_run": again.calls,
        "calls_second_run_memory": anew.calls,
        "logs": count,
        "delay_ms": delay_ms,
        "at_once": AT_ONCE,
        "reference_logs_measured": reference_logs,
        "reference_seconds_measured": seconds,
        "reference_seconds": whole,
        "reference_extrapolated": reference_logs < count,
        "ours_seconds": first.seconds,
        "ours_least_seconds": first.calls * delay_ms / 1000 / AT_ONCE,
        "ours_calls": first.calls,
        "ours_calls_by_purpose": {purpose: spent.calls for purpose, spent in first.spent.items()},
        "ours_stage_seconds": dict(first.stage_seconds),
        "ours_made": dict(first.made),
        "second_run_seconds": again.seconds,
        "second_run_memory_seconds": anew.seconds,
        "versions": versions(),
    }


def trained(folder: Path, clusters: int = 8) -> dict[str, Json]:
    """Loads and processes while so many clusters are trained one after the other, as a cycle does."""
    base, lines, pids = tiny_model(folder / "base"), list[str](), set[int]()
    executor = LocalExecutor(TRAINER)
    settings = TrainSettings.model_validate({"learning_rate": 0.02, "epochs": 1, "batch": 4}).model_dump(mode="json")
    started = time.perf_counter()
    for number in range(clusters):
        pairs = tuple(
            TrainingPair(id=f"p{n}", prompt=(Message(role="user", content=f"{THINGS[number]} {n}"),), chosen="late",
                         rejected="I do not know")
            for n in range(8)
        )  # fmt: skip
        adapters = executor.train(
            TrainingJob(cluster_id=f"clu-{number}", kind="expert", base_path=str(base), base_fingerprint="tiny@1",
                        pairs=pairs, out_dir=str(folder), rank=2, settings=settings, seed=number),
            lines.append,
        )  # fmt: skip
        pids |= {process.pid or 0 for process in multiprocessing.active_children()}
        if not adapters:
            raise RuntimeError(f"cluster {number} has no adapter")
    seconds = time.perf_counter() - started
    executor.close()
    loads = sum(line.endswith(LOADS) for line in lines)
    return {"base_loads": loads, "clusters_trained": clusters, "training_processes": len(pids),
            "training_seconds": seconds}  # fmt: skip


PARTS = ("calls", "loads", "speed", "rules")


def run_part(part: str, options: argparse.Namespace, folder: Path) -> dict[str, Json]:
    """The figures of one part."""
    if part == "calls":
        return asyncio.run(measure(options.logs, options.reference_logs, options.delay_ms, folder))
    if part == "loads":
        return trained(folder)
    if part == "speed":
        import llm_train

        return llm_train.speedup(options.pairs, folder)
    import llm_rules

    if not options.teacher:
        raise SystemExit("part rules needs --teacher URL of a real model; shared/tools/start-teacher starts one")
    options.work.mkdir(parents=True, exist_ok=True)
    return asyncio.run(llm_rules.measure(options.teacher, options.work))


def main() -> None:
    """Parse the options, run, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here, beside those of other parts")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["calls", "loads"])
    parser.add_argument("--logs", type=int, default=200)
    parser.add_argument("--reference-logs", type=int, default=5, help="logs on which the reference's way is measured")
    parser.add_argument("--delay-ms", type=float, default=100.0)
    parser.add_argument("--pairs", type=int, default=48, help="pairs that are trained on, for part speed")
    parser.add_argument("--teacher", help="URL with /v1 of a real model, for part rules")
    parser.add_argument("--work", type=Path, default=Path("llm_rules"), help="replies and rules, for part rules")
    options = parser.parse_args()
    figures: dict[str, Json] = {}
    if options.json and options.json.exists():
        figures = json.loads(options.json.read_text(encoding="utf-8"))
    for part in options.parts:
        with tempfile.TemporaryDirectory() as folder:
            figures |= run_part(part, options, Path(folder))
        measured = cast("dict[str, Json]", figures.get("measured") or {})
        about = {"at": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "load": round(os.getloadavg()[1], 1)}
        figures["measured"] = {**measured, part: cast("Json", about)}
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
