"""MemoryBench's training dialogs -> answers to its test requests, by the paper's method and by baselines.

    vanilla                        the base model
    bm25_dialog, embedder_dialog   the base model with the most similar training dialogs in its prompt
    uno-single, uno                a cycle over the training dialogs with that preset, then routed as in serving

Each task (Long-Long, ...) is learned and answered by itself, as in MemoryBench. What is there is not done again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from logtune.config import PRESETS, Config
from logtune.config import build as settings
from logtune.edges import memorybench as bench
from logtune.edges.memorybench import BenchSet, Row
from logtune.edges.store import Store
from logtune.errors import ModelError
from logtune.ids import digest
from logtune.pipeline import run_cycle
from logtune.ports import Chat, ChatCall, Tools
from logtune.prompts import language_of, render
from logtune.records import Adapter, Cluster, Feedback, Json, LogRecord, Message
from logtune.served import served_rules
from logtune.stages.answer import answer
from logtune.stages.bm25 import Bm25
from logtune.stages.cluster import Routes

METHODS = ("vanilla", "bm25_dialog", "embedder_dialog", "uno-single", "uno")
RETRIEVED = 5  # dialogs in the prompt
LONGEST_MEMORY = 6000  # characters of them
# The benchmark has neither noise nor private data, and requests of any length and kind.
UNFILTERED: Mapping[str, Json] = {
    "min_chars": 0, "max_chars": 10**9, "off_topic": "off", "personal_data": "keep", "duplicate_similarity": 1.0,
}  # fmt: skip
Answers: TypeAlias = list[tuple[Row, str]]
Said: TypeAlias = Callable[[str], None]
ToolsOf: TypeAlias = Callable[[Config, bool], Tools]  # settings, whether a cycle will learn with them


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The answers of one method to the test requests of one task."""

    task: str
    method: str
    folder: Path
    answers: int
    failed: tuple[str, ...]  # why requests have no answer
    learned: Mapping[str, Json]  # what the cycle said of itself; {} for methods that do not learn


def tasks(sets: Sequence[BenchSet]) -> tuple[dict[str, list[BenchSet]], dict[str, str]]:
    """Task -> its sets; and why sets are left out."""
    found: dict[str, list[BenchSet]] = {}
    left_out: dict[str, str] = {}
    for item in sets:
        if item.name.startswith(bench.CORPUS):
            left_out[item.name] = "its questions are about a corpus that lies beside the records"
        elif not item.test:
            left_out[item.name] = "it has no test split"
        else:
            found.setdefault(item.task, []).append(item)
    return found, left_out


def with_preset(config: Config, preset: str) -> Config:
    """The settings with another preset below what was set by hand, and nothing filtered out."""
    tree = config.model_dump(mode="json", exclude_unset=True)
    given = tree.get("filter")
    return settings({**tree, "preset": preset, "filter": {**UNFILTERED, **(given if isinstance(given, dict) else {})}})


# --- training dialogs as logs ---

START = 1_700_000_000.0  # the records have no times: a dialog a minute


def logs_of(row: Row, number: int) -> tuple[list[LogRecord], list[Feedback]]:
    """A dialog as the gateway would have logged it: a record an answer, and what the user did and said about it.

    The simulated users write to react to an answer, so each of their turns is a comment on the one before.
    """
    logs: list[LogRecord] = []
    feedback: list[Feedback] = []
    user = f"{row.dataset}-{row.test_idx}"
    for turn, message in enumerate(row.dialog):
        if message.role == "assistant" and turn:
            at = START + number * 60 + turn
            log = _log(f"{user}-{len(logs) + 1}", row.dialog[:turn], message.content, user, at)
            done = row.actions[len(logs)] if len(logs) < len(row.actions) else ()
            said = row.dialog[turn + 1].content if turn + 1 < len(row.dialog) else ""
            logs.append(log)
            feedback += _reaction(log, done, said)
    return logs, feedback


