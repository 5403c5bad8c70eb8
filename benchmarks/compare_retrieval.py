"""Retrieval from the logs into the prompt: past dialogues by words (BM25) or by meaning, and corrected examples.

Lessons -> Memo* -> index; prompt -> its nearest memos -> prompt with them. How many, and from what closeness on, is
chosen on the logs of the past weeks alone, each left out in turn: by the likelihood of the answer its user wanted.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from compare_logs import Dialogue, Example, Lessons
from compare_prompted import Plain, Taught, with_turns
from compare_types import Prepared, Prompt, Setting

from logtune.ports import Embedder, Tools
from logtune.records import Json, Message
from logtune.statistics import uniform

COUNTS = (2, 4, 8)  # memos in a prompt that are tried
UNTRIED = 4  # where there are too few logs to choose by
LEAST_CASES, MOST_CASES = 8, 24  # logs that choose, each left out in turn
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
Choose: TypeAlias = Callable[[Sequence[Memo], Scores, int, float, str], list[Memo]]


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


def as_talk(prompt: Prompt, memos: Sequence[Memo]) -> Prompt:
    """Each memo as turns, with what its user said before they asked the next thing."""
    turns: list[Message] = []
    said = ""
    for memo in memos:
        turns.append(Message(role="user", content=f"{said}\n\n{memo.query}".strip()))
        turns.append(Message(role="assistant", content=memo.answer))
        said = memo.said
    asked = replace(prompt[-1], content=f"{said}\n\n{prompt[-1].content}".strip())
    return with_turns((*prompt[:-1], asked), turns)


def of_dialogues(lessons: Lessons) -> list[Memo]:
    """Past dialogues of which something was said, each with the answer as its user left it."""
    return [_memo(each) for each in lessons.dialogues if each.said or each.edited]


def of_good_dialogues(lessons: Lessons) -> list[Memo]:
    """Those of them whose answer was edited or praised, without what else was said."""
    return [replace(_memo(each), said="") for each in lessons.dialogues if each.edited or each.liked]


def _memo(each: Dialogue) -> Memo:
    return Memo(query=each.query, answer=each.edited or each.answer, said=each.said, user=each.user)


def of_examples(lessons: Lessons) -> list[Memo]:
    """Requests with the answers that were wanted."""
    return [Memo(query=each.query, answer=each.wanted, said="", user=each.user) for each in lessons.examples]


@dataclass(frozen=True, slots=True)
class View:
    """A way to put the logs into a prompt; which one a system uses is chosen on past logs."""

    name: str
    memos: Callable[[Lessons], list[Memo]]
    form: Form
    choose: Choose = nearest


class Retrieval(Plain):
    """Retrieval as a way to learn: it keeps memos, and a view and two numbers chosen on past logs."""

    learns = True

    def __init__(self, folder: Path, tools: Tools, views: Sequence[View], make_index: MakeIndex) -> None:
        self._file = folder / "retrieval.json"
        self._tools, self._views, self._make_index = tools, views, make_index
        self._shown = Shown(views[0], [], None, UNTRIED, 0.0)

    async def open(self) -> None:
        """As in the protocol."""
        if self._file.exists():
            kept = json.loads(self._file.read_text(encoding="utf-8"))
            (view,) = (view for view in self._views if view.name == kept["view"])
            self._shown = self._made(view, [Memo(**memo) for memo in kept["memos"]], kept["count"], kept["floor"])

    def _made(self, view: View, memos: list[Memo], count: int = UNTRIED, floor: float = 0.0) -> "Shown":
        return Shown(view, memos, self._make_index([memo.query for memo in memos]) if memos else None, count, floor)

    async def learn(self, lessons: Lessons) -> Taught:
        """As in the protocol."""
        cases = sample(lessons.examples, MOST_CASES)
        made = [self._made(view, memos) for view in self._views if (memos := view.memos(lessons))]
        made = [replace(shown, floor=shown.strangers(cases)) for shown in made] or [self._made(self._views[0], [])]
        tried = await asyncio.to_thread(self._tried, made, cases) if len(cases) >= LEAST_CASES else {}
        self._shown = best(tried) if tried else made[0]
        self._keep()
        shown, told_of = self._shown, {f"{s.view.name} {s.count}": round(_mean(v), 2) for s, v in tried.items()}
        figures: dict[str, Json] = {"memos": len(shown.memos), "in_prompt": shown.count, "view": shown.view.name}
        return Taught(
            note=f"{len(shown.memos)} memos, {shown.view.name}, {shown.count} in a prompt",
            figures={**figures, "floor": round(shown.floor, 3), "nats_a_token": cast("Json", told_of)},
        )  # fmt: skip

    def _keep(self) -> None:
        shown = self._shown
        kept = {
            "view": shown.view.name, "count": shown.count, "floor": shown.floor, "memos": [*map(asdict, shown.memos)],
        }  # fmt: skip
        self._file.write_text(json.dumps(kept, ensure_ascii=False), encoding="utf-8")

    def _tried(self, made: Sequence["Shown"], cases: Sequence[Example]) -> "dict[Shown, list[float]]":
        """How surprised the model is by each wanted answer, nats a token, for each view and number of memos."""
        found: dict[Shown, list[float]] = {}
        for shown in (replace(shown, count=count) for shown in made for count in COUNTS):
            if self._tools.likelihood is not None:
                prompts = [shown.prompt(case.prompt, case.user) for case in cases]
                found[shown] = self._tools.likelihood.nll(prompts, [case.wanted for case in cases])
        return found

    def prepare(self, prompt: Prompt) -> Prepared:
        """As in the protocol."""
        return Prepared(messages=self._shown.prompt(prompt))


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """What a system puts into prompts: memos in a view, at most `count`, none less close than `floor`."""

    view: View
    memos: list[Memo]
    index: Index | None
    count: int
    floor: float

    def prompt(self, prompt: Prompt, without: str = "") -> Prompt:
        """The prompt with its memos, those of a user left out."""
        if self.index is None:
            return prompt
        scores = self.index.scores(prompt[-1].content)
        return self.view.form(prompt, self.view.choose(self.memos, scores, self.count, self.floor, without))

    def strangers(self, cases: Sequence[Example]) -> float:
        """What is less close is about something else: far less than nearly all past requests are to the next one."""
        closest = [self._closest(case) for case in cases]
        return SLACK * float(np.quantile(closest, STRANGERS)) if len(closest) >= LEAST_CASES else 0.0

    def _closest(self, case: Example) -> float:
        assert self.index is not None
        others = np.array([memo.user != case.user for memo in self.memos])
        return float(np.max(self.index.scores(case.query), where=others, initial=0.0))


def best(tried: Mapping[Shown, Sequence[float]]) -> Shown:
    """The least surprised, whatever it costs in tokens; of equals the one with fewer memos."""
    return min(tried, key=lambda shown: (_mean(tried[shown]), shown.count))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


DIALOGUES = (
    View("as their users left them", of_good_dialogues, as_turns),
    View("with what their users said", of_dialogues, as_talk),
)
EXAMPLES = (View("right answers", of_examples, as_turns),)


def sample(examples: Sequence[Example], most: int) -> list[Example]:
    """At most so many examples, always the same ones of the same logs."""
    return sorted(examples, key=lambda each: uniform(SALT, each.id))[:most]


def bm25(setting: Setting, tools: Tools) -> Retrieval:
    """Past dialogues that share words."""
    return Retrieval(setting.folder, tools, DIALOGUES, ByWords)


def embedding(setting: Setting, tools: Tools) -> Retrieval:
    """Past dialogues of similar meaning."""
    return Retrieval(setting.folder, tools, DIALOGUES, lambda texts: ByMeaning(texts, tools.embedder))


def few_shot(setting: Setting, tools: Tools) -> Retrieval:
    """Corrected examples of similar meaning, as turns of the conversation."""
    return Retrieval(setting.folder, tools, EXAMPLES, lambda texts: ByMeaning(texts, tools.embedder))
