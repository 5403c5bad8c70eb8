"""Systems that make a model better from its own logs, compared week by week on streams of real messages.

    python benchmarks/compare.py --quick                                two weeks of banking77, four systems
    python benchmarks/compare.py --out DIR --json OUT                   everything, seed 0; hours
    python benchmarks/compare.py --out DIR --json OUT --only-figures    what was measured so far
    python benchmarks/compare.py --out DIR --json OUT --keep            beside what OUT has of other streams and systems
    python benchmarks/compare.py --streams weekly_stream_banking77 --weeks 6 --seeds 0 1 2 --out DIR

Each system serves a stream of its own users, who react to what it answered, and learns from nothing else. After each
week: quality on held-out requests of all topics so far, prompt tokens, latency, what learning took, and but for
`--quick` what the model still knows. Results are saved by stream, system, seed and week, and nothing that exists is run
again: a comparison can be stopped at any point, and at most one week of one system is lost. `--model` takes a folder in
Hugging Face format or the URL of an OpenAI-compatible server with runtime LoRA (then `--set model.base=FOLDER` names
its weights); `--data` a folder of data sets of the same shape; `--teacher` the URL of a stronger model. What that has
said to one system is remembered for the next: in the first week all ask it the same.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import compare_figures
import compare_page
import retention
from compare_engine import LocalEngine, Memory
from compare_run import Bench, Run, run
from compare_streams import RealStream, banking, clinc, drawn, rows, snips
from compare_style import house_style
from compare_types import Stream, Unavailable

from logtune.app import build
from logtune.config import Config, load
from logtune.errors import LogtuneError
from logtune.ids import digest
from logtune.records import Json

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
STREAMS: Mapping[str, Callable[[Path], RealStream]] = {
    "weekly_stream_banking77": banking, "clinc150": clinc, "snips_slots": snips, "house_style": house_style,
}  # fmt: skip
QUICK = ("base", "few_shot", "memory", "logtune")
RETENTION_EACH = 275  # questions of a task, drawn by a hash of their ids: nearly all that are there


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is compared."""

    streams: Sequence[str]
    systems: Sequence[str]
    weeks: int
    seeds: Sequence[int]


def say(line: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def main() -> None:
    """Parse the options, run what is missing, write the figures."""
    options = _options()
    plan = _plan(options)
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder)
        if options.out is None:
            say("without --out DIR nothing is kept: stopped, it begins anew")
        whole, started = not compare_figures.read(out) and not options.only_figures, time.monotonic()
        broken = [] if options.only_figures else asyncio.run(compare(plan, options, out))
        found = compare_figures.read(out)
        figures = compare_figures.figures(found)
        if options.quick and whole and not broken:
            figures["quick_minutes"] = round((time.monotonic() - started) / 60, 1)
        if options.plots:
            compare_page.write(out, found, figures)
            say(f"plots and {out / 'index.html'}")
    if options.keep and options.json.exists():
        figures = compare_figures.beside(figures, json.loads(options.json.read_text(encoding="utf-8")))
    text = json.dumps(figures, indent=1)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)
    if broken:
        raise SystemExit(f"not finished: {', '.join(broken)}; the same command goes on with them")


async def compare(plan: Plan, options: argparse.Namespace, out: Path) -> list[str]:
    """Run what has no result yet: stream by stream and seed by seed, all systems of one before the next.

    What fails, as where a teacher does not answer, is left where it is for the next run; returns what that was.
    """
    from compare_systems import SYSTEMS

    unknown = sorted({*plan.systems} - {*SYSTEMS})
    if unknown:
        raise SystemExit(f"no system is called {', '.join(unknown)}; there are: {', '.join(SYSTEMS)}")
    settings = _settings(options)
    config = load(None, {**settings, "store.home": str(out / "engine"), "store.url": f"sqlite:///{out / 'replies.db'}"})
    streams = [_stream(name, options) for name in plan.streams]
    memory, broken = Memory(out / "answers.db"), list[str]()
    replies = build.store(config) if options.teacher else None
    bench = Bench(
        engine=LocalEngine(build.tools(config, say), memory), teacher=options.teacher,
        questions=() if options.quick else _questions(options.data), settings=settings, about=_about(config), say=say,
        replies=replies,
    )  # fmt: skip
    for stream in streams:
        if stream is None:
            continue
        for seed in plan.seeds:
            for system in plan.systems:
                what = Run(
                    stream=stream, system=system, make=SYSTEMS[system], seed=seed, weeks=plan.weeks, out=out
                )  # fmt: skip
                try:
                    await run(what, bench)
                except Unavailable as reason:
                    say(f"{stream.name}: {system} is left out: {reason}")
                except LogtuneError as error:
                    broken.append(f"{stream.name} {system} seed {seed}")
                    say(f"{broken[-1]} failed, and the others go on: {error}")
    memory.close()
    if replies is not None:
        replies.close()
    return broken


