"""POST /v1/feedback: what a user said about an answer, in our own shape or in another system's.

body -> target (any id the client holds) -> Feedback -> journal -> {"id", "status"}, or the other system's answer

Feedback is never turned away for coming early or for an unknown id: it is kept, and joined when the record comes.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import cast, get_args

from logtune.app.feedback_reading import WORDS, Said, Shape, Target, TargetKind, identified, mapping, rated
from logtune.app.identity import header_user
from logtune.app.journal import Journal, Kept
from logtune.app.redaction import Redaction
from logtune.edges.store import Store
from logtune.errors import RequestError, StoreError
from logtune.ids import digest, new_id
from logtune.records import Feedback, FeedbackKind, Json

RECORD_KEYS = ("target", "log_id", "inference_id", "response_id", "trace_id")
KNOWN_KEYS = frozenset({
    "id", *RECORD_KEYS, "target_kind", "session", "user", "kind", "value", "rating", "comment", "correction", "source",
    "supersedes", "name", "metadata", "tags",
})  # fmt: skip
OWN_ANSWER = re.compile(r"chatcmpl-([0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12})")
REMEMBERED = 100_000  # answers whose id a client may send back
LONGEST_ID = 256
LOOK_S = 1.0  # how long feedback waits for a store that does not answer, before it is taken as it is
SAYING = ("value", "score", "comment", "correction")


class Answers:
    """Which record a name belongs to that its client may use in place of our id: the newest answer of a name counts.

    The store knows the same names, but later: a client may rate an answer before its record is committed, or while the
    store fails.
    """

    def __init__(self, capacity: int = REMEMBERED) -> None:
        self._capacity = capacity
        self._records: OrderedDict[str, str] = OrderedDict()

    def note(self, response: Mapping[str, Json] | None, record_id: str, traces: Sequence[str] = ()) -> None:
        """Remember the id of an answer, and its traces; one that holds the record's own id needs no remembering."""
        answer_id = (response or {}).get("id")
        named = isinstance(answer_id, str) and record_id not in answer_id
        for name in [*([str(answer_id)] if named else []), *traces]:
            if self._records.get(name) != record_id:
                self._records[name] = record_id
                self._records.move_to_end(name)
        while len(self._records) > self._capacity:
            self._records.popitem(last=False)

    def find(self, name: str) -> str | None:
        """The newest record of a name."""
        return self._records.get(name)


