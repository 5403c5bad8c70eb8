"""One JSON object of a log file -> LogRecord*, Feedback*: the shapes of docs/reference/log-format.md.

    own     {"id", "request" | "messages", "response" | "answer", "at", "user", "session", "feedback"}     one record
    chat    {"messages": [...]}                                       one record an assistant turn, and a last open turn
    feedback {"log_id" | "session" | "user", "rating", "comment", "correction"}

What cannot be used raises Bad with a reason code. Nothing here touches a file or the store.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate
from types import MappingProxyType
from typing import Literal, TypeAlias, cast, get_args

from logtune.edges.json_lines import Bad, Object
from logtune.ids import digest
from logtune.records import Feedback, FeedbackKind, Json, LogRecord

TargetKind: TypeAlias = Literal["record", "session", "user"]

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
RATINGS: Mapping[str, float | None] = MappingProxyType({"up": 1.0, "down": -1.0, "neutral": None})
SILENT = frozenset({"copy", "accept", "regenerate", "abandon"})  # kinds that say something without words or a number
OPEN = frozenset({"user", "tool", "function"})  # after a last message of these an answer is missing
OWN = frozenset({"request", "response", "answer"})
SAID = frozenset({"kind", "value", "rating", "comment", "correction", "revoked"})
TARGETS: Mapping[str, TargetKind] = MappingProxyType(
    {
        "log_id": "record", "target": "record", "session": "session", "session_id": "session", "user": "user",
        "user_id": "user",
    }
)  # fmt: skip
MAX_NAME = 500  # characters of an id, user or session: an index of PostgreSQL holds 2,700 bytes
LARGEST = 1e300  # whole numbers of JSON can be larger than any float
MAX_CONVERSATION = 100_000_000  # characters of all its records
MAX_TIME = 1e11  # seconds; larger numbers are milliseconds
TURN_S = 1e-5  # undated turns of one conversation lie this far apart, so that they keep their order


@dataclass(frozen=True, slots=True)
class Parsed:
    """A record of a line; `dated` is False where its time is only the file's."""

    record: LogRecord | Feedback
    dated: bool


def shape(line: Object) -> str:
    """What a line looks like: logtune, openai-chat, feedback, or "" for none of them."""
    if OWN & line.keys():
        return "logtune"
    if "messages" in line:
        return "openai-chat"
    return "feedback" if TARGETS.keys() & line.keys() and SAID & line.keys() else ""


def own_line(line: Object, at: float) -> Iterator[Parsed | Bad]:
    """The record of a line of our own format, and its feedback; `at` is the time of a line that names none."""
    if shape(line) == "feedback":
        yield feedback_line(line, at)
        return
    given = line.get("request")
    request = _request(line) if given is None else _object(given, "request")
    _messages(request.get("messages"), "request.messages")
    log = _log(line, request, _response(line), "logtune", _time(line, at))
    yield Parsed(log, _is_dated(line))
    yield from _inline(line, log.id, "record", log.at)


def chat_line(line: Object, at: float) -> Iterator[Parsed | Bad]:
    """The records of a line of OpenAI chat JSONL: one for each answer of the conversation, and one for an open turn."""
    if shape(line) != "openai-chat":
        yield from own_line(line, at)
        return
    messages = _messages(line["messages"], "messages")
    ends = answers(messages)
    if not ends:
        raise Bad("missing_field", "no message of a user")
    _refuse_huge(messages, ends)
    name = _name(line, "id") or f"openai-chat:{digest([messages, _user(line, {}), _session(line, {}), line.get('at')])}"
    whole = {**line, "session": _session(line, {}) or name}
    last = _time(line, at)
    for number, end in enumerate(ends):
        turn = {**whole, "id": name if number == 0 else f"{name}/{number + 1}"}
        request = _request({**line, "messages": cast("Json", messages[:end])})
        response = _completion(messages[end]) if end < len(messages) else None
        log = _log(turn, request, response, "openai-chat", last - (len(ends) - 1 - number) * TURN_S)
        yield Parsed(log, _is_dated(line))
    if len(ends) == 1:
        yield from _inline(line, name, "record", last)
    else:
        yield from _inline(line, str(whole["session"]), "session", last)


def answers(messages: Sequence[Object]) -> list[int]:
    """Where each record of a conversation ends: at every answer that follows a user's turn, and after an open turn."""
    first = next((at for at, message in enumerate(messages) if message["role"] == "user"), len(messages))
    ends = [at for at in range(first, len(messages)) if messages[at]["role"] == "assistant"]
    is_open = first < len(messages) and messages[-1]["role"] in OPEN
    return [*ends, len(messages)] if is_open else ends


