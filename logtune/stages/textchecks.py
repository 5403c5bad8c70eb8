"""query, answer -> what is wrong with the text itself, without a model and without looking at other logs.

Sizes and broken characters first, then the noise classes by the clues of `lexicon`, then personal data. A class's score
is 1 - product(1 - weight) over the clues that were found (noisy or): clues add up, none is certain.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from types import MappingProxyType
from typing import NamedTuple

from logtune.config import FilterSettings
from logtune.stages.languages import language
from logtune.stages.lexicon import CLUES, IDEAS, Clue
from logtune.stages.personal import personal_data, strong_identifiers
from logtune.stages.redact import FILE, placeholders

FLAG = 0.5  # a class is named from this score on, in the words of feedback
SENTENCE = 40  # words that a full stop counts for: more than any span but those over sentences
SHOUT = 200  # characters of a request that is shouted
SCANNED = 8000  # characters; longer texts are too long anyway


class Finding(NamedTuple):
    """Why a text teaches nothing, and the numbers it rests on."""

    reason: str  # a code of filter.REASONS
    scores: Mapping[str, float]


def check_text(
    query: str, answer: str, settings: FilterSettings, scores: Mapping[str, float] | None = None
) -> Finding | None:
    """The first thing that is wrong with an interaction's own text; None: nothing.

    `scores` of the noise classes 0..1 by a trained model; None: by the clues of the lexicon.
    """
    found = check_form(query, answer, settings)
    if found is not None:
        return found
    found = worst(pardoned(query, class_scores(query) if scores is None else scores), settings)
    if found is not None:
        return found
    return check_private(query, answer) if settings.personal_data == "drop" else None


def check_form(query: str, answer: str, settings: FilterSettings) -> Finding | None:
    """Size, broken text, and a language that is not served."""
    sized = _size(query, answer, settings)
    if sized is not None:
        return sized
    broken = malformed(query)
    if broken is not None:
        return Finding("malformed", {broken: 1.0})
    stripped = query.strip()
    if len(stripped) < settings.min_chars and _width(stripped) < settings.min_chars:
        return Finding("too_short", {"chars": float(len(stripped))})
    if settings.languages:
        spoken = language(query)
        if spoken and spoken not in settings.languages:
            return Finding("language_not_served", {spoken: 1.0})
    return None


def worst(scores: Mapping[str, float], settings: FilterSettings) -> Finding | None:
    """The class that is farthest above its threshold; None where none reaches it. A threshold of 1 is never reached."""
    limits = {name: float(getattr(settings, name)) for name in scores}
    over = {name: scores[name] - limits[name] for name in scores if limits[name] <= scores[name] and limits[name] < 1}
    if not over:
        return None
    name = max(over, key=over.__getitem__)
    return Finding(name, {name: round(scores[name], 3), "threshold": round(limits[name], 3)})


OWN = re.compile(r"\b(?:my|our|mine)\s+(?:\w+\s+){0,2}?[a-z]{3,}", re.IGNORECASE)
SOLD = re.compile(
    r"https?:|www\.|\.(?:com|net|org|ru|info|co)\b|[£$€]|\d{4,}|%|\b(?:free|win|won|winner|prize|cash|offer|txt|text|reply"
    r"|stop|claim|gift|deal|discount|cheap|buy|sale|sell|credit|loan|earn|click|subscribe|follow|ringtone|mobile|sms|visit"
    r"|service|services|company|channel|website|hot|sexy|dating|crypto|bitcoin|investment)\b",
    re.IGNORECASE,
)


def pardoned(text: str, scores: Mapping[str, float]) -> Mapping[str, float]:
    """The scores, without that of spam where somebody shouts about their own matter and sells nothing."""
    if scores.get("spam", 0.0) and len(text) <= SHOUT and OWN.search(text) and not SOLD.search(text):
        return {**scores, "spam": 0.0}
    return scores


def check_private(query: str, answer: str) -> Finding | None:
    """Personal data, or the placeholders where it was: in an answer, which would be learned with its gap.

    A query from which it was cut out holds none any more; what a file held is missing from it, though.
    """
    found = personal_data(query) or strong_identifiers(answer)
    counts = {kind: len(spans) for kind, spans in found.items()}
    counts = counts or {kind: count for kind, count in placeholders(query).items() if kind == FILE}
    counts = counts or placeholders(answer)
    return Finding("personal_data", {kind: float(count) for kind, count in counts.items()}) if counts else None


def _size(query: str, answer: str, settings: FilterSettings) -> Finding | None:
    longest = max(len(query), len(answer))
    return Finding("too_long", {"chars": float(longest)}) if longest > settings.max_chars else None


def _width(text: str) -> int:
    """Characters, where one of a script without letters (Han, Kana, Hangul) says as much as two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


