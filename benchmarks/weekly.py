"""The loop on a stream of real messages, week by week: does the model get better from its logs alone?

    python benchmarks/weekly.py --weeks 2 --json OUT

A simulated user who knows the right topic asks through the real gateway and reacts to what the model really answered:
edits, words that name the topic, mere complaints, thumbs, re-asks, silence; a share of it wrong on purpose. Training
sees the logs only. After each cycle: exact match on the test messages of all topics seen so far, what the filter
dropped, the adapters' size, and multiple-choice retention, through the router and with the adapter forced on.
"""

import argparse
import asyncio
import json
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import retention
import users
from compare_types import Reaction

from logtune import pipeline
from logtune.app import build
from logtune.app.demo import listening
from logtune.config import Config, load
from logtune.ports import ChatCall, Tools
from logtune.records import Adapter, Cluster, Decision, Interaction, Json, Message
from logtune.stages import deploy
from logtune.stages.cluster import route
from logtune.stages.filter import NOISE_REASONS
from logtune.statistics import paired_difference

if TYPE_CHECKING:
    import aiohttp

    from logtune.edges.store import Store

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SYSTEM = "You sort customer messages of a bank app. Answer with the topic of the message, nothing else."
MAX_TOKENS = 16
AT_ONCE = 32
WEEK_S = 7 * 86_400.0
MANNER = users.Manner()


@dataclass(frozen=True, slots=True)
class Row:
    """One request of the stream."""

    id: str
    week: int
    text: str
    topic: str | None
    noise: str | None


@dataclass(frozen=True, slots=True)
class Week:
    """The figures after a week's cycle; shares as fractions, gains in percentage points."""

    week: int
    accuracy: float
    base_accuracy: float
    gain_points: float
    gain_lower: float
    gain_upper: float
    test_cases: int
    accuracy_by_week: dict[str, float]
    noise_dropped: float
    clean_dropped: float
    adapter_share: float
    retention_points: float
    retention_lower: float
    retention_forced_points: float
    retention_routed_share: float
    cycle_seconds: float
    exit_code: int
    summary: str
    requests: int
    answered_right: int
    feedback: int
    out_of_distribution: float