def _reaction(log: LogRecord, actions: Sequence[str], said: str) -> Iterator[Feedback]:
    liked = 1.0 if "like" in actions else -1.0 if "dislike" in actions else None
    made = Feedback(id=f"{log.id}-said", target=log.id, at=log.at + 0.5, source="memorybench")
    if said or liked is not None:
        yield replace(made, kind="comment" if said else "rating", value=liked, comment=said or None)
    if "copy" in actions:
        yield replace(made, id=f"{log.id}-copy", kind="copy")


def _log(name: str, asked: Sequence[Message], said: str, user: str, at: float) -> LogRecord:
    messages: list[Json] = [{"role": turn.role, "content": turn.content} for turn in asked]
    choice: dict[str, Json] = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    return LogRecord(
        id=name, request={"messages": messages}, response={"id": name, "choices": [choice]}, at=at, user=user,
        session=user, source="memorybench",
    )  # fmt: skip


# --- methods ---


def missing(sets: Sequence[BenchSet], method: str, out: Path) -> list[Row]:
    """The test requests of one task that a method has not answered yet, below `out`."""
    known = bench.read_answers(_folder(sets, method, out))  # of an earlier run, which may have been stopped
    return [row for item in sets for row in item.test if (row.dataset, row.test_idx) not in known]


def check(
    by_task: Mapping[str, Sequence[BenchSet]], methods: Sequence[str], out: Path, tools_of: ToolsOf, config: Config
) -> None:
    """Make what cycles will learn with before hours are spent on what does not learn; ConfigError for what it lacks."""
    for method in methods:
        if method in PRESETS and any(missing(sets, method, out) for sets in by_task.values()):
            tools_of(with_preset(config, method), True)


def _folder(sets: Sequence[BenchSet], method: str, out: Path) -> Path:
    return out / "task" / sets[0].task / method


def answer_all(
    sets: Sequence[BenchSet], method: str, out: Path, tools_of: ToolsOf, config: Config, progress: Said
) -> Answered:
    """The answers of one method to the test requests of one task, written below `out`."""
    task = sets[0].task
    folder = _folder(sets, method, out)
    rows = [row for item in sets for row in item.test]
    todo = missing(sets, method, out)
    failed: tuple[str, ...] = ()
    learned: Mapping[str, Json] = {}
    if todo:
        progress(f"{task}, {method}: {len(todo)} requests")
        made, failed, learned = _answer(sets, todo, method, out / "work" / task, tools_of, config, progress)
        known = bench.read_answers(folder) | {(row.dataset, row.test_idx): text for row, text in made}
        done = [(row, known[row.dataset, row.test_idx]) for row in rows if (row.dataset, row.test_idx) in known]
        bench.write_answers(folder, done)
        config = with_preset(config, _preset(method))
        about: dict[str, Json] = {"method": method, "config": config.model_dump(mode="json"), "cycle": dict(learned)}
        bench.write(folder / "run_config.json", about)
    return Answered(
        task=task, method=method, folder=folder, answers=len(rows) - len(failed), failed=failed, learned=learned
    )


def _preset(method: str) -> str:
    return method if method in PRESETS else "default"


def _answer(
    sets: Sequence[BenchSet], rows: Sequence[Row], method: str, work: Path, tools_of: ToolsOf, config: Config,
    progress: Said,
) -> tuple[Answers, tuple[str, ...], Mapping[str, Json]]:  # fmt: skip
    chosen = with_preset(config, _preset(method))
    work.mkdir(parents=True, exist_ok=True)
    with closing(Store(f"sqlite:///{work / method}.db")) as store:
        tools = tools_of(chosen, method in PRESETS)
        if method not in PRESETS:
            told = _prompter(sets, method, tools)
            return (*asyncio.run(_said(rows, lambda row: _plain(tools.student, told(row), chosen))), {})
        learned = _learn(sets, store, tools, chosen, progress)
        return (*asyncio.run(_served(rows, store, tools, chosen)), learned)


async def _said(rows: Sequence[Row], ask: Callable[[Row], Awaitable[str]]) -> tuple[Answers, tuple[str, ...]]:
    """Answers, and why there are none for some rows."""

    async def one(row: Row) -> str | ModelError:
        try:
            return await ask(row)
        except ModelError as error:
            return error

    results = await asyncio.gather(*map(one, rows))
    answers = [(row, found) for row, found in zip(rows, results, strict=True) if isinstance(found, str)]
    failed = tuple(
        f"{row.dataset} {row.test_idx}: {found.what}"
        for row, found in zip(rows, results, strict=True)
        if isinstance(found, ModelError)
    )
    return answers, failed


