"""A memory layer and rules in the prompt, as systems of the comparison.

Memory: dialogues with feedback -> notes (a wish and the requests it came from); notes about the same wish are merged,
a newer word on the same request replaces an older one; the nearest notes go into the prompt. With a teacher the notes
are written and kept up by it; without one they are taken from the users' own words.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
from compare_adapters import token_counter
from compare_logs import Dialogue, Lessons
from compare_prompted import Plain, Taught, told
from compare_retrieval import MOST_CHARS, ByMeaning, MakeIndex, Memo, Retrieval, Scores, View, as_turns, of_examples
from compare_types import Prepared, Prompt, Setting

from logtune.errors import ModelError
from logtune.ports import Chat, ChatCall, Embedder, Tools
from logtune.records import Json, Message
from logtune.stages.asking import Reply, Shape, ask
from logtune.stages.distill import ANSWER, SAME_RULE, says_how
from logtune.stages.pairs import plain

SAME_REQUEST = 0.95  # cosine from which two requests are the same one
WISH = "a wish"  # said of a memo that is no right answer
MOST_REQUEST_CHARS = 300  # of a request in a note
SHOWN = 2  # requests of a note that are shown
MOST_RULE_TOKENS = 300  # of all rules in a prompt


def as_notes(prompt: Prompt, memos: Sequence[Memo]) -> Prompt:
    """Notes in the system message, the nearest last; memos with one answer are one note."""
    if not memos:
        return prompt
    requests: dict[str, list[str]] = {}
    for memo in reversed(memos):
        requests.setdefault(memo.answer, []).append(memo.query[:MOST_REQUEST_CHARS])
    lines = [f"- {_quoted(asked[:SHOWN])} -> {wish}" for wish, asked in requests.items()]
    return told(prompt, "Notes from earlier conversations (request -> what users wanted):\n" + "\n".join(lines[::-1]))


def _quoted(texts: Sequence[str]) -> str:
    return " / ".join(f'"{text}"' for text in texts)


def as_shown(prompt: Prompt, memos: Sequence[Memo]) -> Prompt:
    """Notes of right answers as turns of a conversation, those of other wishes in the system message."""
    return as_turns(as_notes(prompt, [m for m in memos if m.said]), [m for m in memos if not m.said])


def nearest_notes(memos: Sequence[Memo], scores: Scores, count: int, floor: float, without: str = "") -> list[Memo]:
    """The memos of the `count` nearest notes, at most SHOWN of each, the nearest last."""
    chosen: dict[str, list[Memo]] = {}
    chars = 0
    for row in np.argsort(-scores, kind="stable"):
        memo = memos[int(row)]
        if scores[row] < floor or scores[row] <= 0:
            break
        full = len(chosen.get(memo.answer, ())) == SHOWN or (memo.answer not in chosen and len(chosen) == count)
        if memo.user != without and not full and chars + memo.chars <= MOST_CHARS:
            chosen.setdefault(memo.answer, []).append(memo)
            chars += memo.chars
    return [memo for note in reversed(chosen.values()) for memo in reversed(note)]


def notes_of(lessons: Lessons, embedder: Embedder) -> list[Memo]:
    """Notes in the users' own words, kept up from the oldest dialogue to the newest."""
    known = {each.id for each in lessons.examples}
    timed = list(zip((each.at for each in lessons.examples), of_examples(lessons), strict=True))
    wished = (each for each in lessons.dialogues if each.id not in known and says_how(each.said))
    timed += ((each.at, Memo(query=each.query, answer=each.said, said=WISH, user=each.user)) for each in wished)
    memos = [memo for _, memo in sorted(timed, key=lambda pair: pair[0])]
    return _newest(_one_wording(memos, embedder), embedder)


def _one_wording(memos: Sequence[Memo], embedder: Embedder) -> list[Memo]:
    """Wishes that mean the same in the words of the first; right answers are exact but for case and signs."""
    firsts: dict[str, str] = {}
    worded: list[str] = []
    found = []
    for memo in memos:
        key = plain(memo.answer)
        if key not in firsts and memo.said and worded:
            close = embedder.embed(worded) @ embedder.embed([memo.answer])[0]
            if close.max() >= SAME_RULE:
                firsts[key] = worded[int(close.argmax())]
        if key not in firsts:
            firsts[key] = memo.answer
            worded += [memo.answer] if memo.said else []
        found.append(replace(memo, answer=firsts[key]))
    return found


