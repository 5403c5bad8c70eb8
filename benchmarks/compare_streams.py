"""Streams of real messages over four weeks: banking77, clinc150 and snips_slots, each with its users and its checks.

A week brings new topics, a quarter of its honest requests comes back to earlier ones, and about a sixth is labelled
noise. What is drawn is drawn by a hash of its id: the same requests on every machine, whatever the seed of a run.
Held-out requests are a fixed number of each topic (of banking77 all, 21 to 34), of the sets' own test files; none is
a request of the stream.
"""

import gzip
import json
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import users
from compare_types import Case, Reaction, Request, Stream

from logtune.records import Json, Message
from logtune.statistics import uniform

WEEKS = 4
WEEK_S = 7 * 86_400.0
START = 1_767_571_200.0  # a Monday: 2026-01-05
BANKING_SYSTEM = "You sort customer messages of a bank app. Answer with the topic of the message, nothing else."
ASSISTANT_SYSTEM = "You sort requests to a voice assistant. Answer with the topic of the request, nothing else."
SLOTS_SYSTEM = "You read requests to a voice assistant and give the data that is in them."
BANKING_TEST, CLINC_TEST, SNIPS_TEST = 40, 8, 24  # held-out requests of a topic, if there are so many
LONGEST_JSON = 100  # characters of a right answer to a snips request; more takes too long here
ATTACKS = ("jailbreak", "prompt_injection", "harmful_request", "toxic", "spam", "malformed", "pii")  # of filter_bench

