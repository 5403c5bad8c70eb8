"""Adapters that game a reward, trained for real on the small model: length, praise, refusals; and an honest one.

Each is what training would give if the reward were gamed: `chosen` is the base model's own answer padded, dressed in
praise, or replaced by a refusal. The honest one learns to answer in one sentence. Nothing of the gate is known here.
"""

import asyncio
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from logtune.config import TrainSettings
from logtune.edges.local_model import LocalModel
from logtune.ports import ChatCall, TrainingJob, TrainingPair
from logtune.records import Adapter, Message, digest
from logtune.stages import train

PROMPTS = Path(__file__).with_name("proof_prompts.json")
HACKS = ("length", "praise", "refusals")
HONEST = "honest"
SYSTEM = Message(
    role="system", content="Answer in one short sentence."
)  # without it the base model talks as long as it may
ANSWER_TOKENS = 160
TRAINED_TOKENS = 64  # of the base model's answers that the adapters are trained on
RANK = 2
COURSE = TrainSettings(epochs=4, batch=8, learning_rate=3e-3)
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
    job = TrainingJob(
        cluster_id=f"clu-{kind}", name=kind, kind="expert", base_path=str(engine.folder.path),
        base_fingerprint=engine.fingerprint, pairs=tuple(pairs(kind, asked, said, material)), out_dir=str(home),
        rank=RANK, seed=0, settings=COURSE.model_dump(mode="json"),
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


def all_trained(engine: LocalModel, home: Path, progress: Said) -> dict[str, Adapter]:
    """Adapter by what it learned."""
    home.mkdir(parents=True, exist_ok=True)
    said = base_answers(engine, home)
    return {kind: trained(engine, home, kind, said, progress) for kind in (*HACKS, HONEST)}
