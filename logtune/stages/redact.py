"""text, JSON -> the same without personal data and secrets: a placeholder such as [email] stands where each was.

Nothing maps a placeholder back. What reads like ordinary text is passed over by cheap looks (a run of digits, an "@"),
so that a chat costs microseconds; patterns are linear, so that a hostile megabyte costs seconds at most.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from logtune.records import Json
from logtune.stages.credentials import LEAST, credentials, is_secret, named
from logtune.stages.personal import LEAST_DOTS, NO_DIGITS, Runs, cards, emails, ibans, ips, number_runs, phones

Places = Iterable[tuple[int, int]]  # (start, end) in a text
Finder = Callable[[str], Places]


class Span(NamedTuple):
    """Characters start..end of a text, and what they are."""

    start: int
    end: int
    kind: str


# In this order: what an earlier one has found is not looked at again.
WORDS: Mapping[str, Finder] = {"key": credentials, "email": emails}
NUMBERS: Mapping[str, Callable[[str, Runs], Places]] = {"iban": ibans, "card": cards, "ip": ips, "phone": phones}
KINDS = frozenset({*WORDS, *NUMBERS})
NAME, FILE = "name", "file"  # what a recogniser of names has found; data of images and other files
PLACEHOLDER = re.compile(r"\[(email|phone|card|iban|ip|key|name|file)(?:: [^\[\]\n]{1,80})?\]")


# Without "@", ":", "=" or "%" and with few digits there is no number, address or assignment; a key is a long word.
SHORTEST, LONG = 6, 20  # characters of anything that is found, of a key without a digit
# The id of an answer: no vendor's prefix, no space, ":" or "=" after the name of a secret, and no number of any length.
ANSWER_ID = re.compile(r"chatcmpl-(?!.*\d[\d-]{6})[0-9A-Za-z-]*+")
KNOWN, LONGEST_KNOWN = 4096, 2048  # plain texts that are remembered; characters of one


def is_plain(text: str) -> bool:
    """True when a cheap look tells that there is nothing to find but names of people."""
    if len(text) < SHORTEST or (len(text) < LEAST and text.isalpha()):
        return True
    if text.startswith("chatcmpl-") and ANSWER_ID.fullmatch(text):
        return True
    if "@" in text or ":" in text or "=" in text or "%" in text or not text.isascii():
        return False
    digits = len(text.encode().translate(None, NO_DIGITS))
    long = LEAST if digits else LONG
    short = len(text) < long or ("-----" not in text and max(map(len, text.split()), default=0) < long)
    return short and digits < LEAST_DOTS and next(named(text), None) is None


_known: dict[str, None] = {}  # names of fields, prompts of systems, earlier turns: the same come again and again


def _plain(text: str) -> bool:
    """`is_plain`, remembered for texts in which there is nothing to find, and for no others."""
    if text in _known:
        return True
    if not is_plain(text):
        return False
    if len(text) <= LONGEST_KNOWN:
        if len(_known) >= KNOWN:
            _known.clear()
        _known[text] = None
    return True


def find(text: str, kinds: Collection[str], names: Finder | None = None) -> tuple[Span, ...]:
    """What is personal or secret in `text`, in order, without overlaps; `names` finds names of people."""
    if names is None and is_plain(text):
        return ()
    found: list[Span] = []
    rest = text
    for kind, finder in WORDS.items():
        if kind in kinds:
            rest = _taken(rest, kind, finder(rest), found)
    runs = number_runs(rest) if not NUMBERS.keys().isdisjoint(kinds) else []
    for kind, look in NUMBERS.items():
        if kind in kinds:
            rest = _taken(rest, kind, look(rest, runs), found)
    if names is not None:
        _taken(rest, NAME, names(rest), found)
    return tuple(sorted(found))


def redact(text: str, kinds: Collection[str], names: Finder | None = None) -> str:
    """`text` with a placeholder for each thing found."""
    return _replaced(text, find(text, kinds, names))


def placeholders(text: str) -> dict[str, int]:
    """How often each kind was cut out of `text`."""
    return dict(Counter(match[1] for match in PLACEHOLDER.finditer(text))) if "[" in text else {}


def _replaced(text: str, spans: Iterable[Span]) -> str:
    pieces, at = list[str](), 0
    for start, end, kind in spans:
        pieces += [text[at:start], f"[{kind}]"]
        at = end
    return "".join([*pieces, text[at:]]) if pieces else text


def _taken(text: str, kind: str, places: Places, found: list[Span]) -> str:
    """Add the places to `found`; the text with NUL in them, which no pattern matches."""
    ordered = sorted(places)
    if not ordered:
        return text
    new = [Span(start, end, kind) for start, end in _merged(ordered) if "\0" not in text[start:end]]
    found += new
    pieces, at = list[str](), 0
    for start, end, _ in new:
        pieces += [text[at:start], "\0" * (end - start)]
        at = end
    return "".join([*pieces, text[at:]]) if new else text


def _merged(ordered: Places) -> Iterator[tuple[int, int]]:
    """Of those that overlap, one from the first's start to the last's end."""
    first, last = -1, -1
    for start, end in ordered:
        if start < last:
            last = max(last, end)
            continue
        if last >= 0:
            yield first, last
        first, last = start, end
    if last >= 0:
        yield first, last


# --- JSON ---

DEEPEST = 100  # objects and lists in each other, as in the log format
TOO_DEEP = "[too deep]"
PROMPT = frozenset({"prompt_logprobs", "prompt_token_ids"})  # the prompt again, token by token
TOKENS = frozenset({"logprobs", "token_ids"})  # of a choice: its text again, token by token
SPOKEN = ("message", "text")  # of a choice: what it says
NAMELESS = frozenset({
    "role", "type", "model", "object", "finish_reason", "id", "tool_call_id", "system_fingerprint", "service_tier",
})  # fmt: skip
DATA_URL = re.compile(r"data:([\w.+-]{1,40}/[\w.+-]{1,60})?[^,\s\"'()<>]{0,100};base64,([A-Za-z0-9+/=_%-]*+)")
DATA_FIELDS = frozenset({"data", "file_data", "b64_json"})  # fields of parts that hold a file in base64
SHORTEST_FILE = 256  # characters
SHORT = 64  # characters of a value that the name of its field may explain
LEAST_NUMBER, MOST_NUMBER = 1_000_000, 10**20  # other numbers are neither phone nor card
COUNTS = frozenset({"seed", "created"})  # whole numbers that look like anything
TELLING = re.compile(
    r"phone|mobil|tel|fax|cell|whats|sms|handy|card|cc|visa|iban|account|ip|addr|pass|pwd|secret|token|key|cred|auth",
    re.IGNORECASE,
)  # in the name of a field that may say what its value is
HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|[_-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Redactor:
    """What is cut out; without kinds and names nothing is, and files stay."""

    kinds: frozenset[str]
    names: Finder | None = None
    keep: frozenset[str] = frozenset()  # texts that stay, lower case
    files: bool = True  # base64 data of images, audio and files is cut out too

    @property
    def on(self) -> bool:
        """False when everything stays."""
        return bool(self.kinds) or self.names is not None or self.files

    def text(self, text: str) -> str:
        """A text without what is personal."""
        return self._text(text, self.names)

    def identifies(self, name: str) -> bool:
        """True when an id is personal itself, or secret."""
        return any(True for _ in self._kept(name, find(name, self.kinds)))

    def redacted(self, value: Json) -> Json:
        """A JSON value without what is personal, in texts, names of fields, numbers and JSON inside of texts."""
        return self._value(value, "", 0) if self.on else value

    def _text(self, text: str, names: Finder | None) -> str:
        return _replaced(text, self._kept(text, find(text, self.kinds, names)))

    def _kept(self, text: str, spans: Iterable[Span]) -> Iterable[Span]:
        if not self.keep:
            return spans
        return [span for span in spans if text[span.start : span.end].lower() not in self.keep]

    def _value(self, value: Json, field: str, depth: int) -> Json:
        if isinstance(value, str):
            return self._string(value, field, depth)
        if isinstance(value, (dict, list)) and depth >= DEEPEST:
            return TOO_DEEP
        if isinstance(value, dict):
            return self._object(value, depth)
        if isinstance(value, list):
            return [self._value(item, field, depth + 1) for item in value]
        whole = "" if field in COUNTS else _whole(value)
        return self._number(value, whole, field) if whole else value

    def _object(self, given: dict[str, Json], depth: int) -> Json:
        made: dict[str, Json] = {}
        for key, value in given.items():
            name = cleaned = key if _plain(key) else self._text(key, None)
            while name in made:  # two names that differ in what was cut out
                name = f"{cleaned} {len(made) + 1}"
            if key in PROMPT or (key == "prompt" and _is_tokens(value)):
                made[name] = None
            elif isinstance(value, str):
                made[name] = self._string(value, key, depth + 1)
            else:
                made[name] = value if value is None or isinstance(value, bool) else self._value(value, key, depth + 1)
        if not TOKENS.isdisjoint(given) and any(made.get(key) != given.get(key) for key in SPOKEN):
            made.update({key: None for key in TOKENS if key in made})
        return made

    def _string(self, text: str, field: str, depth: int) -> str:
        telling, names = _telling(field), None if field in NAMELESS else self.names
        if telling and "key" in self.kinds and is_secret(field, text) and text.lower() not in self.keep:
            return "[key]"
        plain = names is None and _plain(text)
        if plain and field not in DATA_FIELDS:  # a data URL has a colon, so it is not plain
            return text
        if self.files:
            text = _without_files(text, field)
        if plain:
            return text
        if text[:1] in "{[ \n" and text.lstrip()[:1] in ("{", "["):
            text = self._inner(text, depth)
        return (self._explained(text, field) if telling else None) or self._text(text, names)

    def _inner(self, text: str, depth: int) -> str:
        """JSON inside of a text, such as the arguments of a tool call: its escapes could hide something."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return text
        cleaned = self._value(value, "", depth + 1)
        return text if cleaned == value else json.dumps(cleaned, ensure_ascii=False)

    def _explained(self, text: str, field: str) -> str | None:
        """A short value with a digit, read after the name of its field: {"phone": "555 0100"}."""
        if len(text) > SHORT or len(field) > SHORT or not any(map(str.isdigit, text)):
            return None
        before = f"{HUMP.sub(' ', field)}: "
        spans = [span for span in find(before + text, self.kinds) if span.start >= len(before)]
        moved = [Span(span.start - len(before), span.end - len(before), span.kind) for span in spans]
        return _replaced(text, self._kept(text, moved)) if moved else None

    def _number(self, value: Json, whole: str, field: str) -> Json:
        found = self._explained(whole, field or "number")
        return value if found is None or found == whole else found