async def _plain(student: Chat, messages: Sequence[Message], config: Config) -> str:
    call = ChatCall(messages=tuple(messages), max_tokens=config.evaluate.max_tokens)
    return (await student.complete(call)).text


def _prompter(sets: Sequence[BenchSet], method: str, tools: Tools) -> Callable[[Row], tuple[Message, ...]]:
    """What a method without training asks the model."""
    if method == "vanilla":
        return lambda row: row.prompt
    dialogs = [row for item in sets for row in item.train if row.dialog]
    queries = [row.prompt[-1].content for row in dialogs]
    if method == "bm25_dialog":
        index = Bm25([_written(row) for row in dialogs])
        return lambda row: _with_memory(row, [dialogs[n] for n in index.nearest(row.prompt[-1].content, RETRIEVED)])
    vectors = tools.embedder.embed(queries)

    def nearest(row: Row) -> tuple[Message, ...]:
        if not dialogs:
            return row.prompt
        close = vectors @ tools.embedder.embed([row.prompt[-1].content])[0]
        return _with_memory(row, [dialogs[n] for n in close.argsort()[::-1][:RETRIEVED].tolist()])

    return nearest


def _with_memory(row: Row, dialogs: Sequence[Row]) -> tuple[Message, ...]:
    """The request behind similar dialogs, each cut to its share of LONGEST_MEMORY."""
    if not dialogs:
        return row.prompt
    each = LONGEST_MEMORY // len(dialogs)
    memory = "\n\n---\n\n".join(_written(found)[:each] for found in dialogs)
    text = render("remember", language_of(row.prompt[-1].content), memory=memory)
    return (Message(role="system", content=text), *row.prompt)


def _written(row: Row) -> str:
    return "\n\n".join(f"{message.role}: {message.content}" for message in row.dialog)


# --- the paper's method ---


def _learn(
    sets: Sequence[BenchSet], store: Store, tools: Tools, config: Config, progress: Said
) -> Mapping[str, Json]:  # fmt: skip
    """One cycle over the training dialogs; nothing where an earlier run has ended it."""
    for number, row in enumerate(row for item in sets for row in item.train):
        logs, feedback = logs_of(row, number)
        store.add_logs(logs)
        store.put_feedback(feedback)
    done = [row for row in store.cycles(limit=1) if row.ended_at is not None]
    if not done:
        run_cycle(store, tools, config, progress)
        done = store.cycles(limit=1)
    return done[0].receipt


async def _served(
    rows: Sequence[Row], store: Store, tools: Tools, config: Config
) -> tuple[Answers, tuple[str, ...]]:  # fmt: skip
    """The answers of what the cycle deployed, routed by the request as the gateway does."""
    live = [item for item in store.deployments().values() if item.action != "retire"]
    clusters = store.load(Cluster, [item.cluster_id for item in live])
    by_cluster = {item.cluster_id: item for item in live}
    adapters = {a.id: a for a in store.load(Adapter, sorted({d.adapter_id for d in live if d.adapter_id}))}
    for adapter in adapters.values():
        await tools.adapters.load(adapter.path, str(Path(tools.adapters_dir) / adapter.path))
    routes = Routes(clusters) if clusters else None
    vectors = tools.embedder.embed([row.prompt[-1].content for row in rows])
    places = {digest([row.dataset, row.test_idx]): vector for row, vector in zip(rows, vectors, strict=True)}

    async def ask(row: Row) -> str:
        group = routes.nearest(places[digest([row.dataset, row.test_idx])]).cluster if routes else None
        if group is None:
            return await _plain(tools.student, row.prompt, config)
        deployed = by_cluster[group.id]
        model = adapters[deployed.adapter_id].path if deployed.adapter_id else ""
        rules = [rule.text for rule in served_rules(store, deployed)]
        return await answer(tools.student, deployed.candidate, model, row.prompt, config.evaluate.max_tokens, rules)

    return await _said(rows, ask)
