"""What every shape of feedback is read with: the fields of our own shape, targets, scores on one scale.

JSON of any shape -> Said (fields of our own shape, what they may be about) -> rated: a value from -1 to 1
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from logtune.errors import RequestError
from logtune.ids import digest, new_id
from logtune.records import Feedback, Json

TargetKind: TypeAlias = Literal["record", "session", "user"]
Target: TypeAlias = tuple[TargetKind, str]
Outcome: TypeAlias = Feedback | RequestError
PREFIX = "/compat"
MOST = 1000  # pieces of feedback in one request
WORDS: Mapping[str, float | None] = {
    "up": 1.0, "like": 1.0, "good": 1.0, "positive": 1.0, "down": -1.0, "dislike": -1.0, "bad": -1.0, "negative": -1.0,
    "neutral": None,
}  # fmt: skip
REVOKED: dict[str, Json] = {"value": "neutral"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One piece of feedback in the fields of our own shape."""

    system: str
    fields: dict[str, Json]  # without target and value where `score` holds that
    targets: tuple[Target, ...]  # what it may be about, the surest first; empty: what is stored under the same id says
    score: float | None = None  # read by the range that serve.scores has for the name (else the system), else `scale`
    scale: tuple[float, float] | None = None  # worst and best, as the system says; None: it says none
    weight: float = 1.0
    dry: bool = False  # check it, keep nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One call of another system's API; {id} in the path stands for one segment."""

    system: str
    method: str
    path: str  # after /compat/<system>
    about: str
    read: Callable[[Json, str], Sequence[Said | RequestError]]
    answer: Callable[[Json, Sequence[Outcome]], tuple[int, Json]]
    changes: bool = False  # of feedback that is there, under {id}
    partial: bool = False  # the good ones of a batch are kept though others are bad

    @property
    def full_path(self) -> str:
        """The path at the gateway."""
        return f"{PREFIX}/{self.system}{self.path}"


def rated(said: Said, ranges: Mapping[str, tuple[float, float]]) -> float | None:
    """The score on our scale from -1 to 1; None where its range is another one, which nobody has told.

    RequestError outside of the range that the system itself says.
    """
    name, score = str(said.fields.get("name") or said.system), said.score or 0.0
    worst, best = ranges.get(name) or said.scale or _unit(score)
    if not min(worst, best) <= score <= max(worst, best):
        if said.scale is None or name in ranges:
            return None
        mend = f'say so in the settings: serve.scores = ["{name[:40]}=WORST..BEST"]'
        raise RequestError(
            f"{score:g} is not from {worst:g} (bad) to {best:g} (good); if '{name[:80]}' runs otherwise, {mend}"
        )
    return (2 * (score - worst) / (best - worst) - 1) * said.weight


# reading


def json_object(body: Json) -> dict[str, Json]:
    """The body as an object; RequestError 400."""
    if not isinstance(body, dict):
        raise RequestError("the feedback is no JSON object")
    return body


def json_list(body: Json, what: str = "the request body") -> list[Json]:
    """The body as a list of a bearable length; RequestError 400."""
    if not isinstance(body, list) or not 0 < len(body) <= MOST:
        raise RequestError(f"{what} must be a list of 1 to {MOST}")
    return body


def text(fields: Mapping[str, Json], key: str) -> str:
    """A text without the space around it, "" when it is missing; RequestError 400."""
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise RequestError(f"'{key}' must be a text, not a JSON {type(value).__name__}", param=key)
    return (value or "").strip()


def needed(fields: Mapping[str, Json], key: str) -> str:
    """A text that must be there; RequestError 400."""
    found = text(fields, key)
    if not found:
        raise RequestError(f"'{key}' is missing", param=key)
    return found


def number(value: Json) -> float | None:
    """A number, true and false as 1 and 0; None: it is none."""
    return float(value) if isinstance(value, (bool, int, float)) and abs(value) < 1e308 else None


def mapping(value: Json) -> dict[str, Json]:
    """An object, also one that came as a text of JSON."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def user_in(metadata: Json) -> Json:
    """The user that metadata or tags name."""
    found = mapping(metadata)
    return next((found[key] for key in ("user_id", "userId", "_user", "user") if isinstance(found.get(key), str)), None)


def _unit(score: float) -> tuple[float, float]:
    """Worst and best of a score that says no range: 0..1, or -1..1 where it is below 0."""
    return (0.0, 1.0) if score >= 0 else (-1.0, 1.0)


def targets_of(*named: tuple[TargetKind, str]) -> tuple[Target, ...]:
    """The targets that have a name."""
    return tuple((kind, name) for kind, name in named if name)


def label(name: str, word: str) -> dict[str, Json]:
    """A category: a rating where its word says good or bad, else a comment that quotes it."""
    return {"value": word} if word.lower() in WORDS else {"comment": f"{name}: {word}" if word else None}


def said(
    system: str, fields: Mapping[str, Json], targets: tuple[Target, ...], score: float | None = None,
    scale: tuple[float, float] | None = None, *, weight: float = 1.0, dry: bool = False,
) -> Said:  # fmt: skip
    """Feedback with the fields that hold something."""
    given: dict[str, Json] = {key: value for key, value in fields.items() if value not in (None, "")}
    return Said(system=system, fields=given, targets=targets, score=score, weight=weight, dry=dry, scale=scale)


def identified(item: Said, fields: dict[str, Json]) -> dict[str, Json]:
    """The fields with an id: that of a rating says whose and of what, so that the next one replaces it."""
    if fields.get("id"):
        return fields
    about: list[Json] = [[kind, name] for kind, name in item.targets]
    whose: list[Json] = [item.system, about, fields.get("user"), fields.get("name")]
    return {**fields, "id": uuid_of(whose) if "value" in fields else new_id()}


def uuid_of(value: Json) -> str:
    """A UUIDv8 (RFC 9562) that is a hash: clients of some systems read ids as UUIDs."""
    h = digest(value, 32)
    return f"{h[:8]}-{h[8:12]}-8{h[13:16]}-{'89ab'[int(h[16], 16) % 4]}{h[17:20]}-{h[20:]}"


def first(outcomes: Sequence[Outcome]) -> Feedback:
    """What the first good one became."""
    return next(item for item in outcomes if isinstance(item, Feedback))


def revoked(system: str) -> Callable[[Json, str], list[Said | RequestError]]:
    """Reads a DELETE."""
    return lambda _, name: [Said(system=system, fields={**REVOKED, "id": name}, targets=())]
