"""One system through the weeks of one stream: its users, its learning, and the figures after each week, one file each.

    OUT/STREAM/SYSTEM/seed-S/week-N.json   what was measured; it is written last, so where it is the week is over
    OUT/STREAM/SYSTEM/seed-S/kept-N        the system's folder as it was then: the next week begins with a copy of it

A week that was stopped, however, begins again from the folder of the week before. Nothing else is lost.
"""

import json
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from compare_engine import LocalEngine, chosen
from compare_streams import of_week
from compare_types import Case, Factory, Request, Setting, Stream, System
from retention import Question, asked

from logtune.edges.store import Store
from logtune.records import Json

PROBED = 8  # held-out requests that are asked one at a time for the latency
VERSION = 1  # of the files


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What is run: one system on one stream with one seed."""

    stream: Stream
    system: str
    make: Factory
    seed: int
    weeks: int
    out: Path

    @property
    def folder(self) -> Path:
        """Where its results and its state are."""
        return self.out / self.stream.name / self.system / f"seed-{self.seed}"

    def result(self, week: int) -> Path:
        """The file of a week."""
        return self.folder / f"week-{week}.json"

    def kept(self, week: int) -> Path:
        """The system's folder after a week; of week 0 there is none."""
        return self.folder / f"kept-{week}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What all runs share."""

    engine: LocalEngine
    questions: Sequence[Question]  # of retention; empty: it is not measured
    teacher: str | None
    settings: Mapping[str, Json]
    about: Mapping[str, Json]  # model, versions and processor, for every file
    say: Callable[[str], None]
    replies: Store | None = None  # of the teacher; what it said to one system, it need not say again to the next


async def run(what: Run, bench: Bench) -> None:
    """All weeks that have no result yet, each from the folder of the week before."""
    for week in range(1, what.weeks + 1):
        if what.result(week).exists():
            _same_settings(what.result(week), bench)
            continue
        state = _begin(what, week)
        setting = Setting(
            folder=state, engine=bench.engine, seed=what.seed, max_tokens=what.stream.max_tokens, teacher=bench.teacher,
            settings=bench.settings, say=bench.say, replies=bench.replies,
        )  # fmt: skip
        system = what.make(setting)
        try:
            found = await one_week(system, what, week, bench)
        finally:
            await system.close()
        _end(what, week, state, found)
        bench.say(f"{what.stream.name} {what.system} seed {what.seed} week {week}: {told(found)}")


def _same_settings(result: Path, bench: Bench) -> None:
    """A result that is not run again was measured as it would be now; other code is said, not refused."""
    found = json.loads(result.read_text(encoding="utf-8"))
    for key, now in (("model", bench.about.get("model")), ("settings", dict(bench.settings))):
        if found.get(key, now) != now:
            raise SystemExit(
                f"{result} was measured with {key} {json.dumps(found[key])}, and now it is {json.dumps(now)}: "
                "take another folder for --out, or run with what it was measured with"
            )
    if found.get("code") != bench.about.get("code"):
        bench.say(f"{result}: measured with other code of logtune, and kept")


def _begin(what: Run, week: int) -> Path:
    """The system's folder as the week before left it."""
    state = what.folder / "state"
    shutil.rmtree(state, ignore_errors=True)
    if week == 1:
        state.mkdir(parents=True)
        return state
    if not what.kept(week - 1).exists():
        raise SystemExit(f"{what.kept(week - 1)} is gone: take {what.folder} away to begin with week 1")
    shutil.copytree(what.kept(week - 1), state)
    return state


def _end(what: Run, week: int, state: Path, found: Mapping[str, Json]) -> None:
    """Keep the folder, then write the file, each at once; then nobody needs the folder of the week before."""
    shutil.rmtree(what.kept(week), ignore_errors=True)
    state.rename(what.kept(week))
    draft = what.result(week).with_suffix(".part")
    with draft.open("w", encoding="utf-8") as file:
        file.write(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.rename(what.result(week))
    shutil.rmtree(what.kept(week - 1), ignore_errors=True)


async def one_week(system: System, what: Run, week: int, bench: Bench) -> dict[str, Json]:
    """A week of traffic, the system's learning, and what it is worth then."""
    stream, started = what.stream, time.monotonic()
    traffic = await live(system, stream, of_week(stream, week), what.seed, week)
    bench.say(f"{stream.name} {what.system} seed {what.seed} week {week}: {traffic}")
    learnt = await system.learn(week)
    tested = [case for case in stream.held_out if case.request.week <= week]
    requests = [replace(case.request, user=f"test-{case.request.id}") for case in tested]
    replies = await system.answer(requests, record=False)
    with bench.engine.forgetful():
        probed = [(await system.answer([request], record=False))[0] for request in _spread(requests, PROBED)]
    kept = await retention(system, bench) if bench.questions else None
    return {
        "version": VERSION, "stream": stream.name, "system": what.system, "seed": what.seed, "week": week,
        "scores": {c.request.id: stream.check(c, r.text) for c, r in zip(tested, replies, strict=True)},
        "topic_weeks": {case.request.id: case.request.week for case in tested},
        "answers": {c.request.id: r.text for c, r in zip(tested, replies, strict=True)},
        "sources": dict(Counter(reply.source for reply in replies)),
        "prompt_tokens": _mean([r.prompt_tokens for r in replies]),
        "completion_tokens": _mean([r.completion_tokens for r in replies]),
        "latency_ms": float(np.median([reply.latency_ms for reply in probed])),
        "traffic": traffic, "learnt": cast("dict[str, Json]", asdict(learnt)), "retention": kept,
        "seconds": round(time.monotonic() - started, 1), "measured": time.strftime("%Y-%m-%d"),
        "settings": dict(bench.settings), **bench.about,
    }  # fmt: skip


async def live(system: System, stream: Stream, cases: Sequence[Case], seed: int, week: int) -> dict[str, Json]:
    """All users of a week ask, see their answers and react; what came in, in numbers."""
    replies = await system.answer([case.request for case in cases], record=True)
    kinds: Counter[str] = Counter()
    for case, reply in zip(cases, replies, strict=True):
        reaction = stream.react(case, reply.text, random.Random(f"{seed} {week} {case.request.id}"))
        await system.tell(case.request, reply, reaction)
        kinds[reaction.kind if reaction else "silence"] += 1
    honest = [stream.check(c, r.text) for c, r in zip(cases, replies, strict=True) if c.noise is None]
    return {
        "requests": len(cases), "noise": sum(case.noise is not None for case in cases), "quality": _mean(honest),
        "reactions": dict(kinds),
    }  # fmt: skip


async def retention(system: System, bench: Bench) -> dict[str, Json]:
    """Question -> 1 where the right choice is the likeliest, as the system would ask it; and the same of the base."""
    prepared = await system.prepare([asked(question) for question in bench.questions])
    values = chosen(bench.engine, bench.questions, prepared)
    return {str(question["id"]): value for question, value in zip(bench.questions, values, strict=True)}


def _spread(items: Sequence[Request], count: int) -> list[Request]:
    step = max(1, len(items) // count)
    return list(items[::step][:count])


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def told(found: Mapping[str, Json]) -> str:
    """A week in a line."""
    scores = cast("dict[str, float]", found["scores"])
    learnt = cast("dict[str, Json]", found["learnt"])
    return (
        f"quality {np.mean(list(scores.values())):.3f} on {len(scores)}, {found['prompt_tokens']:.0f} prompt tokens, "
        f"{found['seconds']:.0f} s; {learnt['note']}"
    )
