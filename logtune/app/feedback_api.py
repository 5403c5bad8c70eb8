"""POST /v1/feedback: what a user said about an answer, in our own shape.

body -> target (any id the client holds) -> Feedback -> journal -> {"id", "status"}

Feedback is never turned away for coming early or for an unknown id: it is kept, and joined when the record comes.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Literal, cast, get_args

from logtune.app.journal import Journal
from logtune.edges.store import Store
from logtune.errors import RequestError, StoreError
from logtune.records import Feedback, FeedbackKind, Json, digest, new_id

TargetKind = Literal["record", "session", "user"]
RECORD_KEYS = ("target", "log_id", "inference_id", "response_id")
KNOWN_KEYS = frozenset({
    "id", *RECORD_KEYS, "target_kind", "session", "user", "kind", "value", "rating", "comment", "correction", "source",
    "supersedes", "metadata", "tags",
})  # fmt: skip
WORDS: Mapping[str, float | None] = {
    "up": 1.0, "like": 1.0, "good": 1.0, "positive": 1.0, "down": -1.0, "dislike": -1.0, "bad": -1.0, "negative": -1.0,
    "neutral": None,
}  # fmt: skip
OWN_ANSWER = re.compile(r"chatcmpl-([0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12})")
REMEMBERED = 100_000  # answers whose id a client may send back
LONGEST_ID = 256


class Answers:
    """Which record an answer's id belongs to, where the model server chose the id. An id's newest answer counts."""

    def __init__(self, capacity: int = REMEMBERED) -> None:
        self._capacity = capacity
        self._records: OrderedDict[str, str] = OrderedDict()

    def note(self, response: Mapping[str, Json] | None, record_id: str) -> None:
        """Remember the id of an answer; one that holds the record's own id needs no remembering."""
        answer_id = (response or {}).get("id")
        if not isinstance(answer_id, str) or record_id in answer_id or self._records.get(answer_id) == record_id:
            return
        self._records[answer_id] = record_id
        self._records.move_to_end(answer_id)
        if len(self._records) > self._capacity:
            self._records.popitem(last=False)

    def find(self, answer_id: str) -> str | None:
        """The record of an answer's id."""
        return self._records.get(answer_id)


class FeedbackApi:
    """Takes feedback in, through the same journal as the records it is about."""

    def __init__(self, store: Store, journal: Journal, answers: Answers) -> None:
        self._store = store
        self._journal = journal
        self._answers = answers

    async def post(self, body: Mapping[str, Json], now: float) -> tuple[int, dict[str, Json]]:
        """Keep one item; the HTTP status and the answer. RequestError 400 names the field at fault."""
        kind, named = named_target(body)
        target, known = await self._resolve(kind, named)
        feedback = read_feedback(body, kind, target, now)
        stored = await self._journal.commit(feedback)
        answer: dict[str, Json] = {"id": feedback.id, "status": "revoked" if feedback.revoked else "stored"}
        if stored and known:
            return 200, answer
        note = f"no {kind} '{named}' yet; it is joined when one comes" if stored else "waits until the store answers"
        return 202, {**answer, "status": "accepted", "note": note}

    async def _resolve(self, kind: TargetKind, named: str) -> tuple[str, bool]:
        """The id that records have, and whether there is such a record."""
        own = OWN_ANSWER.fullmatch(named)
        guesses = [self._answers.find(named), own[1] if own else None, named] if kind == "record" else [named]
        candidates = [guess for guess in guesses if guess]
        try:
            known = await asyncio.to_thread(self._store.known, kind, candidates)
        except StoreError:  # a store that fails must not cost the feedback
            known = set()
        return next((guess for guess in candidates if guess in known), candidates[0]), bool(known)


