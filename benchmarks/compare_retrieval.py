"""Retrieval from the logs into the prompt: past dialogues by words (BM25) or by meaning, and corrected examples.

Lessons -> Memo* -> index; prompt -> its nearest memos -> prompt with them. How many, and from what closeness on, is
chosen on the logs of the past weeks alone, each left out in turn: by the likelihood of the answer its user wanted.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from compare_logs import Dialogue, Example, Lessons
from compare_prompted import Plain, Taught, told, with_turns
from compare_types import Prepared, Prompt, Setting

from logtune.ports import Embedder, Tools
from logtune.records import Json, Message
from logtune.statistics import uniform

COUNTS = (1, 2, 4, 8)  # memos in a prompt that are tried
UNTRIED = 4  # where there are too few logs to choose by
LEAST_CASES, MOST_CASES = 8, 32  # logs that choose, each left out in turn
STRANGERS, SLACK = 0.02, 2 / 3  # a memo is too far at this share of the closeness that all but so many requests have
MOST_CHARS = 3000  # of all memos in a prompt: about 750 tokens
SALT = "logtune-compare"
Scores: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Memo:
    """What is retrieved: a request, an answer, and what its user said of it."""

    query: str
    answer: str
    said: str
    user: str

    @property
    def chars(self) -> int:
        """Of all its text."""
        return len(self.query) + len(self.answer) + len(self.said)


class Index(Protocol):
    """Memos by closeness."""

    def scores(self, query: str) -> Scores:
        """How close each memo is."""
        ...


class ByMeaning:
    """Cosine of the embedder's vectors of the requests."""

    def __init__(self, texts: Sequence[str], embedder: Embedder) -> None:
        self._embedder = embedder
        self._vectors = embedder.embed(texts)

    def scores(self, query: str) -> Scores:
        """-1 .. 1."""
        return cast("Scores", self._vectors @ self._embedder.embed([query])[0])


class ByWords:
    """BM25 of bm25s, over the requests; 0 where no word is shared."""

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s

        self._tokenize: Callable[[list[str]], list[list[str]]] = lambda found: cast(
            "list[list[str]]", bm25s.tokenize(found, stopwords="en", return_ids=False, show_progress=False)
        )
        self._count = len(texts)
        words = self._tokenize(list(texts))
        self._index = bm25s.BM25() if any(words) else None
        if self._index is not None:
            self._index.index(words, show_progress=False)

    def scores(self, query: str) -> Scores:
        """0 or more."""
        (words,) = self._tokenize([query])
        if self._index is None or not words:
            return np.zeros(self._count, dtype=np.float32)
        return cast("Scores", self._index.get_scores(words))


MakeIndex: TypeAlias = Callable[[Sequence[str]], Index]
Form: TypeAlias = Callable[[Prompt, Sequence[Memo]], Prompt]  # memos with the nearest last


def nearest(memos: Sequence[Memo], scores: Scores, count: int, floor: float, without: str = "") -> list[Memo]:
    """At most `count` memos at least as close as `floor`, of other users than `without`, the nearest last."""
    found: list[Memo] = []
    chars = 0
    seen: set[tuple[str, str, str]] = set()
    for row in np.argsort(-scores, kind="stable"):
        memo = memos[int(row)]
        same = (memo.query, memo.answer, memo.said)
        if len(found) == count or scores[row] < floor or scores[row] <= 0:
            break
        if memo.user == without or same in seen or chars + memo.chars > MOST_CHARS:
            continue
        seen.add(same)
        found.append(memo)
        chars += memo.chars
    return found[::-1]


def as_turns(prompt: Prompt, memos: Sequence[Memo]) -> Prompt:
    """Each memo as a turn of a conversation that came before."""
    turns = [
        Message(role=role, content=text) for m in memos for role, text in (("user", m.query), ("assistant", m.answer))
    ]
    return with_turns(prompt, turns)


def as_block(prompt: Prompt, memos: Sequence[Memo]) -> Prompt:
    """Past dialogues in the system message."""
    if not memos:
        return prompt
    lines = "\n\n".join(_dialogue(memo) for memo in memos)
    return told(prompt, f"Earlier conversations, and what their users said of the answers:\n\n{lines}")


def _dialogue(memo: Memo) -> str:
    said = f"\nUser: {memo.said}" if memo.said else ""
    return f"User: {memo.query}\nAssistant: {memo.answer}{said}"


def of_dialogues(lessons: Lessons) -> list[Memo]:
    """Past dialogues of which something was said."""
    return [_memo_of_dialogue(each) for each in lessons.dialogues if each.said]


def _memo_of_dialogue(each: Dialogue) -> Memo:
    return Memo(query=each.query, answer=each.answer, said=each.said, user=each.user)