# --- broken text ---

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours of a terminal, in pasted logs
BIDI = re.compile(r"[\u202a-\u202c\u2066-\u2069]")  # marks of direction, without those that turn letters around
RIGHT_TO_LEFT = re.compile(r"[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
SUM = re.compile(
    r"^[\s(]*[$€£¥]?\d[\d.,]*%?(?:[\s()]*[-+*/×÷^=<>][\s()]*[$€£¥]?\d[\d.,]*%?)+[\s()€]*(?:=\s*\??|\?)\s*$"
)
ASKS = re.compile(
    r"\?|\b(?:explain|what|why|how|fix|debug|does|do|is|can|should|convert|translate|describe|meaning|means?|help|was"
    r"|wie|warum|erkläre?|que|qué|por qué|cómo|comment|pourquoi|explique|cosa|perché|come|wat|waarom|что|как|почему"
    r"|объясни)\b|什么|为什么|怎么|解释|何|なぜ|説明",
    re.IGNORECASE,
)
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ue000-\uf8ff]")
ESCAPED = re.compile(r"\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|%[0-9a-f]{2}%[0-9a-f]{2}|&#x?[0-9a-f]{2,7};?", re.IGNORECASE)
STACKED = re.compile(r"[\u0300-\u036f\u0489]{3,}")  # marks piled on one letter
WORD = re.compile(r"[^\W\d_]{2,}")
INJECTED = re.compile(
    r"<\s*/?\s*[a-z][\w-]*(?:[\s/][^<>]*)?/?>|<\s*/?\s*(?:script|img|iframe|svg|style|object|embed|body|a|meta|link)\b[^>]*"
    r"|javascript\s*:|vbscript\s*:|\bon(?:error|load|click|mouse\w+|focus|wheel)\s*=|\balert\s*\(|\bexpression\s*\("
    r"|'\s*(?:or|and)\s*'?\d+'?\s*=\s*'?\d+|;\s*(?:drop|delete|insert|update)\s+\w+|\bunion\s+select\b|--\s*$"
    r"|\$\{?\w*jndi"
    r"|<!\w+|<\?\w+|\$\(\s*\w+|`[^`]*/[^`]*`|%x\(|\.\./\.\./|/etc/passwd|&lt;\s*script",
    re.IGNORECASE,
)
MARKS = re.compile(r"[<:=(;$`%/&\\]|--|union", re.IGNORECASE)  # what INJECTED and ESCAPED match has one of these
STYLED = re.compile(r"[\U0001d400-\U0001d7ff\uff21-\uff5a\u24b6-\u24e9\U0001f130-\U0001f189]")


def malformed(text: str) -> str | None:
    """What is broken in `text`: control, marks, no_words, styled, injected or escapes; None: nothing."""
    if CONTROL.search(text) and CONTROL.search(_without_marks(text)):
        return "control"
    foreign = not text.isascii()
    if foreign and STACKED.search(text):
        return "marks"
    if WORD.search(text) is None and not any(
        char.isalpha() and unicodedata.east_asian_width(char) == "W" for char in text
    ):
        return None if SUM.match(text) else "no_words"
    if foreign and len(STYLED.findall(text)) * 2 > sum(map(len, WORD.findall(text))) > 0:
        return "styled"
    return _mostly_markup(text)


def _without_marks(text: str) -> str:
    """Without the control characters that belong there: colours of a terminal, directions among Hebrew or Arabic."""
    plain = ANSI.sub("", text)
    return BIDI.sub("", plain) if RIGHT_TO_LEFT.search(plain) else plain


def _mostly_markup(text: str) -> str | None:
    """A pasted program is fine, a request that is nothing but an attack string is not: few words remain beside it."""
    if MARKS.search(text) is None:
        return None
    if INJECTED.search(text):
        beside = INJECTED.sub(" ", ESCAPED.sub(" ", text))
        words = len(WORD.findall(beside))
        if words < 6 and not (words and ASKS.search(beside)):  # a question about the code is one
            return "injected"
    if sum(len(item) for item in ESCAPED.findall(text)) * 3 > len(text):
        return "escapes"
    return None


# --- noise classes, by clues ---