def _refuse_huge(messages: Sequence[Object], ends: Sequence[int]) -> None:
    """Each record holds the turns before it, so the records of a conversation grow with the square of its length."""
    sizes = accumulate((len(str(message.get("content"))) + 40 for message in messages), initial=0)
    upto = list(sizes)
    total = sum(upto[end] for end in ends)
    if total > MAX_CONVERSATION:
        raise Bad("too_long", f"a conversation of {len(ends)} answers whose records would take {total // 1_000_000} MB")


def feedback_line(line: Object, at: float) -> Parsed:
    """One feedback on a record, a session or a user."""
    return _feedback(line, None, at)


def _inline(line: Object, target: str, kind: TargetKind, at: float) -> Iterator[Parsed | Bad]:
    given = line.get("feedback")
    items = given if isinstance(given, list) else [] if given is None else [given]
    for item in items:
        try:
            yield _feedback(_object(item, "feedback"), (target, kind), at)
        except Bad as error:
            yield error


def _feedback(line: Object, default: tuple[str, TargetKind] | None, at: float) -> Parsed:
    target, kind = _target(line, default)
    value, revoked = _rating(line)
    comment, correction = _text(line, "comment") or None, _text(line, "correction") or None
    chosen = _kind(line, value, comment, correction)
    if value is None and not (revoked or comment or correction) and chosen not in SILENT:
        raise Bad("missing_field", "feedback says nothing: no rating, comment or correction")
    dated = _is_dated(line)
    given = _time(line, at)
    said = [target, kind, chosen, value, comment, correction, revoked, _user(line, {}), given if dated else None]
    record = Feedback(
        id=_name(line, "id") or f"feedback:{digest(said)}", target=target, at=given, target_kind=kind, kind=chosen,
        value=value, comment=comment, correction=correction, source=_name(line, "source") or "user",
        user=_user(line, {}), supersedes=_name(line, "supersedes"), revoked=revoked,
    )  # fmt: skip
    return Parsed(record, dated)


def _target(line: Object, default: tuple[str, TargetKind] | None) -> tuple[str, TargetKind]:
    """What feedback is about. Inside a log, its `user` is who said it, and the log is what it is about."""
    for key, kind in TARGETS.items():
        name = None if default and kind == "user" else _name(line, key)
        if name is not None:
            told = line.get("target_kind") if key == "target" else None
            if told not in (None, *get_args(TargetKind)):
                raise Bad("wrong_type", f"target_kind is {_shown(told)}; allowed: {', '.join(get_args(TargetKind))}")
            return name, cast("TargetKind", told or kind)
    if default is None:
        raise Bad("missing_field", "feedback needs one of log_id, session or user")
    return default


def _rating(line: Object) -> tuple[float | None, bool]:
    """The rating in -1..1, and whether it revokes what was said before."""
    given = line.get("value", line.get("rating"))
    revoked = line.get("revoked", False)
    if not isinstance(revoked, bool):
        raise Bad("wrong_type", f"revoked is {_shown(revoked)}, not true or false")
    if given is None:
        return None, revoked
    if isinstance(given, bool):
        return (1.0 if given else -1.0), revoked
    if isinstance(given, str) and given.lower() in RATINGS:
        value = RATINGS[given.lower()]
        return value, revoked or value is None
    if isinstance(given, (int, float)) and -1 <= given <= 1:
        return float(given), revoked
    raise Bad("bad_rating", f"the rating is {_shown(given)}; allowed: up, down, neutral, true, false, -1..1")


def _kind(line: Object, value: float | None, comment: str | None, correction: str | None) -> FeedbackKind:
    given = line.get("kind")
    if given is None:
        return "correction" if correction else "comment" if comment and value is None else "rating"
    if given not in get_args(FeedbackKind):
        raise Bad("unknown_kind", f"kind is {_shown(given)}; allowed: {', '.join(get_args(FeedbackKind))}")
    return cast("FeedbackKind", given)


def _log(line: Object, request: Object, response: Object | None, source: str, at: float) -> LogRecord:
    user, session = _user(line, request), _session(line, request)
    told = at if _is_dated(line) else None
    model = _name(line, "model") or _name(request, "model") or _name(response or {}, "model") or ""
    usage = line.get("usage") or (response or {}).get("usage") or {}
    return LogRecord(
        id=_name(line, "id") or f"{source}:{digest([request, response, user, session, model, told])}",
        request=request, response=response, at=at, model=model, adapter=_name(line, "adapter"), arm=_name(line, "arm"),
        cluster=_name(line, "cluster"), user=user, session=session, source=_name(line, "source") or source,
        error=_text(line, "error"), route_reason=_text(line, "route_reason") or "",
        latency_ms=_number(line, "latency_ms"), usage=_object(usage, "usage"),
    )  # fmt: skip