def _newest(memos: Sequence[Memo], embedder: Embedder) -> list[Memo]:
    """Of several right answers to the same request the newest; `memos` oldest first."""
    if not memos:
        return []
    vectors = embedder.embed([memo.query for memo in memos])
    kept = []
    for row, memo in enumerate(memos):
        later = [memos[row + 1 + int(n)] for n in np.flatnonzero(vectors[row + 1 :] @ vectors[row] >= SAME_REQUEST)]
        if memo.said or not any(other.answer != memo.answer for other in later if not other.said):
            kept.append(memo)
    return kept


NOTES = (
    View("notes as turns", of_examples, as_shown, nearest_notes),
    View("notes", of_examples, as_notes, nearest_notes),
)


def memory(setting: Setting, tools: Tools) -> Retrieval:
    """A memory layer; with a teacher, which writes its notes, where there is one."""
    meaning: MakeIndex = lambda texts: ByMeaning(texts, tools.embedder)  # noqa: E731
    if tools.teacher is not None:
        return WrittenMemory(setting.folder, tools, WRITTEN, meaning)
    views = [replace(view, memos=lambda lessons: notes_of(lessons, tools.embedder)) for view in NOTES]
    return Retrieval(setting.folder, tools, views, meaning)


# --- with a teacher ---


class Noted(Reply):
    """What a teacher writes down of a dialogue."""

    notes: list[str]


class Kept(Reply):
    """What a teacher does with a new note, given those about similar matters."""

    action: Literal["add", "replace", "merge", "skip"]
    number: int = 0  # of the old note that is replaced or merged
    text: str = ""


NOTED: dict[str, Json] = {
    "type": "object", "required": ["notes"], "additionalProperties": False,
    "properties": {"notes": {"type": "array", "maxItems": 2, "items": {"type": "string", "maxLength": 200}}},
}  # fmt: skip
KEPT: dict[str, Json] = {
    "type": "object", "required": ["action", "number", "text"], "additionalProperties": False,
    "properties": {
        "action": {"type": "string", "enum": ["add", "replace", "merge", "skip"]}, "number": {"type": "integer"},
        "text": {"type": "string", "maxLength": 200},
    },
}  # fmt: skip
WRITE = (
    "Write down what is worth remembering of this conversation for later requests of the same kind: what the user "
    "wants of an answer, one short sentence each, at most two. Where nothing is, write no note.\n\n"
    'User: {query}\nAssistant: {answer}\nUser: {said}\n\nReply with JSON only: {{"notes": ["..."]}}'
)
KEEP = (
    "You keep a list of notes about what users want. Decide what becomes of a new note.\n"
    "add: it is about something else than the old ones. skip: an old one says it already. replace: it contradicts an "
    "old one, which goes. merge: both belong together; write both as one sentence.\n\n"
    'Old notes:\n{old}\n\nNew note: {new}\n\nReply with JSON only: {{"action": "add", "number": 0, "text": ""}}'
)
SIMILAR = 3  # old notes that a new one is held against
RELATED = 0.6  # cosine from which they are shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A note, and the requests that it came from."""

    text: str
    requests: tuple[tuple[str, str], ...]  # (request, user)*


WRITTEN = (NOTES[1], View("notes as turns", of_examples, as_turns, nearest_notes))  # in words, unless turns work better


class WrittenMemory(Retrieval):
    """Notes that a teacher writes; a dialogue is read once, in the week in which it happened."""

    async def learn(self, lessons: Lessons) -> Taught:
        """As in the protocol."""
        file = self._file.with_name("notes.json")
        kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"read": [], "notes": []}
        notes = [Note(text=n["text"], requests=tuple(map(tuple, n["requests"]))) for n in kept["notes"]]
        fresh = [each for each in lessons.dialogues if each.told and each.id not in set(kept["read"])]
        teacher = self._tools.teacher
        assert teacher is not None
        written = await asyncio.gather(*(_write(teacher, each) for each in fresh))
        failed = sum(found is None for found in written)
        for each, found in zip(fresh, written, strict=True):
            for text in found or ():
                notes = await _keep(teacher, notes, Note(text=text, requests=((each.query, each.user),)), self._tools)
        read = [*kept["read"], *(each.id for each in fresh)]
        file.write_text(json.dumps({"read": read, "notes": [asdict(n) for n in notes]}), encoding="utf-8")
        memos = [Memo(query=request, answer=n.text, said="", user=user) for n in notes for request, user in n.requests]
        self._views = [replace(view, memos=lambda _: memos) for view in WRITTEN]
        taught = await super().learn(lessons)
        return replace(taught, note=f"{taught.note}; {len(notes)} notes by the teacher, {failed} dialogues failed")