TOKEN = re.compile(r"(?P<stop>[.!?\n]+(?=\s|$)|\n)|@?[£$€]?\+?[^\W_](?:[^\s,;()\"“”<>\[\]{}!?]*[^\W_])?\+{0,2}")
ROLE = re.compile(  # a message that pretends to be another role's
    r"^\W*(?:system|assistant|developer|instructions?|new instructions?)\s*:|<\|\w+\|>|\[/?INST\]|<</?SYS>>",
    re.IGNORECASE | re.MULTILINE,
)
SHOUTED = re.compile(r"\b[A-Z]{3,}\b")
SHAPES = {
    "#number": re.compile(r"^(?:\+?\d{10,13}|\d{5})$"),
    "#money": re.compile(r"^[£$€]\d"),
    "#fee": re.compile(r"^£?\d{1,3}(?:\.\d\d)?p(?:pm|m|min|ence|er)?(?:/.*)?$"),
    "#link": re.compile(r"^(?:https?://|www\.)|\.(?:com|co\.uk|net|org|ru|info)\b"),
    "#tweet": re.compile(r"^(?:@\w+|rt|lmao+|bae)$"),
    "whose": re.compile(r"^(?!(?:what|where|who|that|it|there|here|how|let|when)'s$)..+(?:'s|s')$"),
}
Places = Mapping[str, Sequence[int]]


def class_scores(text: str) -> dict[str, float]:
    """Score 0..1 of each noise class of `lexicon.CLUES`."""
    places = _places(text[:SCANNED])
    scores = {name: _noisy_or(clue.weight for clue in clues if _found(clue, places)) for name, clues in CLUES.items()}
    if "defence" in places and "conceal" not in places:  # harm prevented, reported, in a game, in history
        scores["harmful_request"] *= 0.6
    return scores


def _noisy_or(weights: Iterable[float]) -> float:
    missed = 1.0
    for weight in weights:
        missed *= 1 - weight
    return 1 - missed


def _places(text: str) -> Places:
    """Where each idea stands, in words from the start; a sentence's end counts as many words."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    words = [(match.group(), match["stop"] is not None) for match in TOKEN.finditer(text.lower().replace("’", "'"))]
    at = 0
    for index, (word, stop) in enumerate(words):
        at += SENTENCE if stop else 1
        if stop:
            continue
        for idea in _ideas(word):
            places[idea].append(at)
        for idea, length in _phrases_at(words, index):
            places[idea].append(at + length)
    if ROLE.search(text):
        places["#role"].append(1)
    if len(SHOUTED.findall(text)) >= 3:
        places["#shout"].append(1)
    return places


def _found(clue: Clue, places: Places) -> bool:
    """True when the clue's ideas stand in order, all within its span."""
    return all(idea in places for idea in clue.ideas) and any(
        _follows(clue.ideas[1:], start, start + clue.span, places) for start in places[clue.ideas[0]]
    )


def _follows(ideas: Sequence[str], start: int, end: int, places: Places) -> bool:
    """The earliest place of each next idea is always the best choice."""
    for idea in ideas:
        following = next((place for place in places[idea] if start < place <= end), None)
        if following is None:
            return False
        start = following
    return True


class _Table(NamedTuple):
    """IDEAS by how its entries are looked up."""

    words: Mapping[str, frozenset[str]]
    prefixes: Mapping[str, frozenset[str]]
    phrases: Mapping[str, tuple[tuple[tuple[str, ...], str], ...]]  # first word -> rest, idea


@cache
def _table() -> _Table:
    words, prefixes, phrases = defaultdict(set), defaultdict(set), defaultdict(list)
    for idea, listed in IDEAS.items():
        for entry in listed.split():
            first, *rest = entry.split("_")
            if rest:
                phrases[first].append((tuple(rest), idea))
            elif entry.endswith("*"):
                prefixes[entry[:-1]].add(idea)
            else:
                words[entry].add(idea)
    rests = {first: tuple(entries) for first, entries in phrases.items()}
    return _Table(_frozen(words), _frozen(prefixes), MappingProxyType(rests))


def _frozen(table: Mapping[str, set[str]]) -> Mapping[str, frozenset[str]]:
    return MappingProxyType({key: frozenset(value) for key, value in table.items()})


@lru_cache(maxsize=65536)
def _ideas(word: str) -> tuple[str, ...]:
    table = _table()
    found = set(table.words.get(word, ()))
    found.update(*(table.prefixes.get(word[:end], frozenset()) for end in range(3, len(word) + 1)))
    found.update(name for name, shape in SHAPES.items() if shape.search(word))
    return tuple(sorted(found))


def _phrases_at(words: Sequence[tuple[str, bool]], index: int) -> Iterator[tuple[str, int]]:
    """Ideas of the phrases that begin at `index`, with how many words follow the first."""
    for rest, idea in _table().phrases.get(words[index][0], ()):
        following = [word for word, _ in words[index + 1 : index + 1 + len(rest)]]
        if len(following) == len(rest) and all(map(_is, following, rest)):
            yield idea, len(rest)


def _is(word: str, entry: str) -> bool:
    return word.startswith(entry[:-1]) if entry.endswith("*") else word == entry
