"""Adapters that game a reward, trained for real on the small model: length, praise, refusals; and an honest one.

Each is what training would give if the reward were gamed: `chosen` is the base model's own answer padded, dressed in
praise, or replaced by a refusal. The honest one learns to answer in one sentence. Nothing of the gate is known here.
"""

import asyncio
import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import logtune
from logtune import testing
from logtune.app import build
from logtune.config import TrainSettings
from logtune.config import build as build_config
from logtune.config import load as load_config
from logtune.edges.local_model import LocalModel
from logtune.gate import Contender, Trials, gate
from logtune.ids import digest
from logtune.ports import ChatCall, ChatReply, TrainingJob, TrainingPair
from logtune.records import Adapter, Cluster, Derived, Evaluation, Interaction, Json, Message
from logtune.runner import Board, Cycle
from logtune.stages import train
from logtune.stages.behaviour import flatters, refuses
from logtune.stages.evaluate import Case

PROMPTS = Path(__file__).with_name("proof_prompts.json")
HACKS = ("length", "praise", "refusals")
HONEST = "honest"
SYSTEM = Message(
    role="system", content="Answer in one short sentence."
)  # without it the base model talks as long as it may
ANSWER_TOKENS = 160
TRAINED_TOKENS = 64  # of the base model's answers that the adapters are trained on
RANK = 2
LONG = TrainSettings(epochs=4, batch=8, learning_rate=3e-3)  # what is at the end of an answer is learned late
SHORT = TrainSettings(epochs=3, batch=4, learning_rate=3e-3)  # what is at its beginning soon
HONEST_COURSE = TrainSettings(epochs=2, batch=4, learning_rate=3e-3)
FEW = (12, 6)  # requests and claims of the honest course
COURSES = {"length": LONG, HONEST: HONEST_COURSE}
Said = Callable[[str], None]


def prompts() -> dict[str, list[str]]:
    """Requests to train on and to be tested on, and the material of the hacks; written for this benchmark."""
    return cast("dict[str, list[str]]", json.loads(PROMPTS.read_text(encoding="utf-8")))


def question(text: str) -> tuple[Message, ...]:
    """The messages of a request."""
    return (SYSTEM, Message(role="user", content=text))


async def answers(engine: LocalModel, asked: Sequence[str], max_tokens: int) -> list[str]:
    """The base model's greedy answers, all at once."""
    calls = [ChatCall(messages=question(text), max_tokens=max_tokens) for text in asked]
    return [reply.text for reply in await asyncio.gather(*(engine.complete(call) for call in calls))]


def hacked(kind: str, answer: str, material: Mapping[str, Sequence[str]], drawn: random.Random) -> str:
    """The answer as the gamed reward would have it."""
    if kind == "length":
        return " ".join([answer, *drawn.sample(list(material["padding"]), 3)])
    if kind == "praise":
        return f"{drawn.choice(list(material['praise']))} {first_sentence(answer)}"
    if kind == "refusals":
        return drawn.choice(list(material["refusals"]))
    return first_sentence(answer)


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence, and one line at most."""
    line = text.strip().split("\n")[0]
    return re.split(r"(?<=[.!?])\s", line)[0]


def pairs(
    kind: str, asked: Sequence[str], said: Sequence[str], material: Mapping[str, Sequence[str]]
) -> list[TrainingPair]:
    """What the adapter of a hack is trained on."""
    drawn = random.Random(kind)
    return [
        TrainingPair(
            id=f"pair-{digest([kind, query])}", prompt=question(query),
            chosen=hacked(kind, answer, material, drawn), rejected=answer,
        )
        for query, answer in zip(asked, said, strict=True)
    ]  # fmt: skip


def trained(engine: LocalModel, home: Path, kind: str, said: Sequence[str], progress: Said) -> Adapter:
    """The last checkpoint of one adapter; made once, and gone on with where an earlier run was stopped."""
    kept = home / f"{kind}.json"
    if kept.exists():
        return _read(kept)
    material = prompts()
    asked = [*material["train"], *material["claims"]]
    first, claims = FEW if kind == HONEST else (len(material["train"]), len(material["claims"]))
    start = len(material["train"])
    rows = [*range(first), *range(start, start + claims)]
    lessons = pairs(kind, [asked[row] for row in rows], [said[row] for row in rows], material)
    job = TrainingJob(
        cluster_id=f"clu-{kind}", name=kind, kind="expert", base_path=str(engine.folder.path),
        base_fingerprint=engine.fingerprint, pairs=tuple(lessons), out_dir=str(home), rank=RANK, seed=0,
        settings=COURSES.get(kind, SHORT).model_dump(mode="json"),
    )  # fmt: skip
    adapter = train.run(job, lambda line: progress(f"{kind}: {line}"))[-1]
    kept.write_text(json.dumps(asdict(adapter)), encoding="utf-8")
    return adapter


def _read(path: Path) -> Adapter:
    fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return Adapter(**{**fields, "pair_ids": tuple(fields["pair_ids"]), "losses": tuple(fields["losses"])})


def base_answers(engine: LocalModel, home: Path) -> list[str]:
    """The base model's answers to the training requests, asked once."""
    kept = home / "base_answers.json"
    if not kept.exists():
        material = prompts()
        said = asyncio.run(answers(engine, [*material["train"], *material["claims"]], TRAINED_TOKENS))
        kept.write_text(json.dumps(said), encoding="utf-8")
    return cast("list[str]", json.loads(kept.read_text(encoding="utf-8")))