async def _write(teacher: Chat, each: Dialogue) -> list[str] | None:
    """Notes on a dialogue; None where the teacher gave no valid reply."""
    text = WRITE.format(query=each.query, answer=each.answer, said=each.told)
    try:
        return [note.strip() for note in (await _asked(teacher, text, NOTED, Noted)).notes if note.strip()]
    except ModelError:
        return None


async def _keep(teacher: Chat, notes: list[Note], new: Note, tools: Tools) -> list[Note]:
    """The notes with a new one among them, as the teacher decides."""
    close = (
        tools.embedder.embed([n.text for n in notes]) @ tools.embedder.embed([new.text])[0] if notes else np.zeros(0)
    )
    near = [int(n) for n in np.argsort(-close)[:SIMILAR] if close[n] >= RELATED]
    if not near:
        return [*notes, new]
    old = "\n".join(f"{number}. {notes[n].text}" for number, n in enumerate(near, start=1))
    try:
        kept = await _asked(teacher, KEEP.format(old=old, new=new.text), KEPT, Kept)
    except ModelError:
        return [*notes, new]
    if kept.action == "add" or not 1 <= kept.number <= len(near):
        return [*notes, new]
    place = near[kept.number - 1]
    both = (*notes[place].requests, *new.requests)
    changed = {
        "skip": Note(text=notes[place].text, requests=both), "replace": new,
        "merge": Note(text=kept.text.strip() or notes[place].text, requests=both),
    }[kept.action]  # fmt: skip
    return [*notes[:place], changed, *notes[place + 1 :]]


async def _asked(teacher: Chat, text: str, schema: dict[str, Json], shape: type[Shape]) -> Shape:
    call = ChatCall(messages=(Message(role="user", content=text),), schema=schema, max_tokens=300, purpose="memory")
    return await ask(teacher, call, shape, "notes JSON")


# --- rules in the prompt ---


class RulesInPrompt(Plain):
    """The rules of all logs in every prompt: those in words, then the answers that users wanted."""

    learns = True

    def __init__(self, setting: Setting, tools: Tools) -> None:
        self._file = setting.folder / "rules.json"
        self._count = token_counter(tools.base_path)
        self._text = ""

    async def open(self) -> None:
        """As in the protocol."""
        if self._file.exists():
            self._text = json.loads(self._file.read_text(encoding="utf-8"))["text"]

    async def learn(self, lessons: Lessons) -> Taught:
        """As in the protocol."""
        self._text, told_rules, told_answers = rules_text(lessons, self._count)
        self._file.write_text(json.dumps({"text": self._text}), encoding="utf-8")
        note = f"{len(lessons.rules)} rules; {told_rules} in words and {told_answers} right answers are told"
        return Taught(note=note, figures={"rules": len(lessons.rules), "tokens": self._count(self._text)})

    def prepare(self, prompt: Prompt) -> Prepared:
        """As in the protocol."""
        return Prepared(messages=told(prompt, self._text))


def rules_text(lessons: Lessons, count: Callable[[str], int]) -> tuple[str, int, int]:
    """What a prompt says of the rules, best first, up to MOST_RULE_TOKENS; and how many of both kinds it tells."""
    left = MOST_RULE_TOKENS
    worded, left = _fitting([rule.text for rule in lessons.worded], left, count)
    wanted = [
        r.text[len(ANSWER) :].strip() for r in lessons.rules if r.text.startswith(ANSWER) and r.distinct_users > 1
    ]
    answers, _ = _fitting(list(dict.fromkeys(wanted)), left, count)
    parts = []
    if worded:
        parts.append("Keep to these rules:\n" + "\n".join(f"- {text}" for text in worded))
    if answers:
        parts.append("Right answers are, for example:\n" + "\n".join(answers))
    return "\n\n".join(parts), len(worded), len(answers)


def _fitting(texts: Sequence[str], tokens: int, count: Callable[[str], int]) -> tuple[list[str], int]:
    """The first texts that fit, and how many tokens are left."""
    kept = []
    for text in texts:
        size = count(text) + 2  # with its bullet and line
        if size > tokens:
            break
        kept.append(text)
        tokens -= size
    return kept, tokens
