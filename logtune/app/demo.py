"""`logtune demo`: the main job on our own sample, with the real parts, in minutes on two processor cores.

sample -> the base model's answers -> the riders' feedback -> one cycle -> the gateway -> the held-out messages again

Every number it shows is computed by the run that shows it. A run starts anew; only the converted base model is kept.
"""

import asyncio
import json
import shutil
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from logtune.app import demo_sample as sample
from logtune.app.asgi import Receive, Scope, Send
from logtune.app.demo_sample import Sample
from logtune.app.demo_story import Outcome, figures, tell
from logtune.config import Config, load
from logtune.errors import InputError, ModelError
from logtune.ports import Chat, ChatCall, Tools
from logtune.records import DAY_S, Decision, Feedback, Interaction, Json, LogRecord, Message

if TYPE_CHECKING:
    from logtune.edges.store import Store

Said = Callable[[str], None]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
T = TypeVar("T")

HEADER = "# Written by logtune demo, which replaces it, the store and the adapters beside it."
WEEK_S = 7 * DAY_S  # the messages come in over a week
AGAIN_S = 60.0  # from an answer to the same question in other words
EVERY_S = 5.0  # between two lines of progress
AT_ONCE = 32  # requests under way at the gateway
ANSWER_S = 300.0  # longest wait for one answer of the gateway


def run(
    home: Path, out: Path, progress: Said, say: Said | None = None, settings: Mapping[str, Json] | None = None
) -> dict[str, Json]:
    """Run the demo in the folder `home`, write its figures to `out` and return them.

    `progress` gets a line every few seconds, `say` (default: `progress`) the lines of the result; `settings` are dotted
    overrides. InputError when `home` holds somebody else's logtune.toml.
    """
    started = time.monotonic()
    out.unlink(missing_ok=True)  # a run that is interrupted leaves no result
    outcome = _play(home, prepare(home, settings or {}), started, progress)
    found = figures(outcome)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for line in tell(outcome, out):
        (say or progress)(line)
    return found


def prepare(home: Path, settings: Mapping[str, Json]) -> Config:
    """The demo's settings, written to `home`, and no trace of an earlier run but the converted base model."""
    file, state = home / "logtune.toml", home / "state"
    if file.exists() and not file.read_text(encoding="utf-8").startswith(HEADER):
        raise InputError(f"{file} was not written by the demo", "give the demo its own folder: logtune demo --dir NAME")
    home.mkdir(parents=True, exist_ok=True)
    for old in (*home.glob("demo.db*"), home / "report.html"):
        old.unlink(missing_ok=True)
    shutil.rmtree(state / "adapters", ignore_errors=True)
    url, folder = json.dumps(f"sqlite:///{(home / 'demo.db').resolve()}"), json.dumps(str(state.resolve()))
    file.write_text(f"{HEADER}\n[store]\nurl = {url}\nhome = {folder}\n", encoding="utf-8")
    return load(file, settings)


def _play(home: Path, config: Config, started: float, progress: Said) -> Outcome:
    from logtune import pipeline
    from logtune.app import build, findings, report

    rows = sample.load()
    log, held_out = [row for row in rows if not row.held_out], tuple(row for row in rows if row.held_out)
    store = build.store(config)
    try:
        progress("1/5 the base model is loaded; the first time it is converted")
        tools = build.tools(config, progress=progress)
        progress(f"2/5 the base model answers {len(log)} messages of a week, and their riders react")
        logs, feedback = asyncio.run(collect(tools.student, log, time.time() - WEEK_S, progress))
        store.add_logs(logs)
        store.put_feedback(feedback)
        progress(f"3/5 the base model answers {len(held_out)} held-out messages, for comparison")
        before = asyncio.run(ask(tools.student, [sample.question(row.text) for row in held_out], progress))
        progress(f"4/5 one cycle learns from {len(logs)} logs and {len(feedback)} pieces of feedback")
        receipt = pipeline.run_cycle(store, tools, config, progress)
        progress(f"5/5 the gateway serves what was learned, and {len(held_out)} held-out messages are asked again")
        after = asyncio.run(serve_and_ask(store, tools, config, held_out, progress))
        page = report.write(store, home / "report.html", config, receipt.cycle_id)
        return Outcome(
            held_out=held_out, before=tuple(before), after=tuple(after), log={row.id: row for row in log},
            found=findings.gather(store, receipt.cycle_id, tools.base_parameters), noise=noise(store, receipt.cycle_id),
            report=page, home=home, seconds=time.monotonic() - started,
        )  # fmt: skip
    finally:
        store.close()