def named_target(body: Mapping[str, Json]) -> tuple[TargetKind, str]:
    """What the feedback is about, as the client names it."""
    for key in body:
        if key not in KNOWN_KEYS:
            close = get_close_matches(key, KNOWN_KEYS, 1)
            guess = f"did you mean '{close[0]}'? " if close else ""
            allowed = ", ".join(sorted(KNOWN_KEYS))
            raise RequestError(f"unknown field '{key[:80]}'; {guess}allowed: {allowed}", param=key[:80])
    found = {key: _text(body, key) for key in (*RECORD_KEYS, "session", "user")}
    given = [key for key in (*RECORD_KEYS, "session") if found[key]]
    if len({found[key] for key in given}) > 1:
        raise RequestError(f"{' and '.join(given)} name different targets; give one of them", param=given[-1])
    key = next(iter(given), "user")
    name = found[key]
    if name is None:
        allowed = ", ".join(RECORD_KEYS)
        raise RequestError(f"nothing says what the feedback is about: give one of {allowed}, session, user")
    if len(name) > LONGEST_ID:
        raise RequestError(f"'{key}' is longer than {LONGEST_ID} characters", param=key)
    kinds = {"session": "session", "user": "user"}
    kind = _text(body, "target_kind") or kinds.get(key, "record")
    if kind not in get_args(TargetKind):
        raise RequestError(f"'target_kind' is {kind[:80]!r}; it must be record, session or user", param="target_kind")
    return cast("TargetKind", kind), name.strip()


def read_feedback(body: Mapping[str, Json], target_kind: TargetKind, target: str, now: float) -> Feedback:
    """The record of a body whose target is resolved; `now` in seconds since 1970."""
    value, revoked = _value(body)
    comment, correction = _text(body, "comment"), _text(body, "correction")
    said = {"rating": revoked or value is not None, "correction": bool(correction), "comment": bool(comment)}
    kind = _kind(body, said, revoked)
    user = _text(body, "user")
    # A thumb that is pressed again replaces the first, so a rating without an id gets one that says whose and of what.
    default = f"rating-{digest([target_kind, target, user])}" if kind == "rating" else new_id()
    return Feedback(
        id=_text(body, "id") or default, target=target, target_kind=target_kind, at=now, kind=kind, value=value,
        comment=comment, correction=correction, source=_text(body, "source") or "user", user=user,
        supersedes=_text(body, "supersedes"), revoked=revoked,
    )  # fmt: skip


def _kind(body: Mapping[str, Json], said: Mapping[str, bool], revoked: bool) -> FeedbackKind:
    kind = _text(body, "kind") or next((name for name, there in said.items() if there), None)
    if kind is None:
        raise RequestError("the feedback says nothing: give value (or rating), comment, correction or kind")
    if kind not in get_args(FeedbackKind):
        allowed = ", ".join(get_args(FeedbackKind))
        raise RequestError(f"'kind' is {kind[:80]!r}; it must be one of {allowed}", param="kind")
    needed = "correction" if kind == "edit" else kind
    if not said.get(needed, True) and not revoked:
        field = "value" if needed == "rating" else needed
        raise RequestError(f"feedback of kind '{kind}' needs '{field}'", param=field)
    return cast("FeedbackKind", kind)


def _value(body: Mapping[str, Json]) -> tuple[float | None, bool]:
    """The rating from -1 to 1, and whether it takes an earlier one back."""
    given = [key for key in ("value", "rating") if body.get(key) is not None]
    if not given:
        return None, False
    if len(given) > 1:
        raise RequestError("'value' and 'rating' mean the same; give one of them", param="rating")
    value = body[given[0]]
    if isinstance(value, bool):
        return (1.0 if value else -1.0), False
    if isinstance(value, (int, float)) and -1 <= value <= 1:
        return float(value), False
    if isinstance(value, str) and value.strip().lower() in WORDS:
        word = WORDS[value.strip().lower()]
        return word, word is None
    allowed = f"{', '.join(WORDS)}, true, false or a number from -1 (bad) to 1 (good)"
    raise RequestError(f"'{given[0]}' is {str(value)[:80]!r}; it must be one of {allowed}", param=given[0])


def _text(body: Mapping[str, Json], key: str) -> str | None:
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        raise RequestError(f"'{key}' must be a text, not a JSON {type(value).__name__}", param=key)
    return value if value is not None and value.strip() else None
