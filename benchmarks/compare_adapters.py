"""One LoRA adapter on all logs, as a system of the comparison: supervised, by preferences, or on answers afresh.

Lessons -> TrainingPair* -> the project's own training, at logtune's parameter budget -> one adapter for every request

Each week trains anew on all logs so far; nothing proves the adapter before it serves.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

from compare_logs import Lessons, settings_of
from compare_prompted import Plain, Taught
from compare_types import Prepared, Prompt, Setting

from logtune.config import Config
from logtune.errors import ModelError, TrainingError
from logtune.ports import ChatCall, Tools, TrainingJob, TrainingPair
from logtune.records import Adapter, Json
from logtune.stages.budget import rank_within

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Counted:
    """An executor that counts the tokens it trains on: prompt and answers of each pair, times epochs."""

    def __init__(self, tools: Tools) -> None:
        self._inner, self._count = tools.executor, token_counter(tools.base_path)
        self._tokens = 0

    def close(self) -> None:
        """As the executor inside."""
        self._inner.close()

    def train(self, job: TrainingJob, progress: Callable[[str], None]) -> tuple[Adapter, ...]:
        """As the executor inside."""
        found = self._inner.train(job, progress)
        texts = ["\n".join((*(m.content for m in p.prompt), p.chosen, p.rejected)) for p in job.pairs]
        self._tokens += len(found) * sum(map(self._count, texts))  # a checkpoint an epoch
        return found

    def take(self) -> int:
        """The tokens since it was asked last."""
        tokens, self._tokens = self._tokens, 0
        return tokens


def token_counter(base_path: str) -> Callable[[str], int]:
    """Tokens of a text by the model's tokenizer; about four characters each where there is none at hand."""
    if not (Path(base_path) / "tokenizer_config.json").exists():
        return lambda text: len(text) // 4
    tokenizer = _tokenizer(base_path)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


@cache
def _tokenizer(path: str) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    return cast("PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(path))


MakePairs = Callable[[Lessons], Sequence[TrainingPair]]


class OneAdapter(Plain):
    """An adapter as a way to learn. `kind`: expert (DPO with SFT) or critic (SFT alone), as training calls them."""

    filtered = False
    learns = True

    def __init__(self, setting: Setting, tools: Tools, kind: str, pairs: MakePairs) -> None:
        self._file = setting.folder / "adapter.json"
        self._config: Config = settings_of(setting)
        self._tools, self._kind, self._pairs, self._say, self._seed = tools, kind, pairs, setting.say, setting.seed
        self._adapter: Adapter | None = None

    @property
    def serving(self) -> str | None:  # type: ignore[override]
        """As in the protocol."""
        return self._adapter.id if self._adapter else None

    async def open(self) -> None:
        """As in the protocol."""
        if self._file.exists():
            kept = json.loads(self._file.read_text(encoding="utf-8"))
            await self._serve(Adapter(**{**kept, "pair_ids": tuple(kept["pair_ids"]), "losses": tuple(kept["losses"])}))

    async def learn(self, lessons: Lessons) -> Taught:
        """As in the protocol."""
        pairs = tuple(await self._made(lessons))
        job, counted = self._job(pairs), Counted(self._tools)
        if len(pairs) < self._config.train.min_pairs:
            return self._taught(f"{len(pairs)} pairs, too few to train on", 0)
        try:
            checkpoints = await asyncio.to_thread(counted.train, job, self._say)
        except TrainingError as error:
            return self._taught(f"training failed: {error}", 0)
        await self._serve(checkpoints[-1])
        self._file.write_text(json.dumps(asdict(checkpoints[-1])), encoding="utf-8")
        return self._taught(
            f"{len(pairs)} pairs, losses {[round(x, 3) for x in checkpoints[-1].losses]}", counted.take()
        )

    async def _made(self, lessons: Lessons) -> Sequence[TrainingPair]:
        return self._pairs(lessons)

    def _taught(self, note: str, tokens: int) -> Taught:
        size = self._adapter.parameters if self._adapter else 0
        return Taught(note=note, training_tokens=tokens, adapter_parameters=size)

    def _job(self, pairs: tuple[TrainingPair, ...]) -> TrainingJob:
        settings, tools = self._config.train, self._tools
        budget = settings.budget * tools.base_parameters
        return TrainingJob(
            cluster_id="all", name="all", kind=self._kind, base_path=tools.base_path,
            base_fingerprint=tools.base_fingerprint, pairs=pairs, out_dir=tools.adapters_dir, seed=self._seed,
            rank=rank_within(budget / tools.lora_sizes.get(settings.target_modules, 1), settings.max_rank),
            settings=cast("dict[str, Json]", settings.model_dump(mode="json")),
        )  # fmt: skip

    async def _serve(self, adapter: Adapter) -> None:
        await self.close()
        await self._tools.adapters.load(adapter.path, str(Path(self._tools.adapters_dir) / adapter.path))
        self._adapter = adapter

    def prepare(self, prompt: Prompt) -> Prepared:
        """As in the protocol."""
        return Prepared(messages=prompt, model=self._adapter.path if self._adapter else "")

    async def close(self) -> None:
        """As in the protocol."""
        if self._adapter is not None:
            await self._tools.adapters.unload(self._adapter.path)
            self._adapter = None


def accepted_and_corrected(lessons: Lessons) -> list[TrainingPair]:
    """Every request with the answer that its user gave or praised."""
    return [TrainingPair(id=each.id, prompt=each.prompt, chosen=each.wanted, rejected="") for each in lessons.examples]


def as_they_come(lessons: Lessons) -> list[TrainingPair]:
    """Every preference pair."""
    return [TrainingPair(id=p.id, prompt=p.prompt, chosen=p.chosen, rejected=p.rejected) for p in lessons.pairs]


def sft_all(setting: Setting, tools: Tools) -> OneAdapter:
    """Supervised, unfiltered."""
    return OneAdapter(setting, tools, "critic", accepted_and_corrected)


def dpo_all(setting: Setting, tools: Tools) -> OneAdapter:
    """By preferences, unfiltered."""
    return OneAdapter(setting, tools, "expert", as_they_come)


# --- answered afresh ---


class Afresh(OneAdapter):
    """Pairs of a teacher's own answer, which has seen no feedback, and the one that was given."""

    filtered = True

    async def _made(self, lessons: Lessons) -> Sequence[TrainingPair]:
        found = await asyncio.gather(
            *(self._pair(each.id, each.prompt, each.answer) for each in lessons.dialogues if each.told)
        )
        return [pair for pair in found if pair is not None]

    async def _pair(self, name: str, prompt: Prompt, given: str) -> TrainingPair | None:
        teacher = self._tools.teacher
        assert teacher is not None
        try:
            reply = await teacher.complete(
                ChatCall(messages=prompt, max_tokens=self._config.evaluate.max_tokens, purpose="afresh")
            )
        except ModelError as error:
            self._say(f"afresh: {name}: {error}")
            return None
        text = reply.text.strip()
        return (
            TrainingPair(id=name, prompt=prompt, chosen=text, rejected=given)
            if text and text != given.strip()
            else None
        )
