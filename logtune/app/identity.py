"""Who is asking, in which conversation, and under which other ids the client will know the answer.

request body, headers -> Identity, with the place each was read from

Order: the body, because the application put it there for this call; then headers, which proxies and chat front ends
add; for the session at last a hash of the conversation's first messages, which all its turns share.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from logtune.ids import digest
from logtune.records import Json

LONGEST = 256  # characters of a user, session or trace
MOST_TRACES = 8  # other ids of one request that are kept
USER_KEYS = ("user_id", "langfuse_user_id", "trace_user_id")  # of metadata
USER_HEADERS = (
    "x-user-id", "x-openwebui-user-id", "helicone-user-id", "x-litellm-end-user-id", "langfuse_user_id",
    "langfuse_trace_user_id",
)  # fmt: skip
SESSION_KEYS = ("session_id", "langfuse_session_id", "conversation_id", "chat_id")
SESSION_HEADERS = (
    "x-session-id", "x-openwebui-chat-id", "helicone-session-id", "x-conversation-id", "x-chat-id", "session-id",
    "session_id", "langfuse_session_id", "x-litellm-session-id",
)  # fmt: skip
EPISODE = "tensorzero::episode_id"  # TensorZero's word for a conversation, in the body
TRACE_KEYS = ("trace_id", "langfuse_trace_id", "existing_trace_id", "generation_id", "run_id", "message_id")
TRACE_HEADERS = (
    "x-portkey-trace-id", "langfuse_trace_id", "langfuse_existing_trace_id", "x-litellm-trace-id", "x-litellm-call-id",
    "helicone-request-id", "x-openwebui-message-id", "x-client-request-id", "x-request-id",
)  # fmt: skip
# A request without any of these names nobody in its headers.
NAMING = frozenset({
    *USER_HEADERS, *SESSION_HEADERS, *TRACE_HEADERS, "x-portkey-metadata", "traceparent", "langsmith-trace",
})  # fmt: skip
TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")  # W3C Trace Context, 3.2
DOTTED_RUN = re.compile(r"Z([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")  # LangSmith: time and run of each ancestor


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A user and a session as the client named them; a source is "" where there is none."""

    user: str | None
    user_source: str
    session: str | None
    session_source: str
    traces: tuple[str, ...] = ()  # ids of the trace, span, message or request, by which feedback may name the answer


def identify(body: Mapping[str, Json], headers: Mapping[str, str]) -> Identity:
    """User, session and traces of a chat request; `headers` has lower-case names."""
    headers = {} if NAMING.isdisjoint(headers) else headers
    metadata = body.get("metadata")
    fields = metadata if isinstance(metadata, dict) else {}
    user, user_source = _first(chain(
        [("body.user", body.get("user"))], _of(fields, USER_KEYS), _user_headers(headers)
    ))  # fmt: skip
    session, session_source = _first(chain(
        _of(fields, SESSION_KEYS), [(f"body.{EPISODE}", body.get(EPISODE))],
        ((name, headers.get(name)) for name in SESSION_HEADERS),
    ))  # fmt: skip
    if session is None:
        session, session_source = _prefix(body.get("messages"), user)
    return Identity(
        user=user, user_source=user_source, session=session, session_source=session_source,
        traces=_traces(fields, headers),
    )  # fmt: skip


def header_user(headers: Mapping[str, str]) -> str | None:
    """The user whom a proxy or chat front end names beside a request."""
    return _first(_user_headers(headers))[0]


def _user_headers(headers: Mapping[str, str]) -> Iterator[tuple[str, Json]]:
    if not headers:
        return
    yield from ((name, headers.get(name)) for name in USER_HEADERS)
    yield "x-portkey-metadata._user", _json_object(headers.get("x-portkey-metadata", "")).get("_user")


def _traces(metadata: Mapping[str, Json], headers: Mapping[str, str]) -> tuple[str, ...]:
    if not metadata and not headers:
        return ()
    found = [metadata.get(key) for key in TRACE_KEYS] + [headers.get(name) for name in TRACE_HEADERS]
    parent = TRACEPARENT.fullmatch(headers.get("traceparent", "").strip().lower())
    found += parent.groups() if parent else ()
    found += DOTTED_RUN.findall(headers.get("langsmith-trace", ""))[-2:]
    return tuple(dict.fromkeys(filter(None, [_name(value) for value in found if value])))[:MOST_TRACES]


def _json_object(text: str) -> dict[str, Json]:
    try:
        value = json.loads(text) if text.startswith("{") else None
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {}


def _of(fields: Mapping[str, Json], keys: tuple[str, ...]) -> Iterator[tuple[str, Json]]:
    return ((f"metadata.{key}", fields.get(key)) for key in keys)


def _first(places: Iterable[tuple[str, Json]]) -> tuple[str | None, str]:
    for source, value in places:
        name = _name(value) if value is not None else ""
        if name:
            return name, source
    return None, ""


def _name(value: Json) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return ""
    text = str(value)
    return (text if text.isprintable() else "".join(filter(str.isprintable, text))).strip()[:LONGEST]


def _prefix(messages: Json, user: str | None) -> tuple[str | None, str]:
    """Everything up to the first user message: the same for every turn of a conversation."""
    if not isinstance(messages, list):
        return None, ""
    for number, message in enumerate(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            return f"prefix-{digest([user, messages[: number + 1]])}", "prefix"
    return None, ""


def last_user_text(body: Mapping[str, Json]) -> str:
    """The text of the last user message; "" when there is none."""
    messages = body.get("messages")
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, dict) and message.get("role") == "user":
            return text_of(message.get("content"))
    return ""


def text_of(content: Json) -> str:
    """A message's text: a string, or the text parts of a list joined by newlines."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    return "\n".join(text for text in texts if isinstance(text, str))
