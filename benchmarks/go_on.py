"""Train the next adapter anew, or go on from the one that serves? Merge two adapters, or train their union?

    python benchmarks/go_on.py --weeks 3 --json OUT
    python benchmarks/go_on.py --merge --json OUT

The weekly stream's messages with their right topics stand for what users corrected (a share of each week's requests),
and wrong topics for what they corrected it from; everybody's way to learn starts from the same adapter of week 1.
After each week: exact match on test messages of all weeks so far and of each of them, and processor time. Merging: the
topics of weeks 1 and 2 are two clusters, with an adapter of half the rank each; their sum stands beside the union.
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from weekly import MAX_TOKENS, SHARED, Row, question, read, say

from logtune.app import build
from logtune.config import Config, TrainSettings, load
from logtune.ports import ChatCall, TrainingJob, TrainingPair
from logtune.records import Adapter, Json, Message
from logtune.stages import budget, train

CORRECTED = 0.6  # share of requests whose right answer becomes known
Pairs = Sequence[TrainingPair]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to make the next adapter."""

    name: str
    epochs: int
    goes_on: bool
    chosen: Callable[[Pairs, Pairs], Pairs]  # new pairs, old pairs -> what trains


def replayed(new: Pairs, old: Pairs) -> Pairs:
    """The new ones, and as many old ones."""
    return [*new, *random.Random(0).sample(list(old), min(len(new), len(old)))]


WAYS = (
    Way(name="anew", epochs=4, goes_on=False, chosen=lambda new, old: [*old, *new]),
    Way(name="on, new pairs and as many old", epochs=4, goes_on=True, chosen=replayed),
    Way(name="on, all pairs, half the epochs", epochs=2, goes_on=True, chosen=lambda new, old: [*old, *new]),
    Way(name="on, new pairs alone", epochs=4, goes_on=True, chosen=lambda new, old: list(new)),
)


def pairs_of(rows: Sequence[Row], topics: Sequence[str], seed: int) -> list[TrainingPair]:
    """What a week's users taught."""
    drawn, found = random.Random(seed), []
    for row in rows:
        if row.topic is not None and drawn.random() < CORRECTED:
            prompt = tuple(Message(**message) for message in question(row.text))
            wrong = drawn.choice([topic for topic in topics if topic != row.topic])
            found.append(TrainingPair(id=row.id, prompt=prompt, chosen=row.topic, rejected=wrong))
    return found


class Bench:
    """Trains and tests one way after the other."""

    def __init__(self, folder: Path, home: Path, seed: int, tests: int) -> None:
        self.config: Config = load(None, {"store.url": f"sqlite:///{home / 'go_on.db'}", "store.home": str(home)})
        self.tools = build.tools(self.config, say)
        stream, test, _ = read(folder)
        self.stream, self.seed = stream, seed
        self.test = random.Random(seed).sample(test, min(tests, len(test)))
        size = self.tools.lora_sizes["all-linear"]
        affordable = self.config.train.budget * self.tools.base_parameters / size
        self.rank = budget.ranks([budget.Wish(name="all")], affordable, self.config.train.max_rank)["all"]

    def week(self, number: int) -> list[TrainingPair]:
        rows = [row for row in self.stream if row.week == number]
        topics = sorted({row.topic for row in self.stream if row.topic and row.week <= number})
        return pairs_of(rows, topics, self.seed)

    def trained(
        self, pairs: Pairs, epochs: int, start: Adapter | None = None, rank: int | None = None
    ) -> tuple[Adapter, float]:  # fmt: skip
        """The last checkpoint, and the processor time it took."""
        settings = TrainSettings(epochs=epochs, seed=self.seed).model_dump(mode="json")
        job = TrainingJob(
            cluster_id="clu-all", name="all", kind="expert", base_path=self.tools.base_path,
            base_fingerprint=self.tools.base_fingerprint, pairs=tuple(pairs), out_dir=self.tools.adapters_dir,
            rank=rank or self.rank, settings=settings, seed=self.seed, start=start.path if start else "",
            start_id=start.id if start else "", learned=start.pair_ids if start else (),
            times=1 if start else 0,
        )  # fmt: skip
        began = time.process_time()
        return train.run(job, lambda line: None)[-1], time.process_time() - began

    def accuracy(self, adapter: Adapter, week: int) -> dict[str, float]:
        """Exact match by week of the topic."""
        return asyncio.run(self._accuracy(adapter, week))

    async def _accuracy(self, adapter: Adapter, week: int) -> dict[str, float]:
        await self.tools.adapters.load(adapter.path, str(Path(self.tools.adapters_dir) / adapter.path))
        seen = [row for row in self.test if cast("int", row["week"]) <= week]
        calls = [
            ChatCall(
                messages=tuple(Message(**m) for m in question(str(row["text"]))), max_tokens=MAX_TOKENS,
                model=adapter.path,
            )
            for row in seen
        ]  # fmt: skip
        replies = await asyncio.gather(*(self.tools.student.complete(call) for call in calls))
        await self.tools.adapters.unload(adapter.path)
        right = [reply.text.strip() == row["label"] for reply, row in zip(replies, seen, strict=True)]
        weeks = {
            str(w): [r for r, row in zip(right, seen, strict=True) if row["week"] == w] for w in range(1, week + 1)
        }
        return {"all": sum(right) / len(right), **{name: sum(found) / len(found) for name, found in weeks.items()}}


