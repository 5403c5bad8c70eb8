"""Attackers among the users: what does the model learn of what they push, and what does trust cost honest users?

    python benchmarks/poison.py --json OUT [--home DIR] [--arms clean attack ...] [--data-only]

The banking stream, one cycle, real training, four times: without an attack; with 5% of the users giving 20% of the
feedback, all pushing one wrong answer; the same with trust off; and without an attack, filter and trust off. Each is
then asked the test messages through the gateway. What is finished is kept in --home and not done again; where two arms
train on the very same lessons, they are trained on once.
"""

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import weekly
from poison_traffic import ATTACKED, PUSHED, Answers, Traffic, attacked, honest, spare_messages

from logtune import pipeline
from logtune.app import build
from logtune.config import Config, load
from logtune.edges.store import Store
from logtune.ids import digest, identified
from logtune.ports import Executor, Tools, TrainingJob, TrainingPair
from logtune.records import Adapter, Interaction, Json, PreferencePair
from logtune.runner import Cycle, Stage, Unit
from logtune.stages import filter as filtering
from logtune.statistics import paired_difference
from logtune.testing import FakeExecutor
from logtune.views import given, signals_of

MORE = 25  # messages of each attacked topic beside those of the test, used by neither stream nor attackers
ARMS: Mapping[str, Mapping[str, bool]] = {
    "attack_trust_off": {"attack": True, "trust": False, "filter": True},
    "unfiltered": {"attack": False, "trust": False, "filter": False},
    "clean": {"attack": False, "trust": True, "filter": True},
    "attack": {"attack": True, "trust": True, "filter": True},
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is run."""

    data: Path
    home: Path
    weeks: int
    seed: int
    data_only: bool


def unfiltered(cycle: Cycle) -> Iterator[Unit]:
    """In place of the filter's row: every interaction teaches what its feedback says, noise too."""
    said, settings = signals_of(cycle), cycle.config.filter
    for item in cycle.board.all(Interaction):
        mine = tuple(said.get(item.id, ()))
        yield Unit((item.id, *(s.id for s in mine)), given([filtering._by_feedback(item, mine, None, {}, settings)]))


def unfiltered_stages() -> tuple[Stage, ...]:
    """The pipeline with a filter that drops nothing."""
    return tuple(replace(s, version="off", phases=(unfiltered,)) if s.name == "filter" else s for s in pipeline.STAGES)


@contextmanager
def stages(*, filtered: bool) -> Iterator[None]:
    """The pipeline as it is, or with a filter that drops nothing."""
    whole = pipeline.STAGES
    pipeline.STAGES = whole if filtered else unfiltered_stages()
    try:
        yield
    finally:
        pipeline.STAGES = whole


def settings(home: Path, arm: str) -> Config:
    """The settings of an arm."""
    folder = home / arm
    folder.mkdir(parents=True, exist_ok=True)
    return load(None, {
        "store.url": f"sqlite:///{folder / 'poison.db'}", "store.home": str(folder), "serve.poll_s": 1,
        "trust.enabled": ARMS[arm]["trust"],
    })  # fmt: skip


async def traffic_of(arm: str, tools: Tools, options: Options) -> Traffic:
    """What the store of an arm gets."""
    stream, _, _ = weekly.read(options.data)
    rows = [row for row in stream if row.week <= options.weeks]
    answers = Answers(tools.student, options.home / "answers.json")
    calm = await honest(rows, sorted({row.topic for row in rows if row.topic}), answers, options.seed)
    spare = spare_messages(options.data.parent / "banking77", options.data / "stream.jsonl")
    attack = await attacked(calm, spare, answers, options.seed)  # in every arm, so that all share one file of answers
    answers.save()
    return attack if ARMS[arm]["attack"] else calm


def fill(store: Store, traffic: Traffic) -> None:
    """Put the traffic into the store; a second time changes nothing."""
    store.add_logs(traffic.logs)
    store.put_feedback(traffic.feedback)


class Watched:
    """An executor that notes what it is asked to train on, and trains on the very same lessons once for all arms.

    The same lessons in the same order, with the same seed and settings, give the same bits; the adapter is copied.
    """

    def __init__(self, inner: Executor, home: Path) -> None:
        self.inner, self.home = inner, home
        self.pairs: list[TrainingPair] = []
        self.copied = False

    def close(self) -> None:
        """As the executor inside."""
        self.inner.close()

    def train(self, job: TrainingJob, progress: Callable[[str], None]) -> tuple[Adapter, ...]:
        """As the executor inside."""
        self.pairs += job.pairs
        lessons = [[pair.prompt, pair.chosen, pair.rejected] for pair in job.pairs]
        same = [job.kind, job.rank, job.seed, dict(job.settings), job.base_fingerprint, lessons]
        folder = self.home / "trained" / digest(same)
        if folder.exists():
            self.copied = True
            return tuple(_copied(each, job) for each in sorted(folder.iterdir()))
        made = self.inner.train(job, progress)
        for adapter in made:
            kept = folder.with_suffix(".part") / f"{adapter.epoch:02}"
            shutil.copytree(Path(job.out_dir) / adapter.path, kept)
            used = [job.pairs.index(pair) for pair in job.pairs if pair.id in adapter.pair_ids]
            record = {**asdict(replace(adapter, pair_ids=())), "used": used}
            (kept / "record.json").write_text(json.dumps(record), encoding="utf-8")
        if made:
            folder.with_suffix(".part").rename(folder)
        return made


def _copied(folder: Path, job: TrainingJob) -> Adapter:
    """A checkpoint of another arm as this job would have made it."""
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    used = [job.pairs[number].id for number in record.pop("used")]
    path = f"{job.name or job.cluster_id}-{job.kind}@{record['sha256'][:12]}"
    own = {"id": "", "cluster_id": job.cluster_id, "pair_ids": tuple(used), "path": path}
    target = Path(job.out_dir) / path
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("record.json"), dirs_exist_ok=True)
    return identified(Adapter(**{**record, **own, "losses": tuple(record["losses"])}))