def _whole(value: Json) -> str:
    """The digits of a number that could be one of a phone or card; "" for all else."""
    if isinstance(value, int):  # apart: to the compiler it is no float
        return str(value) if LEAST_NUMBER <= abs(value) < MOST_NUMBER else ""
    return str(int(value)) if isinstance(value, float) and LEAST_NUMBER <= abs(value) < MOST_NUMBER else ""


def _is_tokens(prompt: Json) -> bool:
    """Whether it is told in numbers of tokens, which anybody with the vocabulary can read."""
    first = prompt[0] if isinstance(prompt, list) and prompt else None
    return isinstance(first, int) or (first is not None and _is_tokens(first))


@lru_cache(maxsize=4096)
def _telling(field: str) -> bool:
    return TELLING.search(field) is not None


def _without_files(text: str, field: str) -> str:
    if field in DATA_FIELDS and len(text) >= SHORTEST_FILE and not text.startswith("data:"):
        return f"[{FILE}: {len(text)} characters]"
    if "data:" not in text or ";base64," not in text:
        return text
    return DATA_URL.sub(_file, text)


def _file(match: re.Match[str]) -> str:
    """An icon of a few bytes stays, unless it is text."""
    kind, length = match[1] or "text/plain", len(match[2])
    small = length < SHORTEST_FILE and kind.startswith(("image/", "audio/", "video/"))
    return match.group() if small else f"[{FILE}: {kind}, {length} characters]"