def read(folder: Path) -> tuple[list[Row], list[dict[str, Json]], list[dict[str, Json]]]:
    """Stream, test messages, and retention questions (from beside the folder, else from the shared data)."""
    lines = (folder / "stream.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    stream = [Row(r["id"], r["week"], r["text"], r["gold_intent"], r["noise"]) for r in rows]
    test = [json.loads(line) for line in (folder / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    beside = folder.parent / "retention_mc" / "questions.jsonl"
    questions = beside if beside.exists() else SHARED / "retention_mc" / "questions.jsonl"
    asked = [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines()]
    return stream, test, [q for q in asked if q["task"] in retention.TASKS]


def question(text: str) -> list[dict[str, str]]:
    """The messages of a request."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


class User:
    """Simulated users: each message is another person's, and each reaction is drawn with the seed."""

    def __init__(self, topics: Sequence[str], seed: int) -> None:
        self.topics = topics
        self.random = random.Random(seed)

    def react(self, row: Row, said: str) -> Reaction | None:
        """What they do about an answer; None for silence."""
        right = row.topic is not None and said.strip() == row.topic
        wanted = users.Wanted(text=row.text, truth=row.topic, others=self.topics)
        return users.react(wanted, right, self.random, MANNER)


class Service:
    """The gateway, as its clients see it."""

    def __init__(self, url: str, client: "aiohttp.ClientSession") -> None:
        self.url, self.client, self.gate = url, client, asyncio.Semaphore(AT_ONCE)

    async def ask(self, messages: list[dict[str, str]], user: str) -> tuple[str, str, str]:
        """(answer, response id, adapter or "base")."""
        body = {"model": "base", "messages": messages, "max_tokens": MAX_TOKENS, "temperature": 0, "user": user}
        async with self.gate, self.client.post(f"{self.url}/v1/chat/completions", json=body) as reply:
            answer = await reply.json()
            if reply.status != 200:
                raise RuntimeError(f"the gateway answered {reply.status}: {answer}")
            text = cast("str", answer["choices"][0]["message"]["content"])
            return text, cast("str", answer["id"]), reply.headers.get("x-logtune-adapter", "base")

    async def tell(self, target: str, feedback: Mapping[str, Json], user: str) -> None:
        body = {"target": target, "user": user, **feedback}
        async with self.client.post(f"{self.url}/v1/feedback", json=body) as reply:
            if reply.status not in (200, 202):
                raise RuntimeError(f"feedback was answered {reply.status}: {await reply.text()}")


def feedback(reaction: Reaction) -> dict[str, Json]:
    """A reaction as the body of POST /v1/feedback."""
    return {name: value for name, value in asdict(reaction).items() if value is not None}


async def live(service: Service, rows: Sequence[Row], user: User) -> tuple[int, int]:
    """A week of traffic; (answers that were right, pieces of feedback)."""
    answers = await asyncio.gather(*(service.ask(question(row.text), f"user-{row.id}") for row in rows))
    right, told = 0, 0
    for row, (said, response_id, _) in zip(rows, answers, strict=True):
        right += said.strip() == row.topic
        reaction = user.react(row, said)
        if reaction is None:
            continue
        told += 1
        if reaction.reask is not None:
            again = [*question(row.text), {"role": "assistant", "content": said}]
            await service.ask([*again, {"role": "user", "content": reaction.reask}], f"user-{row.id}")
        else:
            await service.tell(response_id, feedback(reaction), f"user-{row.id}")
    return right, told


class Retention:
    """Accuracy on multiple choice by log-likelihood a token; the base model's scores are computed once."""

    def __init__(self, tools: Tools, questions: Sequence[Mapping[str, Json]]) -> None:
        self.tools, self.questions = tools, questions
        self.texts = [str(q["question"]) for q in questions]
        self.vectors = tools.embedder.embed(self.texts)
        self.base = self.scores("")

    def scores(self, model: str) -> list[float]:
        """1 for a question whose right choice is the likeliest, else 0."""
        prompts = [retention.asked(question) for question in self.questions for _ in retention.choices(question)]
        answers = [choice for question in self.questions for choice in retention.choices(question)]
        assert self.tools.likelihood is not None
        return retention.likeliest_is_right(self.questions, self.tools.likelihood.nll(prompts, answers, model))

    def measure(self, clusters: Sequence[Cluster], adapter: str) -> tuple[float, float, float, float]:
        """(points through the router, lower end, points with the adapter forced on, share of questions routed)."""
        if not adapter:
            return 0.0, 0.0, 0.0, 0.0
        forced = self.scores(adapter)
        routed = [route(clusters, vector).cluster is not None for vector in self.vectors]
        through = [f if r else b for f, b, r in zip(forced, self.base, routed, strict=True)]
        change = paired_difference(through, self.base)
        return (
            100 * change.mean,
            100 * change.low,
            100 * float(np.mean(forced) - np.mean(self.base)),
            float(np.mean(routed)),
        )


async def base_answers(tools: Tools, test: Sequence[Mapping[str, Json]]) -> list[bool]:
    """Which test messages the base model answers right."""

    async def one(row: Mapping[str, Json]) -> bool:
        messages = tuple(Message(**m) for m in question(str(row["text"])))
        reply = await tools.student.complete(ChatCall(messages=messages, max_tokens=MAX_TOKENS))
        return reply.text.strip() == row["label"]

    return list(await asyncio.gather(*(one(row) for row in test)))


def taken_for_noise(store: "Store", cycle_id: str) -> dict[str, bool]:
    """User -> whether the filter calls all that they asked noise."""
    asked_by = {item.id: item.user or "" for item in store.list(Interaction, limit=10**6, cycle_id=cycle_id)}
    found: dict[str, bool] = {}
    for decision in store.list(Decision, limit=10**6, cycle_id=cycle_id):
        user = asked_by[decision.interaction_id]
        found[user] = found.get(user, True) and decision.reason in NOISE_REASONS
    return found


def dropped(store: "Store", cycle_id: str, stream: Mapping[str, Row]) -> tuple[float, float]:
    """(share of labelled noise, share of clean requests) that the filter calls noise."""
    verdicts = [(stream[user.removeprefix("user-")], bad) for user, bad in taken_for_noise(store, cycle_id).items()]
    noise = [bad for row, bad in verdicts if row.noise is not None]
    clean = [bad for row, bad in verdicts if row.noise is None]
    return sum(noise) / max(1, len(noise)), sum(clean) / max(1, len(clean))


def say(line: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


@asynccontextmanager
async def serving(store: "Store", tools: Tools, config: Config) -> AsyncIterator[Service]:
    """The real gateway on a loopback port, with what is deployed at this moment."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=600)
    gateway = build.gateway(store, tools, config)
    async with listening(gateway) as url, aiohttp.ClientSession(timeout=timeout) as client:
        yield Service(url, client)


def snapshot(config: Config, folder: Path) -> Config:
    """The settings with a copy of the store, as it is now.

    Its records lie in no file of the folder that both share: should the process be killed, they became the store's own.
    """
    target = folder / "snapshot.db"
    source = sqlite3.connect(config.store.url.removeprefix("sqlite:///"))
    copy = sqlite3.connect(target)
    source.backup(copy)
    source.close()
    copy.close()
    url = f"sqlite:///{target}"
    serve = config.serve.model_copy(update={"record_first": "store"})
    return config.model_copy(update={"store": config.store.model_copy(update={"url": url}), "serve": serve})


async def one_week(week: int, store: "Store", tools: Tools, config: Config, data: "Data") -> Week:
    """A week of traffic, its cycle, and the figures after it."""
    rows = [row for row in data.stream if row.week == week]
    async with serving(store, tools, config) as service:
        right, told = await live(service, rows, data.user)
    say(f"week {week}: {len(rows)} requests, {right} answered right, {told} reactions")
    started = time.monotonic()
    receipt = await asyncio.to_thread(pipeline.run_cycle, store, tools, config, say)
    seconds = time.monotonic() - started
    seen = [(row, base) for row, base in zip(data.test, data.base, strict=True) if cast("int", row["week"]) <= week]
    with tempfile.TemporaryDirectory() as folder:
        copy = build.store(snapshot(config, Path(folder)))  # what is asked for the test must not become a log
        async with serving(copy, tools, config) as service:
            asked = (service.ask(question(str(row["text"])), f"test-{week}-{i}") for i, (row, _) in enumerate(seen))
            tested = await asyncio.gather(*asked)
        copy.close()
    ours = [float(said.strip() == row["label"]) for (row, _), (said, _, _) in zip(seen, tested, strict=True)]
    gain = paired_difference(ours, [float(base) for _, base in seen])
    by_week = {
        str(w): float(np.mean([o for o, (row, _) in zip(ours, seen, strict=True) if row["week"] == w]))
        for w in range(1, week + 1)
    }
    current = store.deployments()
    adapters = {a.id: a for a in store.load(Adapter, deploy.live_adapters(current))}
    clusters = store.load(Cluster, [d.cluster_id for d in current.values() if d.adapter_id])
    forced = max(adapters.values(), key=lambda a: a.parameters).path if adapters else ""
    kept = await asyncio.to_thread(data.retention.measure, clusters, forced)
    noise, clean = dropped(store, receipt.cycle_id, {row.id: row for row in data.stream})
    return Week(
        week=week, accuracy=float(np.mean(ours)), base_accuracy=float(np.mean([b for _, b in seen])),
        gain_points=100 * gain.mean, gain_lower=100 * gain.low, gain_upper=100 * gain.high, test_cases=len(seen),
        accuracy_by_week=by_week, noise_dropped=noise, clean_dropped=clean,
        adapter_share=deploy.live_share(current, adapters, tools.base_parameters), retention_points=kept[0],
        retention_lower=kept[1], retention_forced_points=kept[2], retention_routed_share=kept[3], cycle_seconds=seconds,
        exit_code=receipt.exit_code, summary=receipt.summary, requests=len(rows), answered_right=right, feedback=told,
        out_of_distribution=float(np.mean([name == "base" for _, _, name in tested])),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Data:
    """What the benchmark knows and the system does not."""

    stream: list[Row]
    test: list[dict[str, Json]]
    base: list[bool]
    retention: Retention
    user: User


async def run(folder: Path, weeks: int, seed: int, home: Path) -> dict[str, Json]:
    """All weeks; the figures as after the last one."""
    config = load(None, {"store.url": f"sqlite:///{home / 'weekly.db'}", "store.home": str(home), "serve.poll_s": 1})
    stream, tests, questions = read(folder)
    test = [row for row in tests if cast("int", row["week"]) <= weeks]
    store, tools = build.store(config), build.tools(config, say)
    topics = sorted({row.topic for row in stream if row.topic and row.week <= weeks})
    say(f"the base model answers {len(test)} test messages and {len(questions)} retention questions")
    base = await base_answers(tools, test)
    data = Data(stream, test, base, await asyncio.to_thread(Retention, tools, questions), User(topics, seed))
    found: list[Week] = []
    for week in range(1, weeks + 1):
        found.append(await one_week(week, store, tools, config, data))
        say(f"week {week}: {found[-1]}")
    store.close()
    last = found[-1]
    keys = (
        "gain_points",
        "gain_lower",
        "noise_dropped",
        "clean_dropped",
        "adapter_share",
        "retention_points",
        "retention_forced_points",
    )
    figures = {key: getattr(last, key) for key in keys}
    return {
        **figures, "cycle_seconds": [week.cycle_seconds for week in found], "seed": seed,
        "versions": build.versions(), "base_retention": float(np.mean(data.retention.base)),
        "weeks": [asdict(week) for week in found],
    }  # fmt: skip


def main() -> None:
    """Parse the options, run, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weeks", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument(
        "--data", type=Path, default=SHARED / "weekly_stream_banking77", help="stream.jsonl and test.jsonl"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--home", type=Path, help="keep the store and the adapters here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = options.home or Path(folder)
        home.mkdir(parents=True, exist_ok=True)
        figures = asyncio.run(run(options.data, options.weeks, options.seed, home))
    text = json.dumps(figures, indent=1)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