def _request(line: Object) -> Object:
    """The request that a line with bare messages stands for."""
    if "messages" not in line:
        raise Bad("missing_field", "a log needs request or messages")
    return {key: line[key] for key in ("model", "messages", "tools") if line.get(key) is not None}


def _response(line: Object) -> Object | None:
    given = line.get("response")
    if given is None:
        text = _text(line, "answer")
        return None if text is None else _completion({"role": "assistant", "content": text})
    response = _object(given, "response")
    choices = response.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict):
        raise Bad("missing_field", "response.choices holds no answer")
    _message(first.get("message"), "response.choices[0].message")
    return response


def _completion(message: Object) -> Object:
    """The chat completion body that a bare answer stands for."""
    choice: dict[str, Json] = {"index": 0, "message": dict(message), "finish_reason": "stop"}
    return {"object": "chat.completion", "choices": [choice]}


def _messages(value: Json, where: str) -> list[Object]:
    if value is None:
        raise Bad("missing_field", f"{where} is missing")
    if not isinstance(value, list):
        raise Bad("wrong_type", f"{where} is {_shown(value)}, not a list")
    if not value:
        raise Bad("missing_field", f"{where} is empty")
    return [_message(item, f"{where}[{number}]") for number, item in enumerate(value)]


def _message(value: Json, where: str) -> Object:
    message = _object(value, where)
    role, content = message.get("role"), message.get("content")
    if role is None:
        raise Bad("missing_field", f"{where}.role is missing")
    if not isinstance(role, str) or role not in ROLES:
        raise Bad("unknown_role", f"{where}.role is {_shown(role)}; allowed: {', '.join(sorted(ROLES))}")
    if content is None and role != "assistant":
        raise Bad("missing_field", f"{where}.content is missing")
    if not (content is None or isinstance(content, str) or _is_parts(content)):
        raise Bad("wrong_type", f"{where}.content is {_shown(content)}, not a text or a list of parts")
    return message


def _is_parts(content: Json) -> bool:
    """Whether a content is a list of parts, each with a type, and those of type text with a text."""
    return isinstance(content, list) and all(
        isinstance(part, dict)
        and isinstance(part.get("type"), str)
        and (part["type"] != "text" or isinstance(part.get("text"), str))
        for part in content
    )


def _user(line: Object, request: Object) -> str | None:
    return _name(line, "user") or _name(line, "user_id") or _name(request, "user") or _from_metadata(request, "user_id")


def _session(line: Object, request: Object) -> str | None:
    return _name(line, "session") or _name(line, "session_id") or _from_metadata(request, "session_id")


def _from_metadata(request: Object, key: str) -> str | None:
    metadata = request.get("metadata")
    return _name(metadata, key) if isinstance(metadata, dict) else None


def _name(line: Object, key: str) -> str | None:
    """A short text that names something; whole numbers are names too; empty is none."""
    value = line.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise Bad("wrong_type", f"{key} is {_shown(value)}, not a text of at most {MAX_NAME} characters")
    return value


def _text(line: Object, key: str) -> str | None:
    value = line.get(key)
    if value is not None and not isinstance(value, str):
        raise Bad("wrong_type", f"{key} is {_shown(value)}, not a text")
    return value


def _number(line: Object, key: str) -> float | None:
    value = line.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > LARGEST:
        raise Bad("wrong_type", f"{key} is {_shown(value)}, not a number")
    return float(value)


def _is_dated(line: Object) -> bool:
    return line.get("at") is not None


def _time(line: Object, default: float) -> float:
    """Seconds since 1970 of the line's `at`: a number of seconds or milliseconds, or an ISO 8601 text (UTC if bare)."""
    value = line.get("at")
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError as error:
            raise Bad("wrong_type", f"at is {_shown(value)}, not seconds since 1970 or an ISO 8601 time") from error
        number: float | None = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    else:
        number = _number(line, "at")
    if number is None:
        return default
    seconds = number / 1000 if number > MAX_TIME else number
    if not 0 <= seconds <= MAX_TIME:
        raise Bad("wrong_type", f"at is {_shown(value)}, not a time after 1970")
    return seconds


def _object(value: Json, where: str) -> Object:
    if not isinstance(value, dict):
        raise Bad("wrong_type", f"{where} is {_shown(value)}, not an object")
    return value


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