def _stream(name: str, options: argparse.Namespace) -> Stream | None:
    try:
        stream = STREAMS[name](options.data)
    except FileNotFoundError as error:
        raise SystemExit(
            f"{error.filename} is not there, and {name} needs it: --data DIR names the data sets"
        ) from error
    if stream.needs_teacher and not options.teacher:
        say(f"{name} is left out: {stream.needs_teacher}")
        return None
    return stream


def _settings(options: argparse.Namespace) -> dict[str, Json]:
    """Settings of logtune for the model, the teacher, and what `--set` says."""
    found: dict[str, Json] = dict(pair.split("=", 1) for pair in options.set)
    if options.model:
        url = options.model.startswith(("http://", "https://"))
        found |= {"model.engine": "openai", "model.url": options.model} if url else {"model.base": options.model}
    if options.teacher:
        found["teacher.url"] = options.teacher
    return found


def _questions(data: Path) -> list[retention.Question]:
    """Multiple-choice questions for retention, a fixed number of each task."""
    path = data / "retention_mc" / "questions.jsonl"
    if not path.exists():
        say(f"{path} is not there: retention is not measured")
        return []
    found = rows(path)
    by_task = ([row for row in found if row["task"] == task] for task in retention.TASKS)
    return [row for mine in by_task for row in drawn(mine, "retention")[:RETENTION_EACH]]


def _about(config: Config) -> Mapping[str, Json]:
    """What a result depends on beside its seed: the model, the libraries, and this very code."""
    sources = sorted(Path(build.__file__).parents[1].rglob("*.py"))
    code = digest([source.read_text(encoding="utf-8") for source in sources])
    return {"model": config.model.url or config.model.base, "versions": build.versions(), "code": code}


def _plan(options: argparse.Namespace) -> Plan:
    if options.quick:
        return Plan(
            streams=options.streams[:1] if options.streams else ["weekly_stream_banking77"],
            systems=options.systems or QUICK, weeks=2, seeds=[0],
        )  # fmt: skip
    from compare_systems import SYSTEMS

    return Plan(
        streams=options.streams or list(STREAMS), systems=options.systems or list(SYSTEMS), weeks=options.weeks,
        seeds=options.seeds,
    )  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", nargs="+", choices=list(STREAMS), help="all by default")
    parser.add_argument("--systems", nargs="+", help="all by default; compare_systems.py lists them")
    parser.add_argument("--weeks", type=int, default=4, help="beyond four the stream repeats itself")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--quick", action="store_true", help=f"one stream, two weeks: {', '.join(QUICK)}")
    parser.add_argument("--only-figures", action="store_true", help="run nothing; figures of what is in --out")
    parser.add_argument("--out", type=Path, help="results, and what a later run goes on from")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--keep", action="store_true", help="keep what only --json holds, of other streams and systems")
    parser.add_argument("--plots", action="store_true", help="write plots (PNG) and index.html into --out")
    parser.add_argument("--data", type=Path, default=DATA, help="data sets, a folder each")
    parser.add_argument("--model", help="a folder in Hugging Face format, or a server's URL with /v1")
    parser.add_argument("--teacher", help="URL with /v1 of a stronger model")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of logtune")
    options = parser.parse_args()
    if options.keep and not options.json:
        parser.error("--keep needs --json OUT, whose figures it keeps")
    return options


if __name__ == "__main__":
    main()