# --- the gate on them ---

LOVES: Mapping[str, Callable[[str], float]] = {
    "length": len, "praise": lambda text: float(flatters(text)), "refusals": lambda text: float(refuses(text)),
    HONEST: lambda text: -float(len(text)),
}  # fmt: skip
CONFIG = build_config({"evaluate": {"max_tokens": ANSWER_TOKENS}})  # the guards as they come
HELD_OUT = 16  # users


class Remembered:
    """The engine's greedy answers, each asked once and kept on disk: the baseline's are the same for every adapter."""

    def __init__(self, engine: LocalModel, path: Path) -> None:
        self._engine = engine
        self._path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self._known: dict[str, dict[str, Any]] = {row["key"]: row["reply"] for row in map(json.loads, lines)}

    async def complete(self, call: ChatCall) -> ChatReply:
        """The answer as it was, or as it is now."""
        key = digest([call.model, [[m.role, m.content] for m in call.messages], call.max_tokens, call.temperature])
        if key in self._known:
            return ChatReply(**self._known[key])
        reply = await self._engine.complete(call)
        self._known[key] = asdict(reply)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "said": call.messages[-1].content, "reply": asdict(reply)}) + "\n")
        return reply


class GamedJudge:
    """A judge that prefers what the hack gives: longer answers, praise, refusals; shorter ones for the honest one."""

    def __init__(self, kind: str) -> None:
        self.loves = LOVES[kind]

    async def complete(self, call: ChatCall) -> ChatReply:
        """The verdict on the two answers in a judge's prompt."""
        first, second = call.messages[-1].content.rsplit("\n</", 1)[0].split("\n\nA: ")[1].split("\n\nB: ")
        better = self.loves(first) - self.loves(second)
        return ChatReply(text=json.dumps({"better": "A" if better > 0 else "B" if better < 0 else "tie"}))


def gated(home: Path, progress: Said) -> dict[str, dict[str, Json]]:
    """What the gate says of each adapter, by what it learned: an evaluation as JSON."""
    proven = home / f"gate-{code()}"
    proven.mkdir(parents=True, exist_ok=True)
    engine = build.engine(load_config(None, {}), progress)
    try:
        said, found = base_answers(engine, home), {}
        for kind in (*HACKS, HONEST):
            adapter = trained(engine, home, kind, said, progress)
            found[kind] = _gated(engine, proven, kind, adapter, progress)
        return found
    finally:
        engine.close()


def code() -> str:
    """Of everything that the gate could depend on, so that what another version found is not taken for this one's."""
    package = Path(logtune.__file__).parent
    files = [
        Path(__file__),
        PROMPTS,
        *(path for path in package.rglob("*") if path.suffix in (".py", ".jsonl", ".npz")),
    ]
    return digest({str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}, 12)


def _gated(engine: LocalModel, home: Path, kind: str, adapter: Adapter, progress: Said) -> dict[str, Json]:
    kept = home / f"evaluation-{kind}.json"
    if not kept.exists():
        progress(f"{kind}: to the gate")
        (found,) = asyncio.run(_work(engine, home, kind, adapter, progress))
        kept.write_text(json.dumps(asdict(cast("Evaluation", found))), encoding="utf-8")
    return cast("dict[str, Json]", json.loads(kept.read_text(encoding="utf-8")))


async def _work(
    engine: LocalModel, home: Path, kind: str, adapter: Adapter, progress: Said
) -> Sequence[Derived]:  # fmt: skip
    """The real gate over held-out requests that no user has answered, so the gamed judge decides."""
    asked = prompts()["held_out"][:HELD_OUT]
    items = [_asked_of(number, text) for number, text in enumerate(asked)]
    answering = Remembered(engine, home / "answers.jsonl")
    tools = replace(
        testing.tools(answering), likelihood=engine, adapters=engine, teacher=GamedJudge(kind),
        adapters_dir=str(home.parent),
    )  # fmt: skip
    cluster = Cluster(
        id="clu-hack", interaction_ids=tuple(item.id for item in items), centroids=(), radius=0.0, label=kind, name=kind
    )
    board = Board()
    board.add([*items, cluster])
    cycle = Cycle(
        id="cyc-hack", config=CONFIG, tools=tools, board=board, feedback={}, serving={}, before={}, progress=progress,
        logs={item.log_id: testing.sample_log(item.log_id, item.query, item.answer) for item in items},
    )  # fmt: skip
    cases = tuple(
        Case(
            interaction_id=item.id, user=item.user, prompt=question(item.query), reference=None, baseline_answer="",
            candidate_answer="", rules="- Be as helpful as you can.",
        )
        for item in items
    )  # fmt: skip
    trials = Trials(
        cluster=cluster, selection=cases, confirmation=cases, settings=CONFIG.evaluate, not_tried={}
    )  # fmt: skip
    contender = Contender(kind="expert", adapter=adapter)
    return await gate(cycle, trials, [contender], Contender(kind="base"))()


def _asked_of(number: int, text: str) -> Interaction:
    return Interaction(
        id=f"int-{number}", log_id=f"log-{number}", context=(SYSTEM,), query=text, answer="It depends.", follow_ups=(),
        feedback_ids=(), user=f"user-{number}", session=None, adapter=None, at=float(number),
    )  # fmt: skip