def run(bench: Bench, weeks: int, ways: Sequence[Way]) -> list[dict[str, Json]]:
    """One row a way and week."""
    first = bench.week(1)
    start, seconds = bench.trained(first, 4, None)
    rows: list[dict[str, Json]] = []
    began = {"way": "all", "week": 1, "pairs": len(first), "cpu_s": seconds, **bench.accuracy(start, 1)}
    rows.append(cast("dict[str, Json]", began))
    say(str(rows[-1]))
    for way in ways:
        adapter, old = start, first
        for week in range(2, weeks + 1):
            new = bench.week(week)
            chosen = way.chosen(new, old)
            adapter, seconds = bench.trained(chosen, way.epochs, adapter if way.goes_on else None)
            found = {"way": way.name, "week": week, "pairs": len(chosen), "cpu_s": round(seconds, 1)}
            rows.append(cast("dict[str, Json]", {**found, **bench.accuracy(adapter, week)}))
            say(str(rows[-1]))
            old = [*old, *new]
    return rows


def merged(bench: Bench) -> list[dict[str, Json]]:
    """One row for each of two adapters, for what they are together without training, and for the union trained."""
    parts = [bench.week(1), bench.week(2)]
    rows: list[dict[str, Json]] = []

    def told(name: str, pairs: int, adapter: Adapter, seconds: float) -> None:
        row = {"way": name, "pairs": pairs, "rank": adapter.rank, "cpu_s": round(seconds, 1)}
        rows.append(cast("dict[str, Json]", {**row, **bench.accuracy(adapter, 2)}))
        say(str(rows[-1]))

    halves = []
    for number, pairs in enumerate(parts, start=1):
        adapter, seconds = bench.trained(pairs, 4, rank=bench.rank // 2)
        halves.append(adapter)
        told(f"topics of week {number} alone", len(pairs), adapter, seconds)
    for name, weight in (("sum of both", 1.0), ("mean of both", 0.5)):
        told(name, 0, _put_together(bench, halves, weight), 0.0)
    both = [pair for pairs in parts for pair in pairs]
    told("union, trained", len(both), *bench.trained(both, 4))
    return rows


def _put_together(bench: Bench, halves: Sequence[Adapter], weight: float) -> Adapter:
    """An adapter that is the weighted sum of others, exactly: their ranks add up."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    home, names = Path(bench.tools.adapters_dir), [f"part{number}" for number in range(len(halves))]
    model = AutoModelForCausalLM.from_pretrained(bench.tools.base_path)
    tuned = PeftModel.from_pretrained(model, str(home / halves[0].path), adapter_name=names[0])
    for name, half in zip(names[1:], halves[1:], strict=True):
        tuned.load_adapter(str(home / half.path), adapter_name=name)
    tuned.add_weighted_adapter(names, [weight] * len(names), "merged", combination_type="cat")
    folder = home / f"merged-{weight}"
    tuned.save_pretrained(str(folder), selected_adapters=["merged"])
    (folder / "merged").rename(home / f"together-{weight}")
    note = {"id": folder.name, "base": bench.tools.base_fingerprint}
    (home / f"together-{weight}" / "logtune.json").write_text(json.dumps(note), encoding="utf-8")
    rank = sum(half.rank for half in halves)
    return replace(halves[0], id=folder.name, path=f"together-{weight}", rank=rank)


def main() -> None:
    """Parse the options, run, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weeks", type=int, default=3)
    parser.add_argument("--merge", action="store_true", help="merge or train the union, in place of the weeks")
    parser.add_argument("--ways", type=int, nargs="*", help="numbers of the ways, from 0", default=[*range(len(WAYS))])
    parser.add_argument("--tests", type=int, default=300, help="test messages, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=SHARED / "weekly_stream_banking77")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options.data, Path(folder), options.seed, options.tests)
        chosen = [WAYS[number] for number in options.ways]
        rows = merged(bench) if options.merge else run(bench, options.weeks, chosen)
    text = json.dumps({"rows": rows, "seed": options.seed, "rank": bench.rank, "versions": build.versions()}, indent=1)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