def counted(store: Store, trained: Sequence[str], traffic: Traffic) -> dict[str, Json]:
    """Of the pairs that users made: how many there were and how many were trained on, by whose they are."""
    users = {item.id: item.user or "" for item in store.list(Interaction, limit=10**6)}
    made, used = Counter[str](), Counter[str]()
    for pair in store.list(PreferencePair, limit=10**6):
        user = users[pair.interaction_id]
        kind = _kind(user, pair.chosen, traffic)
        made[kind] += 1
        used[kind] += pair.id in set(trained)
    return {kind: {"pairs": made[kind], "trained": used[kind]} for kind in sorted(made)}


def _kind(user: str, chosen: str, traffic: Traffic) -> str:
    if user in traffic.attackers:
        return "attack"
    topic = traffic.topics.get(user)
    if topic is None:
        return "noise"
    right = "right" if chosen == topic else "wrong"
    return f"{right}_attacked" if topic in ATTACKED else right


def questions(options: Options) -> list[tuple[str, str]]:
    """Test messages and their topics: the stream's, and more of the attacked topics."""
    _, rows, _ = weekly.read(options.data)
    test = [(str(row["text"]), str(row["label"])) for row in rows if cast("int", row["week"]) <= options.weeks]
    spare = spare_messages(options.data.parent / "banking77", options.data / "stream.jsonl")
    return test + [(text, topic) for topic in ATTACKED for text in spare[topic][:MORE]]


async def tested(tools: Tools, config: Config, test: Sequence[str]) -> list[str]:
    """What the gateway answers to the test messages."""
    with tempfile.TemporaryDirectory() as folder:
        copy = build.store(weekly.snapshot(config, Path(folder)))
        async with weekly.serving(copy, tools, config) as service:
            asked = (service.ask(weekly.question(text), f"test-{i}") for i, text in enumerate(test))
            answers = await asyncio.gather(*asked)
        copy.close()
    return [said.strip() for said, _, _ in answers]


