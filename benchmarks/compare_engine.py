"""The served model of a comparison, loaded once: greedy answers remembered on disk, and what it still knows.

Only answers of the base model are remembered: its weights never change, while an adapter's name may come again.
"""

import asyncio
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from compare_types import Prepared, Reply
from retention import Question, choices, likeliest_is_right

from logtune.ids import digest
from logtune.ports import ChatCall, Likelihood, Tools

AT_ONCE = 32
BASE = ("", "base")


class Memory:
    """Numbers and answers by what they depend on, in one SQLite file; written at once."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, text, prompt, completion, latency)")
        self._db.execute("CREATE TABLE IF NOT EXISTS surprise (key TEXT PRIMARY KEY, nll)")

    def reply(self, key: str) -> Reply | None:
        """The answer that was given."""
        row = self._db.execute("SELECT text, prompt, completion, latency FROM replies WHERE key = ?", (key,)).fetchone()
        return row and Reply(text=row[0], prompt_tokens=row[1], completion_tokens=row[2], latency_ms=row[3])

    def keep(self, key: str, reply: Reply) -> None:
        """Remember an answer."""
        row = (key, reply.text, reply.prompt_tokens, reply.completion_tokens, reply.latency_ms)
        self._db.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?)", row)

    def surprises(self, keys: Sequence[str]) -> dict[str, float]:
        """Log-likelihoods that are known."""
        known = dict(self._db.execute("SELECT key, nll FROM surprise").fetchall())
        return {key: known[key] for key in keys if key in known}

    def keep_surprises(self, found: Mapping[str, float]) -> None:
        """Remember log-likelihoods."""
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR REPLACE INTO surprise VALUES (?, ?)", list(found.items()))
        self._db.execute("COMMIT")

    def close(self) -> None:
        self._db.close()


class LocalEngine:
    """See `compare_types.Engine`; over the tools of a cycle, whatever serves the model."""

    def __init__(self, tools: Tools, memory: Memory) -> None:
        self.tools, self.memory, self._remembers = tools, memory, True
        self._gate = asyncio.Semaphore(AT_ONCE)

    @contextmanager
    def forgetful(self) -> Iterator[None]:
        """Within it nothing is answered from memory: to measure time."""
        self._remembers = False
        try:
            yield
        finally:
            self._remembers = True

    async def generate(self, asked: Sequence[Prepared], *, max_tokens: int, fresh: bool = False) -> list[Reply]:
        """Greedy answers, in order, many at once; those of the base model from memory unless `fresh`."""
        return list(await asyncio.gather(*(self._one(each, max_tokens, fresh) for each in asked)))

    async def _one(self, asked: Prepared, max_tokens: int, fresh: bool) -> Reply:
        key = digest([self.tools.base_fingerprint, [(m.role, m.content) for m in asked.messages], max_tokens], 32)
        known = self.memory.reply(key) if asked.model in BASE and self._remembers and not fresh else None
        if known:
            return known
        async with self._gate:
            started = time.perf_counter()
            call = ChatCall(messages=asked.messages, model=asked.model, max_tokens=max_tokens)
            answer = await self.tools.student.complete(call)
            latency_ms = 1000 * (time.perf_counter() - started)
        reply = Reply(
            text=answer.text, prompt_tokens=answer.prompt_tokens, completion_tokens=answer.completion_tokens,
            latency_ms=latency_ms, source=asked.model or "base",
        )  # fmt: skip
        if asked.model in BASE and self._remembers:
            self.memory.keep(key, reply)
        return reply

    def surprise(self, asked: Sequence[Prepared], answers: Sequence[str]) -> list[float]:
        """Mean negative log-likelihood a token of each answer; the base model's from memory."""
        found: dict[int, float] = {}
        keys = [
            digest([self.tools.base_fingerprint, [(m.role, m.content) for m in each.messages], answer], 32)
            for each, answer in zip(asked, answers, strict=True)
        ]
        known = self.memory.surprises(keys)
        found |= {n: known[key] for n, key in enumerate(keys) if asked[n].model in BASE and key in known}
        for model in dict.fromkeys(each.model for each in asked):
            todo = [n for n in range(len(asked)) if asked[n].model == model and n not in found]
            if todo:
                measured = _likelihood(self.tools).nll(
                    [asked[n].messages for n in todo], [answers[n] for n in todo], model
                )
                found |= zip(todo, measured, strict=True)
                if model in BASE:
                    self.memory.keep_surprises({keys[n]: found[n] for n in todo})
        return [found[n] for n in range(len(asked))]


def _likelihood(tools: Tools) -> Likelihood:
    if tools.likelihood is None:
        raise RuntimeError("the model server gives no log-probabilities: retention cannot be measured")
    return tools.likelihood


def chosen(engine: LocalEngine, questions: Sequence[Question], asked: Sequence[Prepared]) -> list[float]:
    """1 for a question whose right choice is the likeliest a token, else 0; `asked`: how each question is asked."""
    repeated = [prepared for question, prepared in zip(questions, asked, strict=True) for _ in choices(question)]
    answers = [choice for question in questions for choice in choices(question)]
    return likeliest_is_right(questions, engine.surprise(repeated, answers))