def noise(store: "Store", cycle_id: str) -> dict[str, str]:
    """Record id -> reason, of everything that the cycle's filter called noise."""
    from logtune.stages.filter import NOISE_REASONS

    logs = {item.id: item.log_id for item in store.list(Interaction, limit=None, cycle_id=cycle_id)}
    decisions = store.list(Decision, limit=None, cycle_id=cycle_id)
    return {
        logs[item.interaction_id]: item.reason for item in decisions if item.reason in NOISE_REASONS | {"duplicate"}
    }


async def collect(
    chat: Chat, rows: Sequence[Sample], first_at: float, progress: Said
) -> tuple[list[LogRecord], list[Feedback]]:
    """A week of logs from `first_at` (seconds since 1970) on: real answers, and what each rider made of them."""
    step = WEEK_S / max(1, len(rows))
    asked = [sample.question(row.text) for row in rows]
    answers = await ask(chat, asked, progress)
    met = [(row, said, first_at + number * step) for number, (row, said) in enumerate(zip(rows, answers, strict=True))]
    logs = [sample.logged(row, sample.question(row.text), said, at) for row, said, at in met]
    again = [item for item in met if sample.wants_reask(*item[:2])]
    seconds = [sample.question(row.text, said, row.words) for row, said, _ in again]
    for (row, _, at), asked_again, said in zip(again, seconds, await ask(chat, seconds, progress), strict=True):
        logs.append(sample.logged(row, asked_again, said, at + AGAIN_S, part=2))
    return logs, [item for row, said, at in met if (item := sample.reaction(row, said, at)) is not None]


async def ask(chat: Chat, questions: Sequence[Sequence[Message]], progress: Said) -> list[str]:
    """The greedy answers, in order; asked all at once, so that the engine can batch them."""
    calls = [ChatCall(messages=tuple(messages), max_tokens=sample.MAX_TOKENS) for messages in questions]

    async def one(call: ChatCall) -> str:
        return (await chat.complete(call)).text

    return await counted_off([one(call) for call in calls], progress)


async def counted_off(work: Sequence[Awaitable[T]], progress: Said) -> list[T]:
    """The results, in order, with a line every few seconds; the first failure ends all."""
    done, told = 0, time.monotonic()

    async def one(item: Awaitable[T]) -> T:
        nonlocal done, told
        result = await item
        done += 1
        if time.monotonic() - told >= EVERY_S:
            told = time.monotonic()
            progress(f"  {done} of {len(work)}")
        return result

    return await asyncio.gather(*map(one, work))


async def serve_and_ask(
    store: "Store", tools: Tools, config: Config, rows: Sequence[Sample], progress: Said
) -> list[tuple[str, str]]:
    """Ask the gateway over HTTP; (answer, name of the adapter that gave it, "base" without one) for each row."""
    import aiohttp

    from logtune.app import build

    async with (
        listening(build.gateway(store, tools, config)) as url,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_S)) as client,
    ):
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(row: Sample) -> tuple[str, str]:
            body = sample.body(sample.question(row.text)) | {"user": row.user}
            async with gate, client.post(f"{url}/v1/chat/completions", json=body) as reply:
                answer = await reply.json()
                if reply.status != 200:
                    raise ModelError(f"the gateway answered {reply.status}: {str(answer)[:200]}")
                text = answer["choices"][0]["message"]["content"]
                return cast(str, text), reply.headers.get("x-logtune-adapter", "base")

        return await counted_off([one(row) for row in rows], progress)


@asynccontextmanager
async def listening(app: AsgiApp) -> AsyncIterator[str]:
    """The URL of `app` on a free loopback port; it is shut down in order at the end, after Ctrl-C too."""
    import uvicorn

    settings = uvicorn.Config(app, lifespan="on", ws="none", log_config=None, access_log=False)
    settings.load()
    server = uvicorn.Server(settings)
    server.lifespan = settings.lifespan_class(settings)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:  # named: no Nagle
        listener.bind(("127.0.0.1", 0))
        try:
            await server.startup(sockets=[listener])  # in steps: `serve` would take Ctrl-C for itself
        except SystemExit as error:
            raise ModelError("the gateway did not start", "its log above says why") from error
        running = asyncio.create_task(server.main_loop())
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running
            await server.shutdown(sockets=[listener])