def of_examples(lessons: Lessons) -> list[Memo]:
    """Requests with the answers that were wanted."""
    return [Memo(query=each.query, answer=each.wanted, said="", user=each.user) for each in lessons.examples]


class Retrieval(Plain):
    """Retrieval as a way to learn: it keeps memos, and two numbers chosen on past logs."""

    choose = staticmethod(nearest)

    def __init__(
        self, folder: Path, tools: Tools, memos: Callable[[Lessons], list[Memo]], form: Form, make_index: MakeIndex
    ) -> None:
        self._file = folder / "retrieval.json"
        self._tools, self._memos_of, self._form, self._make_index = tools, memos, form, make_index
        self._memos: list[Memo] = []
        self._index: Index | None = None
        self._count, self._floor = UNTRIED, 0.0

    async def open(self) -> None:
        """As in the protocol."""
        if self._file.exists():
            kept = json.loads(self._file.read_text(encoding="utf-8"))
            self._count, self._floor = kept["count"], kept["floor"]
            self._fill([Memo(**memo) for memo in kept["memos"]])

    def _fill(self, memos: list[Memo]) -> None:
        self._memos = memos
        self._index = self._make_index([memo.query for memo in memos]) if memos else None

    async def learn(self, lessons: Lessons) -> Taught:
        """As in the protocol."""
        self._fill(self._memos_of(lessons))
        cases = sample(lessons.examples, MOST_CASES)
        self._floor = self._floor_of(cases)
        surprise = self._surprises(cases) if len(cases) >= LEAST_CASES else {}
        self._count = min(surprise, key=lambda count: (surprise[count], count)) if surprise else UNTRIED
        kept: dict[str, Json] = {
            "count": self._count, "floor": self._floor, "memos": [cast("Json", asdict(m)) for m in self._memos],
        }  # fmt: skip
        self._file.write_text(json.dumps(kept, ensure_ascii=False, indent=0), encoding="utf-8")
        tried = ", ".join(f"{count}: {value:.2f}" for count, value in surprise.items()) or "too few logs to try"
        return Taught(
            note=f"{len(self._memos)} memos; {self._count} in a prompt (nats a token of wanted answers: {tried})",
            figures={"memos": len(self._memos), "in_prompt": self._count, "floor": self._floor},
        )  # fmt: skip

    def _floor_of(self, cases: Sequence[Example]) -> float:
        """What is less close is about something else: far less than nearly all past requests are to the next one."""
        closest = [self._best(case) for case in cases]
        return SLACK * float(np.quantile(closest, STRANGERS)) if len(closest) >= LEAST_CASES else 0.0

    def _best(self, case: Example) -> float:
        if self._index is None:
            return 0.0
        scores = self._index.scores(case.query)
        return max(
            (float(s) for s, memo in zip(scores, self._memos, strict=True) if memo.user != case.user), default=0.0
        )

    def _surprises(self, cases: Sequence[Example]) -> Mapping[int, float]:
        """Memos in the prompt -> how surprised the model is by the answers that were wanted, nats a token."""
        if self._tools.likelihood is None:
            return {}
        found: dict[int, float] = {}
        for count in COUNTS:
            prompts = [self._with(case.prompt, count, case.user) for case in cases]
            found[count] = float(np.mean(self._tools.likelihood.nll(prompts, [case.wanted for case in cases])))
        return found

    def _with(self, prompt: Prompt, count: int, without: str = "") -> Prompt:
        if self._index is None:
            return prompt
        scores = self._index.scores(prompt[-1].content)
        return self._form(prompt, self.choose(self._memos, scores, count, self._floor, without))

    def prepare(self, prompt: Prompt) -> Prepared:
        """As in the protocol."""
        return Prepared(messages=self._with(prompt, self._count))


def sample(examples: Sequence[Example], most: int) -> list[Example]:
    """At most so many examples, always the same ones of the same logs."""
    return sorted(examples, key=lambda each: uniform(SALT, each.id))[:most]


def bm25(setting: Setting, tools: Tools) -> Retrieval:
    """Past dialogues that share words."""
    return Retrieval(setting.folder, tools, of_dialogues, as_block, ByWords)


def embedding(setting: Setting, tools: Tools) -> Retrieval:
    """Past dialogues of similar meaning."""
    return Retrieval(setting.folder, tools, of_dialogues, as_block, lambda texts: ByMeaning(texts, tools.embedder))


def few_shot(setting: Setting, tools: Tools) -> Retrieval:
    """Corrected examples of similar meaning, as turns of the conversation."""
    return Retrieval(setting.folder, tools, of_examples, as_turns, lambda texts: ByMeaning(texts, tools.embedder))