def run_arm(arm: str, options: Options) -> dict[str, Json]:
    """One arm from its traffic to the answers to the test messages."""
    config = settings(options.home / ("data" if options.data_only else "runs"), arm)
    store, tools = build.store(config), build.tools(config, weekly.say)
    traffic = asyncio.run(traffic_of(arm, tools, options))
    fill(store, traffic)
    watched = Watched(FakeExecutor("nothing is trained") if options.data_only else tools.executor, options.home)
    started = time.monotonic()
    with stages(filtered=ARMS[arm]["filter"]):
        receipt = pipeline.run_cycle(store, replace(tools, executor=watched), config, weekly.say)
    found: dict[str, Json] = {
        "users": len({log.user for log in traffic.logs}), "attackers": len(traffic.attackers),
        "feedback": len(traffic.feedback), "seconds": round(time.monotonic() - started, 1), "summary": receipt.summary,
        "pairs": counted(store, [pair.id for pair in watched.pairs], traffic), "training_copied": watched.copied,
    }  # fmt: skip
    if not options.data_only:
        test = questions(options)
        answers = asyncio.run(tested(tools, config, [text for text, _ in test]))
        found |= {"labels": [label for _, label in test], "answers": cast("list[Json]", answers)}
    store.close()
    return found


def right(run: Mapping[str, Json], only: Sequence[str] | None = None) -> list[float]:
    """1 or 0 for each test message, of certain topics alone if asked."""
    both = zip(cast("list[str]", run["labels"]), cast("list[str]", run["answers"]), strict=True)
    return [float(label == said) for label, said in both if only is None or label in only]


def figures(runs: Mapping[str, Mapping[str, Json]]) -> dict[str, Json]:
    """The figures that the finished arms allow."""
    found: dict[str, Json] = {}
    for key, arm, against, only in (
        ("poison_points", "attack", "clean", ATTACKED),
        ("poison_points_trust_off", "attack_trust_off", "clean", ATTACKED),
        ("poison_points_all", "attack", "clean", None),
        ("filter_gain_points", "clean", "unfiltered", None),
    ):
        if arm in runs and against in runs and "answers" in runs[arm] and "answers" in runs[against]:
            change = paired_difference(right(runs[arm], only), right(runs[against], only))
            found |= {key: 100 * change.mean, f"{key}_lower": 100 * change.low, f"{key}_upper": 100 * change.high}
    for arm, run in runs.items():
        if "answers" in run:
            both = zip(cast("list[str]", run["labels"]), cast("list[str]", run["answers"]), strict=True)
            found |= {
                f"accuracy_{arm}": float(np.mean(right(run))),
                f"accuracy_attacked_{arm}": float(np.mean(right(run, ATTACKED))),
                f"pushed_{arm}": float(np.mean([said == PUSHED for label, said in both if label in ATTACKED])),
            }
    return found


def main() -> None:
    """Parse the options, run what is missing, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--home", type=Path, help="keep stores, adapters and finished runs here")
    parser.add_argument("--data", type=Path, default=weekly.SHARED / "weekly_stream_banking77")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--data-only", action="store_true", help="count the pairs that would train, and train nothing")
    parser.add_argument("--weeks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = options.home or Path(folder)
        runs: dict[str, Mapping[str, Json]] = {}
        chosen = Options(
            data=options.data, home=home, weeks=options.weeks, seed=options.seed, data_only=options.data_only
        )
        for arm in options.arms:
            kept = home / f"{'data' if options.data_only else 'run'}-{arm}.json"
            if not kept.exists():
                home.mkdir(parents=True, exist_ok=True)
                run = run_arm(arm, chosen)
                kept.write_text(json.dumps(run, indent=1), encoding="utf-8")
            runs[arm] = json.loads(kept.read_text(encoding="utf-8"))
    text = json.dumps(
        {**figures(runs), "weeks": options.weeks, "seed": options.seed, "versions": build.versions(), "runs": runs},
        indent=1,
    )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