class FeedbackApi:
    """Takes feedback in, through the same journal as the records it is about.

    `ranges`: worst and best value of named scores.
    """

    def __init__(
        self, store: Store, journal: Journal, answers: Answers, redaction: Redaction,
        ranges: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:  # fmt: skip
        self._redaction = redaction
        self._store = store
        self._journal = journal
        self._answers = answers
        self._ranges = ranges or {}
        self.heard: Callable[[Feedback, str], None] = lambda feedback, system: None  # told of what was taken in

    async def post(self, body: Mapping[str, Json], now: float) -> tuple[int, dict[str, Json]]:
        """Keep one item; the HTTP status and the answer. RequestError 400 names the field at fault."""
        target = named_target(body)
        (kind, found), known = await self._resolve([target])
        feedback = await self._read(body, kind, found, now)
        stored = _taken(await self._journal.commit(feedback))
        self.heard(feedback, "logtune")
        answer: dict[str, Json] = {"id": feedback.id, "status": "revoked" if feedback.revoked else "stored"}
        if stored and known:
            return 200, answer
        later = f"no {kind} '{target[1]}' yet; it is joined when one comes"
        return 202, {**answer, "status": "accepted", "note": later if stored else "waits until the store answers"}

    async def shaped(
        self, shape: Shape, named: str, body: Json, headers: Mapping[str, str], now: float
    ) -> tuple[int, Json]:
        """Keep feedback in another system's shape; `named` is the id in its path. Status and answer as that system's.

        All of a batch is read before any of it is kept. RequestError 400, and 404 for a change of what is not there.
        """
        old = await self._stored(named) if shape.changes else None
        # A PATCH leaves what it doesn't name; null takes a field away.
        kept = [key for key in SAYING if key not in mapping(body)] if shape.method == "PATCH" else []
        made: list[tuple[Said, Feedback] | RequestError] = []
        for item in shape.read(body, named):
            try:
                if isinstance(item, RequestError):
                    raise item
                made.append((item, await self._made(item, old, header_user(headers), kept, now)))
            except RequestError as error:
                if not shape.partial:
                    raise
                made.append(error)
        new = [item[1] for item in made if not isinstance(item, RequestError) and not item[0].dry]
        for feedback, where in zip(new, await asyncio.gather(*map(self._journal.commit, new)), strict=True):
            _taken(where)
            self.heard(feedback, shape.system)
        return shape.answer(body, [item if isinstance(item, RequestError) else item[1] for item in made])

    async def _made(
        self, item: Said, old: Feedback | None, user: str | None, kept: Sequence[str], now: float
    ) -> Feedback:
        fields: dict[str, Json] = {**({"user": user} if user else {}), **item.fields}
        if item.score is not None:
            value = rated(item, self._ranges)
            fields |= {"value": value, "score": item.score if value is None else None}
        if old is None:
            (kind, target), _ = await self._resolve(item.targets)
            return await self._read(identified(item, fields), kind, target, now)
        before: dict[str, Json] = {key: getattr(old, key) for key in (*kept, "user", "name", "source")}
        return await self._read({**before, **fields}, old.target_kind, old.target, now)

    async def _read(self, fields: Mapping[str, Json], kind: TargetKind, target: str, now: float) -> Feedback:
        """The record, of what may be kept; RequestError as `read_feedback`."""
        size = sum(len(value) for value in fields.values() if isinstance(value, str))
        kept = await self._redaction.made(size, lambda: self._redaction.feedback(fields))
        return read_feedback(kept, kind, target, now)

    async def _stored(self, named: str) -> Feedback:
        feedback_id = self._redaction.name(named)
        try:
            found = await asyncio.wait_for(asyncio.to_thread(self._store.feedback_by_id, [feedback_id]), LOOK_S)
        except (StoreError, TimeoutError) as error:
            raise RequestError("the store does not answer; try again", 503) from error
        if feedback_id not in found:
            raise RequestError(f"there is no feedback '{feedback_id}'", 404, code="feedback_not_found")
        return found[feedback_id]

    async def _resolve(self, targets: Sequence[Target]) -> tuple[Target, bool]:
        """The first target that there is, by the id that records have, and whether there is one."""
        try:
            async with asyncio.timeout(LOOK_S):
                await self._journal.caught_up()  # the answer may be a moment old
                found = await asyncio.to_thread(self._found, targets)
        except (StoreError, TimeoutError):  # a store that fails must not cost the feedback
            found = None
        if found is not None:
            return found, True
        kind, name = targets[0]
        return (kind, self._guesses(name)[0] if kind == "record" else self._redaction.name(name)), False

    def _found(self, targets: Sequence[Target]) -> Target | None:
        for kind, name in targets:
            kept = self._redaction.name(name)
            guesses = self._guesses(name) if kind == "record" else [kept]
            known = self._store.known(kind, guesses)
            other = self._store.named([kept]).get(kept) if kind == "record" else None
            exact = next((guess for guess in guesses if guess in known), None)
            if exact or other:
                # A trace may have many answers, some given by other processes; our ids sort by time.
                newest = [self._answers.find(name)] if kind == "record" else []
                return kind, max(filter(None, (exact, other, *newest)))
        return None

    def _guesses(self, name: str) -> list[str]:
        """Ids of records that a name may mean, the likeliest first."""
        own = OWN_ANSWER.fullmatch(name)
        kept = self._redaction.name(name)
        return [guess for guess in (self._answers.find(name), own[1] if own else None, kept) if guess]


def _taken(where: Kept) -> Kept:
    if where is Kept.DROPPED:
        what = "the gateway can keep nothing now: neither its store nor its spool takes the feedback"
        raise RequestError(what, 503, code="records_full", headers={"retry-after": "5"})
    return where


def named_target(body: Mapping[str, Json]) -> Target:
    """What the feedback is about, as the client names it."""
    for key in body:
        if key not in KNOWN_KEYS:
            close = get_close_matches(key, KNOWN_KEYS, 1)
            guess = f"did you mean '{close[0]}'? " if close else ""
            allowed = ", ".join(sorted(KNOWN_KEYS))
            raise RequestError(f"unknown field '{key[:80]}'; {guess}allowed: {allowed}", param=key[:80])
    found = {key: _text(body, key) for key in (*RECORD_KEYS, "session", "user")}
    given = [key for key in (*RECORD_KEYS, "session") if found[key]]
    if len(given) > 1:
        raise RequestError(f"{' and '.join(given)} each name a target; give one of them", param=given[-1])
    key = next(iter(given), "user")
    name = found[key]
    if name is None:
        allowed = ", ".join(RECORD_KEYS)
        raise RequestError(f"nothing says what the feedback is about: give one of {allowed}, session, user")
    if len(name) > LONGEST_ID:
        raise RequestError(f"'{key}' is longer than {LONGEST_ID} characters", param=key)
    kinds = {"session": "session", "user": "user"}
    kind = body.get("target_kind")
    kind = kinds.get(key, "record") if kind is None else kind
    if not isinstance(kind, str) or kind not in get_args(TargetKind):
        raise RequestError(
            f"'target_kind' is {str(kind)[:80]!r}; it must be record, session or user", param="target_kind"
        )
    return cast("TargetKind", kind), name.strip()


def read_feedback(body: Mapping[str, Json], target_kind: TargetKind, target: str, now: float) -> Feedback:
    """The record of a body whose target is resolved; `now` in seconds since 1970."""
    for key in ("id", "user", "name", "source", "supersedes"):
        if len(_text(body, key) or "") > LONGEST_ID:
            raise RequestError(f"'{key}' is longer than {LONGEST_ID} characters", param=key)
    if not 0 < len(target) <= LONGEST_ID:
        raise RequestError(f"what the feedback is about has a name of 1 to {LONGEST_ID} characters", param="target")
    value, revoked = _value(body)
    comment, correction = _text(body, "comment"), _text(body, "correction")
    score = cast("float | None", body.get("score"))  # of other systems' shapes alone
    said = {
        "rating": revoked or value is not None or score is not None,
        "correction": bool(correction),
        "comment": bool(comment),
    }
    kind = _kind(body, said, revoked)
    user, name = _text(body, "user"), _text(body, "name") or ""
    # A thumb that is pressed again replaces the first, so a rating without an id gets one that says whose and of what.
    whose = [target_kind, target, user, *([name] if name else [])]
    default = f"rating-{digest(whose)}" if kind == "rating" else new_id()
    return Feedback(
        id=_text(body, "id") or default, target=target, target_kind=target_kind, at=now, kind=kind, value=value,
        score=score, comment=comment, correction=correction, source=_text(body, "source") or "user", name=name,
        user=user, supersedes=_text(body, "supersedes"), revoked=revoked,
    )  # fmt: skip


def _kind(body: Mapping[str, Json], said: Mapping[str, bool], revoked: bool) -> FeedbackKind:
    kind = body.get("kind")
    if kind is None:
        kind = next((name for name, there in said.items() if there), None)
    if kind is None:
        raise RequestError("the feedback says nothing: give value (or rating), comment, correction or kind")
    if not isinstance(kind, str) or kind not in get_args(FeedbackKind):
        allowed = ", ".join(get_args(FeedbackKind))
        raise RequestError(f"'kind' is {str(kind)[:80]!r}; it must be one of {allowed}", param="kind")
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