Row = Mapping[str, Json]
Check = Callable[[Case, str], float]
React = Callable[[Case, str, random.Random], Reaction | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """What a week is made of; the defaults are those of weekly_stream_banking77."""

    requests: int = 144
    noise: int = 24  # of these
    earlier: int = 36  # of these, from the second week on: topics of the weeks before


MIX = Mix()


@dataclass(frozen=True, slots=True, kw_only=True)
class RealStream:
    """A stream, made; see `compare_types.Stream`."""

    name: str
    max_tokens: int
    cases: tuple[Case, ...]
    held_out: tuple[Case, ...]
    topics: tuple[str, ...]
    checked: Check
    reacts: React
    weeks: int = WEEKS
    needs_teacher: str = ""

    def check(self, case: Case, answer: str) -> float:
        """How good an answer is, 0..1."""
        return self.checked(case, answer)

    def react(self, case: Case, answer: str, draw: random.Random) -> Reaction | None:
        """What the user of `case` does about an answer."""
        return self.reacts(case, answer, draw)


def rows(path: Path) -> list[dict[str, Json]]:
    """The records of a JSONL file, gzipped or not."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def drawn(items: Iterable[Row], *purpose: str) -> list[Row]:
    """All items in an order that depends on their ids and the purpose alone."""
    return sorted(items, key=lambda row: uniform(*purpose, str(row["id"])))


def request(row: Row, week: int, at: float, system: str) -> Request:
    """A record as a request of a user of its own."""
    messages = (Message(role="system", content=system), Message(role="user", content=str(row["text"])))
    return Request(id=str(row["id"]), week=week, messages=messages, user=f"user-{row['id']}", at=at)


def in_weeks(cases: Sequence[Case], week: int, name: str) -> list[Case]:
    """The cases of a week in a drawn order, spread evenly over it."""
    mixed = sorted(cases, key=lambda case: uniform(name, "order", case.request.id))
    start = START + (week - 1) * WEEK_S
    times = [start + WEEK_S * number / len(mixed) for number in range(len(mixed))]
    return [replace(c, request=replace(c.request, week=week, at=at)) for c, at in zip(mixed, times, strict=True)]


def repeated(stream: Stream, week: int) -> list[Case]:
    """A week after the last: nothing is new, a sample of all weeks before comes back from other users."""
    size = math.ceil(len(stream.cases) / stream.weeks)
    chosen = sorted(stream.cases, key=lambda case: uniform(stream.name, f"week {week}", case.request.id))[:size]
    again = [
        replace(c, request=replace(c.request, id=f"{c.request.id}-w{week}", user=f"{c.request.user}-w{week}"))
        for c in chosen
    ]
    return in_weeks(again, week, stream.name)


def of_week(stream: Stream, week: int) -> list[Case]:
    """The cases of a week; after the last new one the stream repeats itself."""
    if week > stream.weeks:
        return repeated(stream, week)
    return [case for case in stream.cases if case.request.week == week]


def composed(
    name: str, system: str, by_week: Sequence[Sequence[tuple[str, Row]]], noise: Sequence[tuple[str, Row]],
    truth: Callable[[Row], str | None], mix: Mix = MIX,
) -> list[Case]:  # fmt: skip
    """Weeks of requests: new topics, some of earlier ones, noise. `by_week`: (topic, record)* of each week's topics."""
    pools = [sorted(pool, key=lambda item: uniform(name, str(item[1]["id"]))) for pool in by_week]
    found: list[Case] = []
    for week in range(1, len(pools) + 1):
        earlier = mix.earlier if week > 1 else 0
        chosen = [pools[week - 1].pop() for _ in range(min(mix.requests - mix.noise - earlier, len(pools[week - 1])))]
        for number in range(earlier):
            pool = pools[number % (week - 1)]
            if pool:
                chosen.append(pool.pop())
        honest = [Case(request=request(row, week, 0.0, system), topic=t, truth=truth(row)) for t, row in chosen]
        bad = [
            Case(request=request(row, week, 0.0, system), topic=None, truth=None, noise=label)
            for label, row in noise[(week - 1) * mix.noise : week * mix.noise]
        ]
        found += in_weeks([*honest, *bad], week, name)
    return found


def held(
    name: str, system: str, items: Iterable[tuple[str, Row]], weeks: Mapping[str, int], each: int,
    truth: Callable[[Row], str | None],
) -> tuple[Case, ...]:  # fmt: skip
    """`each` held-out requests of every topic, drawn by their ids."""
    by_topic: dict[str, list[Row]] = {topic: [] for topic in weeks}
    for topic, row in items:
        if topic in by_topic:
            by_topic[topic].append(row)
    return tuple(
        Case(request=request(row, weeks[topic], 0.0, system), topic=topic, truth=truth(row))
        for topic, found in by_topic.items()
        for row in drawn(found, name, "held out")[:each]
    )


def attacks(data: Path, name: str, count: int) -> list[tuple[str, Row]]:
    """Noise of the filter sets, `ATTACKS` in turn: (label, record)*."""
    found = rows(data / "filter_bench" / "dev.jsonl.gz")
    pools = {label: drawn((row for row in found if row["label"] == label), name) for label in ATTACKS}
    turns = [pools[ATTACKS[n % len(ATTACKS)]] for n in range(count)]
    return [(str(pool[0]["label"]), pool.pop()) for pool in turns]


def off_topic(data: Path, name: str, count: int) -> list[tuple[str, Row]]:
    """Noise that is nobody's business here: out-of-scope queries of clinc150."""
    files = ("oos_train.jsonl", "oos_val.jsonl")
    found = [row for file in files for row in rows(data / "clinc150" / file)]
    return [("out_of_scope", row) for row in drawn(found, name)[:count]]


def alternated(first: Sequence[tuple[str, Row]], second: Sequence[tuple[str, Row]]) -> list[tuple[str, Row]]:
    """Both kinds of noise in every week, in the shares that they have."""
    both = [
        *((n / len(first), item) for n, item in enumerate(first)),
        *((n / len(second), i) for n, i in enumerate(second)),
    ]
    return [item for _, item in sorted(both, key=lambda pair: pair[0])]


def exact(case: Case, answer: str) -> float:
    """1 where the answer is the right one and nothing else."""
    return float(case.truth is not None and answer.strip() == case.truth)


def sorted_by(topics: Sequence[str], manner: users.Manner) -> React:
    """Users who know the right topic."""

    def react(case: Case, answer: str, draw: random.Random) -> Reaction | None:
        wanted = users.Wanted(text=case.request.text, truth=case.truth, others=topics)
        return users.react(wanted, exact(case, answer) == 1, draw, manner)

    return react


def banking(data: Path) -> RealStream:
    """weekly_stream_banking77 as it is: five new intents a week, every kind of noise."""
    folder = data / "weekly_stream_banking77"
    system = BANKING_SYSTEM
    cases: list[Case] = []
    listed = rows(folder / "stream.jsonl")
    for week in sorted({int(str(row["week"])) for row in listed}):
        mine = [row for row in listed if row["week"] == week]
        for number, row in enumerate(mine):
            at = START + WEEK_S * (week - 1 + number / len(mine))
            topic = None if row["gold_intent"] is None else str(row["gold_intent"])
            noise = None if row["noise"] is None else str(row["noise"])
            cases.append(Case(request=request(row, week, at, system), topic=topic, truth=topic, noise=noise))
    tests = rows(folder / "test.jsonl")
    weeks = {str(row["label"]): int(str(row["week"])) for row in tests}
    labelled = [(str(row["label"]), row) for row in tests]
    test = held("weekly_stream_banking77", system, labelled, weeks, BANKING_TEST, lambda row: str(row["label"]))
    topics = tuple(sorted({case.topic for case in cases if case.topic}))
    return RealStream(
        name="weekly_stream_banking77", max_tokens=16, cases=tuple(cases), held_out=test, topics=topics,
        checked=exact, reacts=sorted_by(topics, users.Manner()), weeks=max(case.request.week for case in cases),
    )  # fmt: skip


def clinc(data: Path) -> RealStream:
    """A domain of clinc150 a week, the four that a hash of their names puts first; out-of-scope queries as noise."""
    folder, name = data / "clinc150", "clinc150"
    domains = json.loads((folder / "domains.json").read_text(encoding="utf-8"))
    chosen = sorted(domains, key=lambda domain: uniform(name, domain))[:WEEKS]
    weeks = {intent: week for week, domain in enumerate(chosen, start=1) for intent in domains[domain]}
    train = [(str(row["label"]), row) for row in rows(folder / "train.jsonl.gz")]
    by_week = [[item for item in train if weeks.get(item[0]) == week] for week in range(1, WEEKS + 1)]
    third = WEEKS * MIX.noise // 3
    noise = alternated(off_topic(data, name, WEEKS * MIX.noise - third), attacks(data, name, third))
    cases = composed(name, ASSISTANT_SYSTEM, by_week, noise, lambda row: str(row["label"]))
    tests = [(str(row["label"]), row) for row in rows(folder / "test.jsonl")]
    test = held(name, ASSISTANT_SYSTEM, tests, weeks, CLINC_TEST, lambda row: str(row["label"]))
    topics = tuple(sorted(weeks))
    return RealStream(
        name=name, max_tokens=16, cases=tuple(cases), held_out=test, topics=topics, checked=exact,
        reacts=sorted_by(topics, users.Manner()),
    )  # fmt: skip


SLOT_MANNER = users.Manner(
    names=(
        "Answer only with JSON: {topic}",
        "it should be {topic}",
        "I need it as JSON, so {topic}",
        "No, the right answer is {topic}",
        "just the JSON please, here {topic}",
    ),
    complains=(
        "Answer only with JSON.",
        "Just the JSON, no text around it.",
        "I need JSON with the intent and its slots",
        "That's wrong.",
        "only JSON please",
        "This doesn't help.",
        "not what I asked for",
        "the values must be the words that I used",
    ),
    reasks=("Again: {text}", "{text} As JSON please.", "I asked: {text}", "{text} Only JSON."),
    underscores=True,
)
SNIPS_WEEKS: Mapping[str, int] = {  # in the order of their names
    "AddToPlaylist": 1, "BookRestaurant": 1, "GetWeather": 2, "PlayMusic": 2, "RateBook": 3, "SearchCreativeWork": 3,
    "SearchScreeningEvent": 4,
}  # fmt: skip


def slot_f1(case: Case, answer: str) -> float:
    """F1 of intent and slots, 0..1, where the answer is one JSON object and nothing else; else 0."""
    try:
        said = json.loads(answer.strip())
    except ValueError:
        return 0.0
    if not isinstance(said, dict) or case.truth is None:
        return 0.0
    have = {(key, json.dumps(value, ensure_ascii=False)) for key, value in said.items()}
    want = {(key, json.dumps(value, ensure_ascii=False)) for key, value in json.loads(case.truth).items()}
    return 2 * len(have & want) / (len(have) + len(want)) if have else 0.0


def snips(data: Path) -> RealStream:
    """snips_slots: an intent with its slots as JSON, short ones; two intents a week, users want nothing but JSON."""
    folder, name = data / "snips_slots", "snips_slots"
    train = [
        (str(row["intent"]), row)
        for row in rows(folder / "train.jsonl.gz")
        if len(str(row["target_json"])) <= LONGEST_JSON
    ]
    tests = [
        (str(row["intent"]), row) for row in rows(folder / "test.jsonl") if len(str(row["target_json"])) <= LONGEST_JSON
    ]
    by_week = [[item for item in train if SNIPS_WEEKS[item[0]] == week] for week in range(1, WEEKS + 1)]
    half = WEEKS * MIX.noise // 2
    noise = alternated(off_topic(data, name, half), attacks(data, name, half))
    cases = composed(name, SLOTS_SYSTEM, by_week, noise, lambda row: str(row["target_json"]))
    test = held(name, SLOTS_SYSTEM, tests, SNIPS_WEEKS, SNIPS_TEST, lambda row: str(row["target_json"]))
    others = tuple(case.truth for case in cases if case.truth)

    def react(case: Case, answer: str, draw: random.Random) -> Reaction | None:
        wanted = users.Wanted(text=case.request.text, truth=case.truth, others=others)
        return users.react(wanted, slot_f1(case, answer) == 1, draw, SLOT_MANNER)

    return RealStream(
        name=name, max_tokens=64, cases=tuple(cases), held_out=test, topics=tuple(SNIPS_WEEKS), checked=slot_f1,
        reacts=react,
    )  # fmt: skip
